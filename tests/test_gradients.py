"""Gradients through a plan, and the prefix of a forward that is computed once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchdiffeq import odeint

import odedeploy
from odedeploy.frontends import live
from odedeploy.frontends.evaluation import TorchEvaluator
from odedeploy.grid import Grid
from odedeploy.program import Plan, SolvePlan, solve_plan, write
from odedeploy.solvers import SOLVERS


class Stemmed(nn.Module):
    """A stem, a solve and a head; ``stem`` may be any code in front of the solve."""

    def __init__(self, stem: Callable[[Tensor], Tensor] = torch.tanh) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = stem
        self.norm = nn.BatchNorm1d(3)
        self.layer = nn.Linear(4, 3)
        self.head = nn.Linear(3, 2)

    def field(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(self.layer(torch.cat([y, t.expand(len(y), 1)], 1)))

    def forward(self, x: Tensor) -> Tensor:
        y0 = self.norm(self.stem(x))
        return self.head(odeint(self.field, y0, torch.tensor([0.0, 1.0]))[-1])


def evaluator_of(model: nn.Module) -> tuple[TorchEvaluator, dict[str, np.ndarray]]:
    inputs = {"x": torch.randn(6, 3, generator=torch.Generator().manual_seed(1)).numpy()}
    return live(odedeploy.capture(model, inputs)), inputs


def plan_on(solver: str, times: list[Tensor]) -> Plan:
    grid = Grid(tuple(float(t.detach()) for t in times), (0, len(times) - 1))
    program = write(SOLVERS[solver], times, grid.outputs)  # type: ignore[arg-type]
    return Plan((SolvePlan("solve0", solver, grid, program),))


def grid_of(logits: Tensor) -> list[Tensor]:
    steps = torch.softmax(logits, 0)
    return list(torch.cat([steps.new_zeros(1), torch.cumsum(steps, 0)]).unbind())


@pytest.mark.parametrize("solver", SOLVERS)
def test_gradient_by_the_grid_is_the_difference_quotient(solver: str) -> None:
    evaluator, inputs = evaluator_of(Stemmed())
    logits = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64, requires_grad=True)
    with evaluator.differentiable(inputs) as forward:
        outputs, states = forward(plan_on(solver, grid_of(logits)))
        loss = outputs["output"].square().sum() + states["solve0"].sum()
        loss.backward()

    def value(shift: Tensor) -> float:
        plan = plan_on(solver, grid_of((logits + shift).detach()))
        found = evaluator.run(plan, inputs, "float64")
        return float(np.square(found.outputs["output"]).sum() + found.states["solve0"].sum())

    for i, exact in enumerate(logits.grad):
        step = torch.zeros(3, dtype=torch.float64)
        step[i] = 1e-4
        slope = (value(step) - value(-step)) / 2e-4
        assert float(exact) == pytest.approx(slope, rel=1e-3, abs=1e-5)


def inplace(x: Tensor) -> Tensor:
    return x.clone().mul_(2).tanh_()[:, [2, 0, 1]]


def viewing(x: Tensor) -> Tensor:
    parts = x.unbind(1)
    return torch.stack([parts[2][:], parts[0], x[:, :1].squeeze(1) * 2], 1)


def differentiating(x: Tensor) -> Tensor:
    leaf = x.detach().requires_grad_()
    return torch.autograd.grad(leaf.pow(3).sum(), leaf)[0].detach()


@pytest.mark.parametrize("stem", [torch.tanh, inplace, viewing, differentiating])
def test_repeated_forwards_are_the_plain_ones(stem: Callable[[Tensor], Tensor]) -> None:
    calls: list[int] = []

    def counted(x: Tensor) -> Tensor:
        calls.append(1)
        return stem(x)

    model = Stemmed(counted)
    evaluator, inputs = evaluator_of(model)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with evaluator.differentiable(inputs) as forward:
        for steps in (1, 2, 5):
            plan = Plan((solve_plan("solve0", SOLVERS["rk4"], Grid.uniform(0, 1, steps)),))
            outputs, states = forward(plan)
            plain = evaluator.run(plan, inputs, "float32")
            np.testing.assert_array_equal(outputs["output"].detach(), plain.outputs["output"])
            np.testing.assert_array_equal(states["solve0"].detach(), plain.states["solve0"])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_what_comes_before_the_solve_is_computed_once() -> None:
    """The stem's operator is dispatched for the first forward only."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counter(TorchDispatchMode):
        exponentials = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            self.exponentials += func is torch.ops.aten.exp.default
            return func(*args, **(kwargs or {}))

    evaluator, inputs = evaluator_of(Stemmed(torch.exp))
    plan = Plan((solve_plan("solve0", SOLVERS["euler"], Grid.uniform(0, 1, 2)),))
    with Counter() as counter, evaluator.differentiable(inputs) as forward:
        for _ in range(3):
            forward(plan)
    assert counter.exponentials == 1
