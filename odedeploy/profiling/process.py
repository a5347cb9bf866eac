"""The parent's side of a worker process."""

from __future__ import annotations

import os
import sys
from typing import Any

from odedeploy import errors
from odedeploy.child import Child
from odedeploy.errors import BadInput, Crashed, OdeDeployError

_KINDS: dict[str, type[OdeDeployError]] = {
    cls.__name__: cls for cls in (BadInput, errors.FellShort, errors.Unusable, Crashed)
}


class Worker(Child):
    """One fresh ``odedeploy.profiling.worker``, which finds modules where this process does."""

    def __init__(self) -> None:
        paths = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        super().__init__(
            "The worker",
            [sys.executable, "-P", "-m", "odedeploy.profiling.worker", str(os.getpid())],
            {**os.environ, "PYTHONPATH": paths},
        )

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
