"""The parent's side of a worker process."""

from __future__ import annotations

import os
import sys
from typing import Any

from odedeploy import errors
from odedeploy.cgroups import Group
from odedeploy.child import Child
from odedeploy.errors import BadInput, Crashed, OdeDeployError

_KINDS: dict[str, type[OdeDeployError]] = {
    cls.__name__: cls for cls in (BadInput, errors.FellShort, errors.Unusable, Crashed)
}


class Worker(Child):
    """One fresh ``odedeploy.profiling.worker``, which finds modules where this process does.

    ``quota`` is the processor time that it may use in a second, in CPUs. Raises Unusable where it
    cannot be given that quota.
    """

    def __init__(self, quota: float | None = None) -> None:
        self._group = None if quota is None else Group(quota)
        paths = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        super().__init__(
            "The worker",
            [sys.executable, "-P", "-m", "odedeploy.profiling.worker", str(os.getpid())],
            {**os.environ, "PYTHONPATH": paths},
        )
        if self._group is not None:
            try:
                self._group.add(self._process.pid)
            except OdeDeployError:
                self.stop()
                raise

    def ask(self, do: str, timeout: float | None, **request: Any) -> dict[str, Any]:
        """The worker's answer.

        Raises Crashed when it dies or takes longer than ``timeout`` seconds (it is then killed),
        and what it answers as an error: FellShort, Unusable or BadInput.
        """
        answer = super().ask(do, timeout, **request)
        if "error" in answer:
            if answer["kind"] == "MemoryError":
                raise Crashed(f"The worker ran out of memory during {do!r}: {answer['error']}.")
            raise _KINDS.get(answer["kind"], BadInput)(answer["error"])
        return answer

    def stop(self) -> None:
        super().stop()
        if self._group is not None:
            self._group.close()
