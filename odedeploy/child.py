"""A process that answers each JSON line with one: ask, wait with a limit, say how it died."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Self

from odedeploy.errors import Crashed


class Child:
    """A fresh process of ``command``, called ``title`` in what is said of it.

    It ends with its stdin. What it writes to stderr is kept for its last words. Use as a context
    manager: leaving it ends the process.
    """

    def __init__(
        self, title: str, command: Sequence[str], env: Mapping[str, str] | None = None
    ) -> None:
        self.title = title
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=env,
            encoding="utf-8",
        )
        self._answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, do: str, timeout: float | None, **request: Any) -> dict[str, Any]:
        """Its answer to a request.

        Raises Crashed when it dies or takes longer than ``timeout`` seconds; it is then killed.
        """
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self._process.stdin.flush()
            line = self._answers.get(timeout=timeout)
        except queue.Empty:
            self.stop()
            raise Crashed(
                f"{self.title} gave no answer to {do!r} within {timeout:g} s and was stopped."
            ) from None
        except (OSError, ValueError):  # ValueError: it was stopped before
            line = None
        if line is None:
            raise Crashed(self._death(do))
        answer: dict[str, Any] = json.loads(line)
        return answer

    def finish(self, seconds: float) -> None:
        """End its stdin, and the process when that does not within ``seconds``."""
        with suppress(OSError, subprocess.TimeoutExpired):
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait(seconds)
        self.stop()

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._stderr):
            with suppress(OSError):
                if stream is not None:
                    stream.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._answers.put(line)
        self._answers.put(None)

    def _death(self, do: str) -> str:
        code = self._process.wait()
        how = f"exit status {code}" if code >= 0 else signal.Signals(-code).name
        words = self._last_words()
        if code == -getattr(signal, "SIGKILL", 0):
            how += ", which is how the system ends what takes too much memory,"
        last = f"; its last words were: {words[-1][:300]}" if words else ""
        return f"{self.title} died of {how} during {do!r}{last}."

    def _last_words(self) -> list[str]:
        if self._stderr.closed:
            return []
        self._stderr.seek(0)
        return self._stderr.read().decode(errors="replace").strip().splitlines()
