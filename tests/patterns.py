"""Small models, one per way of calling a solver. ``PATTERNS`` maps a name to a factory."""

from __future__ import annotations

import pattern_autograd
import pattern_calls
import pattern_fields
import pattern_options
import pattern_states
import pattern_times
from pattern_base import ASKED, PATTERNS, SAYS, Asked, Field, Solver

MODULES = (
    pattern_calls, pattern_times, pattern_options, pattern_states, pattern_fields, pattern_autograd,
)  # fmt: skip

__all__ = ["ASKED", "MODULES", "PATTERNS", "SAYS", "Asked", "Field", "Solver"]
