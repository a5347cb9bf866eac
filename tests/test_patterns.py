"""Every way of calling a solver, from the model as written to a file judged by its runtime."""

from __future__ import annotations

import numpy as np
import pytest
from pattern_outcomes import (
    PAGE,
    TOLERANCE,
    arrays,
    as_written,
    distance,
    outcome,
    table,
    tight_plan,
)
from patterns import ASKED, PATTERNS

from odedeploy.frontends import live
from odedeploy.frontends.tracing import BATCH
from odedeploy.graph import FIELD_DOMAIN, input_specs

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
"""PyTorch's forward-mode derivatives are scripted, and PyTorch deprecates scripting."""

TRACED = {
    "branch_on_time", "controlled", "jumps_backwards", "schedule_by_index", "table_of_time",
}  # fmt: skip
EXPORTED = list(PATTERNS)


@pytest.mark.parametrize("name", EXPORTED)
def test_file_keeps_the_tolerance_on_other_inputs_and_batches(name: str) -> None:
    found = outcome(name)
    assert found.refusal == ""
    assert max(found.errors) <= TOLERANCE


@pytest.mark.parametrize("name", EXPORTED)
def test_graph_holds_solves_as_operators_or_says_that_it_traces(name: str) -> None:
    graph = outcome(name).graph
    assert graph is not None
    assert graph.route == ("traced" if name in TRACED else "symbolic")
    solves = [(n.op_type, n.name) for n in graph.model.graph if n.domain]
    if name in TRACED:
        assert not solves and not graph.model.functions
        assert {site.field for site in graph.sites} == {""}
        return
    assert solves == [("Solve", site.name) for site in graph.sites]
    assert set(graph.model.functions) == {(FIELD_DOMAIN, s.field, "") for s in graph.sites}
    assert not any(node.domain for f in graph.model.functions.values() for node in f)


@pytest.mark.parametrize("name", EXPORTED)
def test_batch_is_symbolic_in_inputs_and_outputs(name: str) -> None:
    graph = outcome(name).graph
    assert graph is not None
    for spec in input_specs(graph.model):
        assert (BATCH in spec.shape[:1]) == (spec.name not in live(graph).static)
    assert set(live(graph).axes) == {value.name for value in graph.model.graph.outputs}


@pytest.mark.parametrize("name", [n for n in EXPORTED if ASKED[n].noise is None])
def test_plan_in_pytorch_matches_the_model_as_written(name: str) -> None:
    graph = outcome(name).graph
    assert graph is not None
    inputs = arrays(PATTERNS[name]()[1])
    found = live(graph).run(tight_plan(graph), inputs, "float32").outputs
    for output, expected in as_written(live(graph).model, inputs).items():
        expected = np.moveaxis(expected, live(graph).axes[output], 0)
        assert distance(found[output], expected) <= TOLERANCE


def test_at_least_95_percent_are_exported() -> None:
    assert sum(outcome(name).exported for name in PATTERNS) >= max(40, 0.95 * len(PATTERNS))


def test_one_field_in_a_loop_is_held_once() -> None:
    for name, solves in (("same_field_in_a_loop", 4), ("ode_rnn", 4), ("there_and_back", 2)):
        graph = outcome(name).graph
        assert graph is not None
        assert len(graph.sites) == solves and len(graph.model.functions) == 1


def test_table_is_fresh() -> None:
    assert PAGE.read_text(encoding="utf-8") == table(), "python tests/pattern_outcomes.py"
