"""What is installed here: versions, execution providers, and combinations known to break."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnx",
    "onnx-ir",
    "onnxscript",
    "torch",
    "torchdiffeq",
    "scipy",
    "safetensors",
    "matplotlib",
    "psutil",
    "pooch",
    "openvino",
    "executorch",
    "ai-edge-litert",
    "litert-torch",
)


@dataclass(frozen=True)
class Environment:
    """``versions`` maps a distribution to its version, None when it is missing.

    ``problems`` are sentences: what is wrong and what to do.
    """

    python: str
    platform: str
    versions: dict[str, str | None]
    providers: tuple[str, ...]
    problems: tuple[str, ...]


def environment() -> Environment:
    """Looks at this interpreter; loads onnxruntime for its providers, and nothing else."""
    versions = {package: installed(package) for package in PACKAGES}
    providers, problem = execution_providers()
    problems = [*conflicts(installed), *([problem] if problem else [])]
    return Environment(
        platform.python_version(), platform.platform(), versions, providers, tuple(problems)
    )


def installed(package: str) -> str | None:
    """Version of an installed distribution, or None; nothing is imported."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def conflicts(installed: Callable[[str], str | None]) -> tuple[str, ...]:
    """Distributions that overwrite each other; ``installed`` maps a distribution to a version."""
    cpu, gpu = installed("onnxruntime"), installed("onnxruntime-gpu")
    if cpu and gpu:
        both = f"onnxruntime {cpu} and onnxruntime-gpu {gpu} are both installed"
        return (f"{both} and overwrite each other; uninstall both, then install one of them.",)
    return ()


def execution_providers() -> tuple[tuple[str, ...], str | None]:
    """Providers of the installed onnxruntime, and a sentence when it cannot be used."""
    try:
        providers = import_module("onnxruntime").get_available_providers()
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            return (), f"onnxruntime does not load ({error}); install it again."
        return (), "onnxruntime is not installed; pip install 'odedeploy[cpu]'."
    except (ImportError, OSError, AttributeError) as error:
        return (), f"onnxruntime does not load ({error}); install it again."
    return tuple(providers), None
