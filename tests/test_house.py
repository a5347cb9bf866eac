"""Layout, packaging, imports: what holds for the house as a whole."""

from __future__ import annotations

import ast
import os
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import odedeploy
from odedeploy import checking, formats, lowering, metrics, models, passes, solvers, spec, targets
from odedeploy.cli import app
from odedeploy.frontends import interception

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LINKED = ("cli", "models")
HEAVY = {"torch", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "scipy", "matplotlib"}
COMMANDS = sorted(get_command(app).commands)
"""Names of the commands, as Typer knows them."""


def folders() -> set[str]:
    """Import names of all folders with an ``__init__.py``; links are followed by mapping."""
    found = set()
    for top in ("odedeploy", *LINKED):
        for init in (ROOT / top).rglob("__init__.py"):
            parts = init.parent.relative_to(ROOT).parts
            if top == "odedeploy" and parts[1:2] and parts[1] in LINKED:
                continue
            found.add(".".join(parts if top == "odedeploy" else ("odedeploy", *parts)))
    return found


def test_every_package_is_listed_for_the_wheel() -> None:
    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == sorted(folders())


@pytest.mark.parametrize("name", LINKED)
def test_links_are_relative(name: str) -> None:
    assert os.readlink(ROOT / "odedeploy" / name) == f"../{name}"


def test_no_twins(python) -> None:
    assert not set(LINKED) & set(sys.modules)
    code = "from importlib.util import find_spec; print([find_spec(n) for n in ('cli', 'models')])"
    assert python("-c", code).stdout.strip() == "[None, None]"


def test_public_list_is_what_type_checkers_see() -> None:
    tree = ast.parse((ROOT / "odedeploy" / "__init__.py").read_text(encoding="utf-8"))
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {a.asname: n.module for n in guarded.body for a in n.names}  # type: ignore[attr-defined]
    assert seen == odedeploy._PUBLIC
    assert odedeploy.__all__ == ["__version__", *seen]
    assert dir(odedeploy) == sorted(odedeploy.__all__)


@pytest.mark.parametrize("name", odedeploy.__all__)
def test_every_public_name_resolves_and_no_module_shadows_it(name: str) -> None:
    value = getattr(odedeploy, name)
    assert name == "__version__" or callable(value)
    import_module("odedeploy.api")
    assert getattr(odedeploy, name) is value
    assert not any(module == f"odedeploy.{name}" for module in sys.modules)


def test_unknown_attribute() -> None:
    with pytest.raises(AttributeError, match="no attribute 'exprot'"):
        odedeploy.exprot  # noqa: B018


HELP = "from odedeploy.cli import app\ntry: app(['--help'])\nexcept SystemExit: pass"


@pytest.mark.parametrize(
    ("code", "banned"),
    [
        ("import odedeploy", HEAVY | {"numpy", "typer", "rich"}),
        ("import odedeploy.cli", HEAVY | {"numpy", "rich"}),
        (HELP, HEAVY | {"numpy", "rich"}),
        ("import odedeploy.solvers, odedeploy.program, odedeploy.grid, odedeploy.files", HEAVY),
        ("import odedeploy.spec, odedeploy.manifest, odedeploy.tolerance", HEAVY),
        ("import odedeploy.formats, odedeploy.targets, odedeploy.models", HEAVY),
        ("import odedeploy.runtime", HEAVY - {"onnxruntime"} | {"typer", "rich"}),
    ],
)
def test_imports_stay_light(python, code: str, banned: set[str]) -> None:
    done = python("-c", f"{code}\nimport sys; print('loaded', *sys.modules)")
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.rpartition("loaded ")[2].split()
    assert "odedeploy" in loaded
    assert not banned & set(loaded)


def test_the_runtime_adds_nothing_to_numpy_and_onnxruntime(python) -> None:
    code = """
import sys, numpy, onnxruntime
before = set(sys.modules)
import odedeploy.runtime.__main__
new = {name.partition('.')[0] for name in set(sys.modules) - before}
print(*sorted(new - set(sys.stdlib_module_names)))
"""
    done = python("-c", code)
    assert done.stdout.split() == ["odedeploy"], done.stderr


@pytest.mark.parametrize("name", solvers.SOLVERS)
def test_solvers_resolve(name: str) -> None:
    assert solvers.find(name).name == name


@pytest.mark.parametrize("name", formats.FORMATS)
def test_formats_resolve(name: str) -> None:
    found = formats.find(name)
    assert found.name == name
    assert formats.SUFFIXES[found.suffix] == name


@pytest.mark.parametrize("suffix", formats.SUFFIXES)
def test_suffixes_resolve(suffix: str) -> None:
    assert formats.from_path(f"model{suffix}").name == formats.SUFFIXES[suffix]


@pytest.mark.parametrize("name", targets.TARGETS)
def test_targets_resolve(name: str) -> None:
    target = targets.find(name)
    assert target.name == name
    assert target.format in formats.FORMATS
    assert target.precision in spec.PRECISIONS


@pytest.mark.parametrize("name", models.MODELS)
def test_models_resolve(name: str) -> None:
    module, _, factory = models.address(name).partition(":")
    assert callable(getattr(import_module(module), factory))
    assert models.card(name)["name"] == models.source(name) in models.MODELS


def test_forms_resolve() -> None:
    assert sorted(spec.FORMS) == sorted(lowering.FORMS)
    for address in lowering.FORMS.values():
        module, _, function = address.partition(":")
        assert callable(getattr(import_module(module), function))


def test_metrics_resolve() -> None:
    assert sorted(spec.METRICS) == sorted(metrics.METRICS)
    for name in spec.METRICS:
        assert metrics.of(spec.ExportSpec(tol=0.1, metric=name)).name == name


FAMILIES = {
    "formats": {address.partition(":")[0] for address in formats.FORMATS.values()},
    "targets": {address.partition(":")[0] for address in targets.TARGETS.values()},
    "passes": {one.__name__ for one in (*passes.PASSES, passes.sink)},
    "checks": set(checking.CHECKS.values()),
    "metrics": {*metrics.METRICS.values(), metrics.CUSTOM},
    "adapters": set(interception.ADAPTERS.values()),
}
"""Families whose members do not import each other, with the modules of their tables."""


@pytest.mark.parametrize("family", FAMILIES)
def test_members_of_a_family_are_under_contract(family: str) -> None:
    contracts = PROJECT["tool"]["importlinter"]["contracts"]
    name = f"{family} do not know each other"
    contract = next(contract for contract in contracts if contract["name"] == name)
    assert contract["type"] == "independence"
    assert set(contract["modules"]) == FAMILIES[family]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_json(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert f"{command} [OPTIONS]" in result.stdout
    assert "--json" in result.stdout


def test_the_ci_command_is_executable() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text(encoding="utf-8").rstrip().endswith("make test")
