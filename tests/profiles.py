"""A profile as measured on a made-up machine, for what reads profiles."""

from __future__ import annotations

from dataclasses import replace

from odedeploy.manifest import ErrorReport
from odedeploy.profiling import Percentiles, Profile, Ratio, Row, pareto

TOLERANCES = {
    1e-1: ("heun2", 4, 0.07, 1.3),
    1e-2: ("rk4", 12, 0.0081, 3.2),
    1e-3: ("rk4", 24, 6.2e-4, 6.3),
}


def row(target: str, slowdown: float, tol: float) -> Row:
    solver, nfe, error, latency = TOLERANCES[tol]
    p50 = latency * slowdown
    times = [k / 3 for k in range(4)]
    return Row(
        model="mnist-odenet",
        tol=tol,
        target=target,
        precision="fp32",
        format="onnx",
        form="unrolled",
        solver=solver,
        nfe=nfe,
        error=error,
        latency_ms=Percentiles(p50, 1.2 * p50, None),
        throughput=1e3 / p50,
        peak_memory_mb=81.25,
        bytes=861_234,
        file=f"mnist-odenet-{tol:g}.onnx",
        error_report=ErrorReport(error, 1.1 * error, error / 4, 0.99, 0.95, 299),
        promise=f"At least 99 % of inputs keep an error of {tol:g} or less.",
        plan={
            "solver": solver,
            "nfe": nfe,
            "sites": [
                {"name": "s0", "solver": solver, "nfe": nfe, "t0": 0.0, "t1": 1.0, "times": times}
            ],
        },
        threads=1 if slowdown > 1 else 2,
        providers=("CPUExecutionProvider",),
        latency_bound_ms=Percentiles(1.05 * p50, 1.3 * p50, None),
        latency_interval_ms=(0.98 * p50, 1.03 * p50),
        ratio=Ratio("PyTorch", p50 / 50, p50 / 55, p50 / 45),
        cpu_seconds=p50 / 1e3,
        load_ms=12.5,
        first_ms=8.75,
        base_memory_mb=60.5,
        samples=600,
        rounds=20,
        spinning_ms=0.5,
        stable=True,
    )


def profile() -> Profile:
    """Three tolerances on two targets, a crashed row and the PyTorch solve on both targets."""
    rows = [
        row(name, slow, tol)
        for name, slow in (("cpu", 1.0), ("cpu-1t", 1.25))
        for tol in TOLERANCES
    ]
    crashed = replace(
        rows[0],
        file="broken.onnx",
        status="crashed",
        reason="The worker died of SIGSEGV during 'open'.",
        latency_ms=Percentiles(),
        latency_bound_ms=Percentiles(),
        latency_interval_ms=None,
        ratio=None,
    )
    baselines = tuple(
        replace(
            rows[0],
            target=target,
            tol=None,
            format="pytorch",
            form="adaptive",
            solver="dopri5",
            nfe=62,
            error=2e-5,
            error_report=None,
            latency_ms=Percentiles(p50, None, None),
            latency_interval_ms=(0.99 * p50, 1.01 * p50),
            ratio=None,
            file="",
            plan={},
            bytes=None,
        )
        for target, p50 in (("cpu", 41.0), ("cpu-1t", 52.0))
    )
    machine = {"cpu": "Some Processor", "cores": 2, "versions": {"python": "3.11.2", "torch": None}}
    asked = {"targets": ["cpu", "cpu-1t"], "tolerances": [0.1, 0.01, 0.001], "seconds": 40.0}
    warnings = ("The machine was busy.",)
    return Profile(machine, asked, pareto.mark([*rows, crashed]), baselines, warnings)
