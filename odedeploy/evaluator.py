"""Running plans of an ODE graph in onnxruntime, without PyTorch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from math import gcd
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime

from odedeploy.errors import BadInput
from odedeploy.graph import SOLVE_DOMAIN, Inputs, OdeGraph, Outcome, input_specs, output_specs
from odedeploy.grid import Grid
from odedeploy.lowering import lower
from odedeploy.lowering.double import widened
from odedeploy.lowering.loop import STEPS, step_counts
from odedeploy.program import Plan, solve_plan
from odedeploy.runtime import batch_first, batch_symbol
from odedeploy.solvers import find

Transform = Callable[[ir.Model, Plan], ir.Model]
"""What is done to a lowered model before it runs; it keeps inputs and outputs."""

ROWS = 128
"""Inputs run at a time."""

SESSIONS = 24
"""Models kept loaded: a loop for every solver of the catalogue, and what is run in turn."""

_STATE = "odedeploy.state."
"""Prefix of the extra outputs that carry final states."""


class OnnxEvaluator:
    """An ODE graph with its solves replaced by plans; satisfies ``graph.Evaluator``.

    Each plan is lowered to the unrolled form and given to ``transform``, if there is one: passes,
    or another precision. In float64 weights, states, times and constants of the graph are float64,
    ``transform`` is left out, and a plan of equal steps runs as a loop, one model for all of its
    resolutions; with ``loops`` that holds for float32, too, where a search asks for many plans.
    onnxruntime uses ``threads`` threads, by default all cores.
    """

    def __init__(
        self,
        graph: OdeGraph,
        transform: Transform | None = None,
        threads: int | None = None,
        loops: bool = False,
    ) -> None:
        self._graph, self._transform, self._threads = graph, transform, threads
        self._loops = loops
        self._sessions: OrderedDict[Any, _Session] = OrderedDict()
        self._inputs = input_specs(graph.model)
        symbol = batch_symbol(self._inputs)
        self.static = frozenset(s.name for s in self._inputs if s.shape[:1] != (symbol,))
        self._symbol = symbol

    def run(self, plan: Plan, inputs: Inputs, precision: str) -> Outcome:
        """Outputs and final states under ``plan``, in ``"float32"`` or ``"float64"``.

        Runs ``ROWS`` inputs at a time. Raises BadInput for another precision, for inputs that are
        missing, and for a float64 run of a graph that traces its plans.
        """
        steps = None
        if self._loops or precision == "float64":
            plan, steps = _coarsest(plan, self._graph)
        session = self._session(plan, precision, steps is not None)
        missing = [spec.name for spec in self._inputs if spec.name not in inputs]
        if missing:
            raise BadInput(f"The inputs {missing} are missing; give every input of the model.")
        parts = [session.run(part, steps) for part in self._parts(inputs)]
        outputs = [batch_first(part.outputs, session.outputs, self._symbol) for part in parts]
        return Outcome(_concatenated(outputs), _concatenated([part.states for part in parts]))

    def _parts(self, inputs: Inputs) -> Iterator[Inputs]:
        sizes = [len(a) for name, a in inputs.items() if name not in self.static]
        for first in range(0, max(sizes, default=1), ROWS):
            yield {
                name: array if name in self.static else array[first : first + ROWS]
                for name, array in inputs.items()
            }

    def _session(self, plan: Plan, precision: str, looped: bool) -> _Session:
        if precision not in ("float32", "float64"):
            raise BadInput(f"Plans run in float32 or float64, not {precision!r}.")
        key = precision, looped, tuple((s.site, s.program, s.constants) for s in plan.solves)
        if key not in self._sessions:
            self._sessions[key] = self._loaded(plan, precision, looped)
        self._sessions.move_to_end(key)
        while len(self._sessions) > SESSIONS:
            self._sessions.popitem(last=False)
        return self._sessions[key]

    def _loaded(self, plan: Plan, precision: str, looped: bool) -> _Session:
        graph = self._graph if precision == "float32" else self._double
        model = lower(graph, plan, "loop" if looped else "unrolled")
        _expose_states(model, graph)
        if precision == "float32" and self._transform is not None:
            model = self._transform(model, plan)
        return _Session(model, self._threads)

    @cached_property
    def _double(self) -> OdeGraph:
        return widened(self._graph)


class _Session:
    """A model in onnxruntime."""

    def __init__(self, model: ir.Model, threads: int | None) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        if threads is not None:
            options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        data = ir.to_proto(model).SerializeToString()
        self._session = onnxruntime.InferenceSession(
            data, options, providers=["CPUExecutionProvider"]
        )
        self._dtypes = {spec.name: np.dtype(spec.dtype) for spec in input_specs(model)}
        self.outputs = [s for s in output_specs(model) if not s.name.startswith(_STATE)]

    def run(self, inputs: Inputs, steps: int | None) -> Outcome:
        feed = {n: np.asarray(a).astype(self._dtypes[n], copy=False) for n, a in inputs.items()}
        if steps is not None:
            feed[STEPS] = np.array(steps)
        names = [output.name for output in self._session.get_outputs()]
        results = dict(zip(names, self._session.run(None, feed), strict=True))
        states = {n.removeprefix(_STATE): a for n, a in results.items() if n.startswith(_STATE)}
        return Outcome({spec.name: results[spec.name] for spec in self.outputs}, states)


def _coarsest(plan: Plan, graph: OdeGraph) -> tuple[Plan, int | None]:
    """The plan of the fewest steps in the same proportions, and how many steps ``plan`` takes.

    ``plan`` itself and None where it is no loop.
    """
    free = {site.name for site in graph.sites if site.kept is None}
    try:
        counts = {solve.site: step_counts(solve) for solve in plan.solves if solve.site in free}
    except BadInput:
        return plan, None
    if not counts or graph.trace is not None:
        return plan, None
    every = gcd(*(count for each in counts.values() for count in each))
    coarse = [
        solve_plan(
            solve.site,
            find(solve.solver),
            Grid(solve.grid.times[::every], tuple(i // every for i in solve.grid.outputs)),
        )
        if solve.site in counts
        else solve
        for solve in plan.solves
    ]
    return Plan(tuple(coarse)), sum(sum(each) for each in counts.values())


def _expose_states(model: ir.Model, graph: OdeGraph) -> None:
    """Add the final state of every solve to the outputs of a lowered model."""
    values = {value.name: value for node in model.graph for value in node.outputs}
    for solve in graph.model.graph:
        if solve.domain != SOLVE_DOMAIN or graph.trace is not None:
            continue
        for i, trajectory in enumerate(solve.outputs):
            whole = values[trajectory.name]
            last = ir.node("Constant", [], {"value_int": -1}, name=f"{whole.name}/last")
            end = ir.node("Gather", [whole, last.outputs[0]], {"axis": 0}, name=f"{whole.name}/end")
            suffix = "" if len(solve.outputs) == 1 else f".{i}"
            end.outputs[0].name = f"{_STATE}{solve.name}{suffix}"
            end.outputs[0].type = trajectory.type
            if trajectory.shape is not None:
                end.outputs[0].shape = ir.Shape(trajectory.shape[1:])
            last.outputs[0].name = f"{whole.name}_last"
            model.graph.extend([last, end])
            model.graph.outputs.append(end.outputs[0])


def _concatenated(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
