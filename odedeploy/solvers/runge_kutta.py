"""Runge–Kutta methods of order 1 to 4."""

from __future__ import annotations

from odedeploy.tableau import Tableau

EULER = Tableau.of(
    "euler", 1, a=(), b="1", source="Euler 1768, Institutionum calculi integralis, vol. 1, § 650"
)
MIDPOINT = Tableau.of(
    "midpoint", 2, a=("1/2",), b="0 1", source="Runge 1895, Math. Ann. 46, 167–178"
)
HEUN2 = Tableau.of(
    "heun2",
    2,
    a=("1",),
    b="1/2 1/2",
    source="Hairer, Nørsett, Wanner 1993, Solving ODEs I, section II.1 (trapezoidal rule)",
)
RALSTON2 = Tableau.of(
    "ralston2", 2, a=("2/3",), b="1/4 3/4", source="Ralston 1962, Math. Comp. 16, 431–437"
)
HEUN3 = Tableau.of(
    "heun3", 3, a=("1/3", "0 2/3"), b="1/4 0 3/4", source="Heun 1900, Z. Math. Phys. 45, 23–38"
)
KUTTA3 = Tableau.of(
    "kutta3",
    3,
    a=("1/2", "-1 2"),
    b="1/6 2/3 1/6",
    source="Kutta 1901, Z. Math. Phys. 46, 435–453",
)
RALSTON3 = Tableau.of(
    "ralston3",
    3,
    a=("1/2", "0 3/4"),
    b="2/9 1/3 4/9",
    source="Ralston 1962, Math. Comp. 16, 431–437; embedded weights of "
    "Bogacki, Shampine 1989, Appl. Math. Lett. 2, 321–325",
    b_low="7/24 1/4 1/3 1/8",
    order_low=2,
)
RK4 = Tableau.of(
    "rk4",
    4,
    a=("1/2", "0 1/2", "0 0 1"),
    b="1/6 1/3 1/3 1/6",
    source="Kutta 1901, Z. Math. Phys. 46, 435–453 (classical)",
)
RK4_38 = Tableau.of(
    "rk4_38",
    4,
    a=("1/3", "-1/3 1", "1 -1 1"),
    b="1/8 3/8 3/8 1/8",
    source="Kutta 1901, Z. Math. Phys. 46, 435–453 (3/8 rule)",
)
