"""The parent's side of a worker process: ask, wait with a limit, say how it died."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from typing import Any, Self

from odedeploy import errors
from odedeploy.cgroups import Group
from odedeploy.errors import BadInput, Crashed, OdeDeployError

_KINDS: dict[str, type[OdeDeployError]] = {
    cls.__name__: cls for cls in (BadInput, errors.FellShort, errors.Unusable, Crashed)
}


class Worker:
    """One fresh ``odedeploy.profiling.worker``, which finds modules where this process does.

    Use as a context manager: leaving it ends the process. ``quota`` is the processor time that it
    may use in a second, in CPUs.

    Raises Unusable where it cannot be given that quota.
    """

    def __init__(self, quota: float | None = None) -> None:
        self._group = None if quota is None else Group(quota)
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        paths = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "odedeploy.profiling.worker", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={**os.environ, "PYTHONPATH": paths},
            encoding="utf-8",
        )
        self._answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()
        if self._group is not None:
            try:
                self._group.add(self._process.pid)
            except OdeDeployError:
                self.stop()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def ask(self, do: str, timeout: float, **request: Any) -> dict[str, Any]:
        """The worker's answer.

        Raises Crashed when it dies or takes longer than ``timeout`` seconds (it is then killed),
        and what it answers as an error: FellShort, Unusable or BadInput.
        """
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self._process.stdin.flush()
            line = self._answers.get(timeout=timeout)
        except queue.Empty:
            self.stop()
            raise Crashed(
                f"The worker gave no answer to {do!r} within {timeout:g} s and was stopped."
            ) from None
        except OSError:
            line = None
        if line is None:
            raise Crashed(self._death(do))
        answer: Mapping[str, Any] = json.loads(line)
        if "error" in answer:
            if answer["kind"] == "MemoryError":
                raise Crashed(f"The worker ran out of memory during {do!r}: {answer['error']}.")
            raise _KINDS.get(answer["kind"], BadInput)(answer["error"])
        return dict(answer)

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._stderr):
            try:
                if stream is not None:
                    stream.close()
            except OSError:
                pass
        if self._group is not None:
            self._group.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._answers.put(line)
        self._answers.put(None)

    def _death(self, do: str) -> str:
        code = self._process.wait()
        how = f"exit status {code}" if code >= 0 else signal.Signals(-code).name
        self._stderr.seek(0)
        words = self._stderr.read().decode(errors="replace").strip().splitlines()
        if code == -getattr(signal, "SIGKILL", 0):
            how += ", which is how the system ends what takes too much memory,"
        last = f"; its last words were: {words[-1][:300]}" if words else ""
        return f"The worker died of {how} during {do!r}{last}."
