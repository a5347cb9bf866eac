"""Python in which importing torch fails."""

from __future__ import annotations

import subprocess
import sys

_BLOCK = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchdiffeq"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    """``code`` in a process of its own."""
    command = [sys.executable, "-c", _BLOCK + code]
    return subprocess.run(command, capture_output=True, text=True)
