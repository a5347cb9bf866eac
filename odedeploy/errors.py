"""What can go wrong, as one family.

::

    OdeDeployError
    ├── BadInput            exit 2   what was given cannot be used
    │   ├── UnknownName              a name that no table holds
    │   ├── CaptureRefused           a model that cannot be exported, with the place in its code
    │   └── Diverged                 a solve that leaves the finite numbers
    ├── FellShort           exit 1   ran, and missed the tolerance or the verification
    ├── Unusable            exit 3   a dependency or target not usable here, a silent fall-back
    └── Crashed             exit 4   a runtime that crashed or timed out

Every message is one sentence: what was wrong, the value, what to do. The command line prints it
without a traceback; any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class OdeDeployError(Exception):
    """Root of the family. ``exit_code`` is what the command line ends with."""

    exit_code = 2


class BadInput(OdeDeployError):
    """What was given cannot be used."""


class UnknownName(BadInput):
    """A name that no table holds; the message lists the known ones and suggests the nearest."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = sorted(
            difflib.get_close_matches(name, names, n=max(1, len(names))),
            key=lambda n: (-difflib.SequenceMatcher(None, name, n).ratio(), len(n)),
        )
        hint = f"did you mean {near[0]!r}? " if near else ""
        super().__init__(f"There is no {kind} {name!r}: {hint}known are {', '.join(names)}.")


class CaptureRefused(BadInput):
    """A model that cannot be exported; the message names the file and line of the solve."""


class Diverged(BadInput):
    """A solve whose state is no longer finite."""


class FellShort(OdeDeployError):
    """Ran to the end and missed what was asked: a tolerance, a verification."""

    exit_code = 1


class Unusable(OdeDeployError):
    """A dependency, target or provider that cannot be used on this machine."""

    exit_code = 3


class Crashed(OdeDeployError):
    """A runtime process that crashed or ran out of time."""

    exit_code = 4
