"""The runner of a kit, on the device: every artefact on every target, into ``result.json``."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from odedeploy import files
from odedeploy.errors import BadInput, OdeDeployError
from odedeploy.profiling import machine, openers, queries
from odedeploy.profiling.journal import Journal
from odedeploy.profiling.measure import Sweep
from odedeploy.runtime import batch_symbol, check_golden, load, read_golden

RESULT = "odedeploy kit result 1"
ANSWERS = "odedeploy kit answers 1"


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0, 1 where nothing could be measured, 2 for a kit or result that cannot be
    read or written."""
    folder = Path(sys.argv[0]).resolve().parent
    asked = _parser().parse_args(arguments)
    try:
        result = answers(folder) if asked.check else measured(folder, asked)
        output = Path(asked.output)
        files.replace(output, (json.dumps(result) + "\n").encode())
    except OdeDeployError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if asked.check:
        return _told_answers(result)
    failures = {line["job"]: line["reason"] for line in result["lines"] if line["kind"] == "failed"}
    for job, reason in failures.items():
        print(f"{job}: {reason}", file=sys.stderr)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    count = len(result["jobs"])
    print(f"{count - len(failures)} of {count} measured; wrote {output}")
    return 0 if len(failures) < count else 1


def measured(folder: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """The result of the kit in ``folder``.

    Raises BadInput for a kit that is damaged, and Unusable under an emulator.
    """
    machine.refuse_emulation()
    index = _index(folder)
    described = machine.fingerprint()
    jobs, requests = dict[str, Any](), dict[str, dict[str, Any]]()
    with tempfile.TemporaryDirectory(prefix="odedeploy-") as scratch:
        for artefact in index["artefacts"]:
            for target in _targets(index["targets"], asked):
                row = artefact["row"]
                name = f"{row['file']} on {target['name']}, batch {target['batch']}"
                threads = target["threads"] or machine.available_cores()
                path = folder / "artefacts" / row["file"]
                jobs[name] = {**target, "threads": threads, "file": row["file"]}
                inferences = Path(scratch) / f"{len(jobs)}.npz"
                queries.save(_queries(path, target["batch"]), inferences)
                requests[name] = {
                    "label": name, "runtime": "odedeploy.profiling.kit_run:checked",
                    "path": str(path), "threads": threads, "providers": target["providers"],
                    "queries": str(inferences), "quota": target.get("quota"),
                }  # fmt: skip
        journal = Journal()
        Sweep(requests, asked.seconds, asked.timeout, asked.seed, _told, journal).run(
            [list(requests)]
        )
    described["load_average_after"] = machine.load_average()
    return {
        "result": RESULT,
        "device": asked.device or described["cpu"],
        "machine": described,
        "artefacts": index["artefacts"],
        "jobs": jobs,
        "seed": asked.seed,
        "lines": list(journal.of("opened", "round", "failed")),
    }


def answers(folder: Path) -> dict[str, Any]:
    """How far the answers of every artefact lie from its golden ones here, in this process and
    with nothing timed.

    Raises BadInput for a kit that is damaged.
    """
    found: list[dict[str, Any]] = []
    for artefact in _index(folder)["artefacts"]:
        name = artefact["row"]["file"]
        try:
            check = check_golden(load(folder / "artefacts" / name, threads=1))
        except OdeDeployError as error:
            found.append({"file": name, "passed": False, "reason": str(error)})
        else:
            found.append({
                "file": name, "passed": bool(check), "error": float(check.errors.max()),
                "tolerance": check.tolerance,
            })  # fmt: skip
    return {"result": ANSWERS, "machine": machine.fingerprint(), "answers": found}


def checked(request: Mapping[str, Any]) -> Callable[[], openers.Loaded]:
    """An artefact in onnxruntime that has given its golden outputs on this device."""
    with suppress(ImportError):
        import_module("onnxruntime")

    def start() -> openers.Loaded:
        model = load(
            request["path"], threads=request["threads"], providers=request["providers"]
        )
        facts = openers.golden_facts(model)

        def run(query: Mapping[str, Any]) -> list[Any]:
            return list(model.run(query, check=False).values())

        return openers.Loaded(run, {**model.facts, **facts})

    return start


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure the artefacts of this kit.")
    parser.add_argument("-o", "--output", default="result.json", help="where the result goes")
    parser.add_argument("--device", help="the name of this device in plots and tables")
    parser.add_argument("--seconds", type=float, default=20.0, help="time of the measured rounds")
    parser.add_argument("--batch", type=int, action="append", help="a batch size; may be repeated")
    parser.add_argument("--provider", help="an execution provider in place of the CPU's")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for each answer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check", action="store_true",
                        help="hold the answers against the golden ones, and measure nothing")
    return parser


def _targets(known: Sequence[dict[str, Any]], asked: argparse.Namespace) -> list[dict[str, Any]]:
    """The targets of the kit, or what the command line asks for in their place; a target that
    would be the same as one before it, on a device of one core, is left out."""
    found, seen = [], set()
    for target in known:
        for batch in asked.batch or [target["batch"]]:
            one = {**target, "batch": batch}
            if asked.provider:
                one |= {"name": asked.provider, "providers": [asked.provider]}
            threads = one["threads"] or machine.available_cores()
            key = (threads, batch, tuple(one["providers"]), one.get("quota"))
            if key not in seen:
                seen.add(key)
                found.append(one)
    return found


def _index(folder: Path) -> dict[str, Any]:
    try:
        index: dict[str, Any] = json.loads((folder / "kit.json").read_text(encoding="utf-8"))
        for artefact in index["artefacts"]:
            data = (folder / "artefacts" / artefact["row"]["file"]).read_bytes()
            if hashlib.sha256(data).hexdigest() != artefact["sha256"]:
                raise BadInput(f"{artefact['row']['file']} is damaged; unpack the kit again.")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"The kit in {folder} is not whole ({error!r}); unpack it again.") from error
    return index


def _queries(path: Path, batch: int) -> list[Any]:
    model = load(path, threads=1)
    golden = read_golden(model.metadata)
    assert golden is not None
    symbol = batch_symbol(model.inputs)
    static = frozenset(s.name for s in model.inputs if symbol not in s.shape[:1])
    return queries.cut(golden.inputs, static, batch)


def _told_answers(result: dict[str, Any]) -> int:
    """Print how far the answers are from the golden ones; 0 when all are near enough, else 1."""
    for answer in result["answers"]:
        said = answer.get("reason") or (
            f"largest difference {answer['error']:.3g}, allowed {answer['tolerance']:.3g}"
        )
        print(f"{answer['file']}: {'right' if answer['passed'] else 'WRONG'}, {said}")
    return 0 if all(answer["passed"] for answer in result["answers"]) else 1


def _told(share: float, text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{100 * share:3.0f} %  {text:<60.60}", end="", file=sys.stderr, flush=True)
