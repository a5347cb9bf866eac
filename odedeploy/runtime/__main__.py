"""``python -m odedeploy.runtime FILE input.npy``: run an exported file on a bare machine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from odedeploy import files
from odedeploy.errors import BadInput, FellShort, OdeDeployError
from odedeploy.runtime.arrays import pack_arrays, unpack_arrays
from odedeploy.runtime.metadata import check_golden
from odedeploy.runtime.session import Model, load
from odedeploy.runtime.signature import Arrays

EXIT_CODES = (
    "exit codes: 0 done, 1 fell short of the golden outputs, 2 bad input, "
    "3 something is not usable here, 4 the runtime crashed"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.input is None and not options.self_test:
        parser.error("give an input file or --self-test")
    try:
        model = load(options.file, threads=options.threads, providers=options.provider)
        if options.self_test:
            _self_test(model)
        if options.input is not None:
            _run(model, options.input, options.output)
    except OdeDeployError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m odedeploy.runtime", description=__doc__, epilog=EXIT_CODES
    )
    parser.add_argument("file", type=Path, help="exported ONNX file")
    parser.add_argument(
        "input",
        type=Path,
        nargs="?",
        help=".npy with the only input, or .npz with the inputs by name (or as arr_0, arr_1, …)",
    )
    parser.add_argument(
        "-o", "--output", type=Path, help=".npy for an only output, or .npz with outputs by name"
    )
    parser.add_argument("--self-test", action="store_true", help="run the file's golden inputs")
    parser.add_argument("--threads", type=int, help="threads of one operator (all cores)")
    parser.add_argument(
        "--provider", action="append", help="onnxruntime execution provider; repeat for more"
    )
    return parser


def _self_test(model: Model) -> None:
    check = check_golden(model)
    if not check:
        raise FellShort(f"{model.file} fell short of its {check}.")
    print(check)


def _run(model: Model, source: Path, destination: Path | None) -> None:
    if destination is not None:
        _check_destination(destination, model)
    outputs = model.run(_read(source, model))
    for name, array in outputs.items():
        print(f"{name}  {array.dtype}  {array.shape}")
        if destination is None:
            print(np.array2string(array, threshold=20, edgeitems=3))
    if destination is not None:
        _write(destination, outputs)
        print(f"wrote {destination}")


def _read(source: Path, model: Model) -> Arrays:
    names = [spec.name for spec in model.inputs]
    try:
        loaded = unpack_arrays(source)
    except ValueError as error:
        raise BadInput(
            f"{source} is no readable .npy or .npz file ({error}); save it with numpy.save."
        ) from error
    if isinstance(loaded, np.ndarray):
        if len(names) != 1:
            raise BadInput(f"{source} holds one array, the model takes {names}; give an .npz.")
        return {names[0]: loaded}
    numbered = [f"arr_{i}" for i in range(len(names))]
    if set(loaded) == set(numbered):
        return {name: loaded[number] for name, number in zip(names, numbered, strict=True)}
    return loaded


def _check_destination(destination: Path, model: Model) -> None:
    allowed = (".npy", ".npz") if len(model.outputs) == 1 else (".npz",)
    if destination.suffix not in allowed:
        raise BadInput(
            f"{destination} must end in {' or '.join(allowed)} for "
            f"{len(model.outputs)} output(s); rename it."
        )


def _write(destination: Path, outputs: Arrays) -> None:
    if destination.suffix == ".npz":
        files.replace(destination, pack_arrays(outputs))
        return
    with files.replacing(destination) as file:
        np.save(file, next(iter(outputs.values())))


if __name__ == "__main__":
    sys.exit(main())
