"""Step-size control as a TorchScript loop, the twin of ``lowering.adaptive``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from odedeploy.errors import BadInput
from odedeploy.program.control import ATOL, MAX_EVALUATIONS, RTOL
from odedeploy.tableau import Tableau

if TYPE_CHECKING:
    from odedeploy.graph import OdeGraph
    from odedeploy.program import Control, Plan

START = 2
"""Evaluations that find the first step."""


class Controlled(nn.Module):
    """One solve by an embedded pair; scripted, around a traced vector field.

    ``field`` takes a list of tensors, of which the states are the last, and the time, 0-d.
    ``error`` are the weights of a step's slopes for its error and ``middle`` those for the state
    in the middle of a step, both in units of the step; ``epsilon`` is that of the state's dtype.
    """

    def __init__(
        self, field: nn.Module, pair: Tableau, times: tuple[float, ...], error: list[float],
        middle: list[float], epsilon: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.field = field
        self.rows = [[float(w) for w in row] for row in (*pair.a[1:], pair.b)]
        self.nodes = [float(c) for c in (*pair.c[1:], 1)]
        self.error, self.middle, self.order = error, middle, pair.order
        self.times, self.begin = list(times), START
        self.least = epsilon * max(abs(times[0]), abs(times[-1]))
        self.direction = 1.0 if times[-1] > times[0] else -1.0

    def forward(
        self, values: list[Tensor], initial: list[Tensor], rtol: float, atol: float, most: int
    ) -> tuple[list[Tensor], int, bool]:
        """Trajectories (times, *state), evaluations, and whether the end was reached."""
        start, end = self.times[0], self.times[-1]
        stages = len(self.rows)
        between = [[x for x in initial] for _ in range(len(self.times) - 2)]
        states, first, spent, ended = initial, initial, 0, False
        time, step, going = start, 0.0, most >= self.begin + stages
        if going:
            first, step = self.begun(values, states, rtol, atol)
            spent = self.begin
        while going:
            left = (end - time) * self.direction
            last = step >= left
            size = left if last else step
            slopes = [first]
            after = states
            for i in range(stages):
                after = self.combined(states, slopes, self.rows[i], size)
                at = time + size * self.direction * self.nodes[i]
                slopes.append(self.slope(values, at, after))
            allowed: list[Tensor] = []
            for i in range(len(states)):
                allowed.append(atol + rtol * torch.maximum(states[i].abs(), after[i].abs()))
            nothing = [torch.zeros_like(x) for x in states]
            ratio = self.norm(self.combined(nothing, slopes, self.error, size), allowed)
            accepted = ratio <= 1.0
            spent += stages
            if accepted:
                for j in range(len(between)):
                    share = (self.times[j + 1] - time) / (size * self.direction)
                    if share > 0.0 and share <= 1.0:
                        between[j] = self.inside(share, states, after, slopes, size)
                ended = last
                time = end if last else time + size * self.direction
                states, first = after, slopes[-1]
            step = size * self.factor(ratio)
            going = not ended and step > self.least and spent + stages <= most
        trajectories: list[Tensor] = []
        for i in range(len(initial)):
            path = [initial[i]] + [row[i] for row in between] + [states[i]]
            trajectories.append(torch.stack(path))
        return trajectories, spent, ended

    def slope(self, values: list[Tensor], time: float, states: list[Tensor]) -> list[Tensor]:
        at = torch.tensor(time, dtype=states[0].dtype, device=states[0].device)
        found: list[Tensor] = self.field(values + states, at)
        return found

    def combined(
        self, base: list[Tensor], slopes: list[list[Tensor]], weights: list[float], step: float
    ) -> list[Tensor]:
        """base + step · Σ weight · slope, in as many operators as there are weights."""
        found = [x for x in base]
        for i in range(len(slopes)):
            weight = weights[i] * step * self.direction
            if weights[i] != 0.0:
                for j in range(len(base)):
                    found[j] = torch.add(found[j], slopes[i][j], alpha=weight)
        return found

    def norm(self, parts: list[Tensor], scales: list[Tensor]) -> float:
        """The largest root mean square of a part in units of its scale; NaN when any is."""
        largest = 0.0
        for i in range(len(parts)):
            ratio = parts[i] / scales[i]
            found = float(torch.sqrt(torch.mean(ratio * ratio)))
            if found != found:
                return found
            largest = max(largest, found)
        return largest

    def factor(self, ratio: float) -> float:
        """By how much the next step is longer."""
        if ratio != ratio:
            return 0.2
        if ratio == 0.0:
            return 10.0
        least = 1.0 if ratio < 1.0 else 0.2
        wanted: float = 0.9 * ratio ** (-0.2)
        return min(max(wanted, least), 10.0)

    def begun(
        self, values: list[Tensor], states: list[Tensor], rtol: float, atol: float
    ) -> tuple[list[Tensor], float]:
        """The slope at the start and the step to try first."""
        start = self.times[0]
        first = self.slope(values, start, states)
        scales = [atol + rtol * x.abs() for x in states]
        size, speed = self.norm(states, scales), self.norm(first, scales)
        if size != size or speed != speed:
            return first, float("nan")
        trial = 1e-6 if size < 1e-5 or speed < 1e-5 else 0.01 * size / speed
        moved = self.combined(states, [first], [1.0], trial)
        second = self.slope(values, start + trial * self.direction, moved)
        turned = self.norm(self.combined(second, [first], [-1.0], self.direction), scales)
        if turned != turned:
            return first, turned
        bend = turned / trial
        if speed <= 1e-15 and bend <= 1e-15:
            wanted = max(1e-6, trial * 1e-3)
        else:
            wanted = (0.01 / max(speed, bend)) ** (1.0 / self.order)
        return first, min(100.0 * trial, wanted)

    def inside(
        self, share: float, states: list[Tensor], after: list[Tensor], slopes: list[list[Tensor]],
        step: float,
    ) -> list[Tensor]:  # fmt: skip
        """States within a step, by the polynomial through its ends, their slopes and the middle."""
        middle = self.combined(states, slopes, self.middle, step)
        found: list[Tensor] = []
        for i in range(len(states)):
            x0, x1, m = states[i], after[i], middle[i]
            f0, f1 = slopes[0][i] * (step * self.direction), slopes[-1][i] * (step * self.direction)
            a = 2 * f1 - 2 * f0 - 8 * x0 - 8 * x1 + 16 * m
            b = 5 * f0 - 3 * f1 + 18 * x0 + 14 * x1 - 32 * m
            c = f1 - 4 * f0 - 11 * x0 - 5 * x1 + 16 * m
            found.append((((a * share + b) * share + c) * share + f0) * share + x0)
        return found


class Adaptive(nn.Module):
    """A whole model: what comes before each solve, the solves, and what follows them.

    ``axes`` are the places of the batch in the outputs. With ``per_sample`` each row of the inputs
    whose flag in ``batched`` is set is run alone.
    """

    def __init__(
        self, before: Sequence[nn.Module], solves: Sequence[nn.Module], after: nn.Module,
        batched: list[bool], axes: list[int], per_sample: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.before, self.solves = nn.ModuleList(before), nn.ModuleList(solves)
        self.after, self.batched, self.axes = after, batched, axes
        self.per_sample = per_sample

    @torch.jit.export
    def answer(self, inputs: list[Tensor], rtol: float, atol: float, most: int) -> list[Tensor]:
        """The model's outputs, the evaluations of all solves and whether all converged."""
        if not self.per_sample:
            outputs, spent, ended = self.solved(inputs, rtol, atol, most)
            return outputs + [torch.tensor(spent), torch.tensor(int(ended))]
        rows = 0
        for array, flag in zip(inputs, self.batched):
            if flag:
                rows = array.shape[0]
        found: list[list[Tensor]] = []
        counts: list[int] = []
        flags: list[int] = []
        for row in range(rows):
            one: list[Tensor] = []
            for array, flag in zip(inputs, self.batched):
                one.append(array[row : row + 1] if flag else array)
            outputs, spent, ended = self.solved(one, rtol, atol, most)
            found.append(outputs)
            counts.append(spent)
            flags.append(int(ended))
        whole: list[Tensor] = []
        for i, axis in enumerate(self.axes):
            whole.append(torch.cat([each[i] for each in found], axis))
        return whole + [torch.tensor(counts), torch.tensor(flags)]

    def solved(
        self, inputs: list[Tensor], rtol: float, atol: float, most: int
    ) -> tuple[list[Tensor], int, bool]:
        values = inputs
        spent, ended = 0, True
        for before, solve in zip(self.before, self.solves):
            initial: list[Tensor] = before(values)
            trajectories, count, reached = solve(values, initial, rtol, atol, most)
            values = values + trajectories
            spent += count
            ended = ended and reached
        outputs: list[Tensor] = self.after(values)
        return outputs, spent, ended


def script(
    graph: OdeGraph, plan: Plan, tensors: tuple[torch.Tensor, ...]
) -> torch.jit.ScriptModule:
    """The model with its solves as scripted loops; tolerance and budget are optional arguments.

    Raises BadInput where samples cannot be told apart.
    """
    from odedeploy.frontends import live
    from odedeploy.frontends.segments import Before, Slope
    from odedeploy.graph import batch_symbol, input_specs, output_specs
    from odedeploy.lowering.adaptive import MIDDLE, check_times, embedded_pair, error_weights

    evaluator, control, specs = live(graph), plan.control, input_specs(graph.model)
    assert control is not None
    pair, symbol = embedded_pair(control.solver), batch_symbol(graph.model.graph)
    free = [site for site in graph.sites if site.kept is None]
    values, before, solves = list(tensors), [], []
    for place, site in enumerate(free):
        check_times(pair, site)
        parts = (evaluator, plan, graph.sites, place)
        start = Before(*parts).eval()
        initial = start(values)
        before.append(_traced(start, values))
        time = torch.zeros((), dtype=initial[0].dtype)
        slope = _traced(Slope(*parts).eval(), values + initial, time)
        epsilon = torch.finfo(initial[0].dtype).eps
        weights = error_weights(pair)
        solves.append(Controlled(slope, pair, site.times, weights, list(MIDDLE), epsilon))
        values = values + [x.expand(len(site.times), *x.shape).clone() for x in initial]
    after = Before(evaluator, plan, graph.sites, None).eval()
    batched = [spec.shape[:1] == (symbol,) for spec in specs]
    shapes = [spec.shape for spec in output_specs(graph.model)]
    if control.per_sample and not all(symbol in shape for shape in shapes):
        raise BadInput("--per-sample needs a batch axis in every output; leave it out.")
    axes = [shape.index(symbol) if symbol in shape else 0 for shape in shapes]
    whole = Adaptive(before, solves, _traced(after, values), batched, axes, control.per_sample)
    scripted = torch.jit.script(whole.eval())
    scripted.define(_forward(len(tensors), control, len(axes)))
    return scripted


def _traced(module: torch.nn.Module, *arguments: Any) -> torch.jit.ScriptModule:
    traced: torch.jit.ScriptModule = torch.jit.trace(  # type: ignore[no-untyped-call]
        module, arguments, check_trace=False, strict=False
    )
    return traced


def _forward(inputs: int, control: Control, outputs: int) -> str:
    """The source of ``forward``: inputs by position, options that may be left out."""
    names = [f"x{i}" for i in range(inputs)]
    options = [f"{name}: Optional[Tensor] = None" for name in (RTOL, ATOL, MAX_EVALUATIONS)]
    tensor = ", ".join(["Tensor"] * (outputs + 2))
    results = ", ".join(f"found[{i}]" for i in range(outputs + 2))
    return f"""
def forward(self, {", ".join([*(f"{n}: Tensor" for n in names), *options])}) -> Tuple[{tensor}]:
    relative, absolute = {control.tolerance!r}, {control.tolerance!r}
    most = {control.max_evaluations}
    if {RTOL} is not None:
        relative = float({RTOL})
    if {ATOL} is not None:
        absolute = float({ATOL})
    if {MAX_EVALUATIONS} is not None:
        most = int({MAX_EVALUATIONS})
    found = self.answer([{", ".join(names)}], relative, absolute, most)
    return {results}
"""
