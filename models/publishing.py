"""Weights and model card: written from a checkpoint, read from the package."""

from __future__ import annotations

import json
import math
import platform
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from odedeploy import __version__, files
from odedeploy.errors import BadInput
from odedeploy.models import WEIGHTS
from odedeploy.models.checkpoint import Checkpoint, read
from odedeploy.models.tasks import Task
from odedeploy.models.training import place


@dataclass(frozen=True)
class TrainingResult:
    """The files of a finished run, and the content of its card."""

    checkpoint: Path
    weights: Path
    card_file: Path
    card: dict[str, Any]


def publish(task: Task, checkpoint: Path, folder: Path, device: str = "auto") -> TrainingResult:
    """Measure the model in ``checkpoint``; write ``NAME.safetensors`` and ``NAME.json``.

    The measurements use the model's own adaptive solve at its own tolerance; seed and recipe are
    the checkpoint's, whatever the task's own recipe. Raises BadInput for a checkpoint of another
    model or a folder that cannot be written.
    """
    saved = read(checkpoint)
    model = task.model()
    try:
        model.load_state_dict(saved.published)
    except RuntimeError as error:
        raise BadInput(f"{checkpoint} holds another model than {task.name}.") from error
    weights = to_safetensors({k: v.contiguous() for k, v in model.state_dict().items()})
    card = _card(task, saved, model.eval().to(place(device)), weights)
    result = TrainingResult(
        checkpoint, folder / f"{task.name}.safetensors", folder / f"{task.name}.json", card
    )
    files.replace(result.weights, weights)
    files.replace(result.card_file, (json.dumps(card, indent=2) + "\n").encode())
    return result


def shipped_weights(name: str) -> dict[str, Tensor]:
    """The packaged weights of a reference model: its state dictionary, on the CPU."""
    return load_file(WEIGHTS / f"{name}.safetensors")


def _card(task: Task, saved: Checkpoint, model: nn.Module, weights: bytes) -> dict[str, Any]:
    listed = {
        "tolerances": list(saved.recipe["tolerances"]),
        "adjoint_tolerances": list(saved.recipe.get("adjoint_tolerances", ())),
        "regularisers": dict(saved.recipe.get("regularisers", ())),
    }
    return {
        "name": task.name,
        "data": dict(task.data),
        "command": _command(task, saved),
        "seed": saved.seed,
        "recipe": saved.recipe | listed,
        "steps": {"done": saved.step, "planned": saved.schedule["total_steps"]},
        "seconds": round(saved.seconds, 1),
        "tolerance": getattr(model, "tolerance", None),
        "held_out": task.held_out(model),
        "test": task.test(model),
        "parameters": sum(math.prod(p.shape) for p in model.parameters()),
        "sha256": sha256(weights).hexdigest(),
        "versions": {
            "odedeploy": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchdiffeq": version("torchdiffeq"),
        },
    }


def _command(task: Task, saved: Checkpoint) -> str:
    """The command that trains such a model again; options say what its own recipe does not."""
    command = f"odedeploy train {task.name} --seed {saved.seed}"
    own, found = asdict(task.recipe), saved.recipe
    if found["epochs"] != own["epochs"]:
        command += f" --epochs {found['epochs']}"
    if found.get("regularisers", ()) != own["regularisers"]:
        pairs = found["regularisers"]
        return command + "".join(f" --regularise {name}={weight:g}" for name, weight in pairs)
    stretched = asdict(task.recipe.lasting(found["epochs"]))
    options = {"tolerances": "tolerance", "adjoint_tolerances": "adjoint-tolerance"}
    for field, option in options.items():
        values = found.get(field, ())
        if values and values != stretched[field]:
            command += f" --{option} {values[-1]:g}"
    command += " --auto-tol" if found.get("gradient_error", 0) != own["gradient_error"] else ""
    if found.get("checkpoints", 0) != own["checkpoints"]:
        command += f" --checkpoints {found['checkpoints']}"
    return command
