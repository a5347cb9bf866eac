"""Adams–Bashforth methods of 2 to 4 slopes, started by Euler or by the explicit midpoint method."""

from __future__ import annotations

from odedeploy.tableau import Adams

_SOURCE = "Hairer, Nørsett, Wanner 1993, Solving ODEs I, sections III.1 and III.5"

AB2_EULER = Adams("ab2_euler", 2, "euler", _SOURCE)
AB2_MIDPOINT = Adams("ab2_midpoint", 2, "midpoint", _SOURCE)
AB3_EULER = Adams("ab3_euler", 3, "euler", _SOURCE)
AB3_MIDPOINT = Adams("ab3_midpoint", 3, "midpoint", _SOURCE)
AB4_EULER = Adams("ab4_euler", 4, "euler", _SOURCE)
AB4_MIDPOINT = Adams("ab4_midpoint", 4, "midpoint", _SOURCE)
