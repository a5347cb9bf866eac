"""The reference models: trained Neural ODEs with their weights, calibration inputs and recipes.

One file per model, or per pair of models with the same weights. Next to its architecture it
provides ``task``, as ``Trainable`` says, and a function that builds the trained module in eval mode
with its calibration inputs by name, batch first; one line in ``MODELS`` makes it known. Nothing is
loaded before a model is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from odedeploy.errors import BadInput, UnknownName

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from odedeploy.models.publishing import TrainingResult
    from odedeploy.models.tasks import Progress, Task

WEIGHTS = Path(__file__).parent / "weights"
"""The packaged files: per model its weights and its card, per data set its calibration inputs."""


class Entry(NamedTuple):
    """One line of the table: what the model is, and the module and function that provide it.

    ``trained`` names the model whose weights and card it shares, when it has none of its own.
    """

    summary: str
    module: str
    build: str = "build"
    trained: str | None = None


class Trainable(Protocol):
    """What the module of every model provides."""

    def task(self, data: Path | None) -> Task:
        """What to train, on the data in a folder or, without one, fetched once."""


MODELS: Mapping[str, Entry] = MappingProxyType(
    {
        "mnist-odenet": Entry(
            "The ODE-Net of Chen et al. 2018 on MNIST: stem, one ODE block of 64 channels, head",
            "odedeploy.models.mnist_odenet",
        ),
        "mnist-odenet-smooth": Entry(
            "The same ODE-Net on MNIST, regularised to need fewer evaluations",
            "odedeploy.models.mnist_odenet_smooth",
        ),
        "mnist-rknet": Entry(
            "The same network on MNIST, trained through the steps of a fixed Runge–Kutta solve",
            "odedeploy.models.mnist_rknet",
        ),
        "mnist-resnet": Entry(
            "The same stem and head on MNIST around six residual blocks; solves no ODE",
            "odedeploy.models.mnist_resnet",
        ),
        "mnist-mlp": Entry(
            "A perceptron of one hidden layer on MNIST; solves no ODE",
            "odedeploy.models.mnist_mlp",
        ),
        "flow-digits": Entry(
            "A flow-matching generator of digits by their label: U-Net field on 28 × 28 pixels",
            "odedeploy.models.flow_digits",
        ),
        "cnf-moons": Entry(
            "Continuous normalizing flow of two moons: latent and log-density of a point",
            "odedeploy.models.cnf_moons",
        ),
        "cnf-moons-sampler": Entry(
            "The other direction of cnf-moons: points from noise",
            "odedeploy.models.cnf_moons",
            "build_sampler",
            "cnf-moons",
        ),
        "cnf-tabular": Entry(
            "Continuous normalizing flow of ten measured columns: latent and log-density of a row",
            "odedeploy.models.cnf_tabular",
        ),
        "cnf-tabular-hutchinson": Entry(
            "cnf-tabular with a random trace, its noise an input",
            "odedeploy.models.cnf_tabular",
            "build_hutchinson",
            "cnf-tabular",
        ),
        "cnf-tabular-sampler": Entry(
            "The other direction of cnf-tabular: rows from noise",
            "odedeploy.models.cnf_tabular",
            "build_sampler",
            "cnf-tabular",
        ),
        "latent-ode-spirals": Entry(
            "The latent ODE of Chen et al. 2018 on spirals: observed and queried at any times",
            "odedeploy.models.latent_ode",
        ),
        "patients": Entry(
            "Laboratory values of liver patients at a date, from their earlier, irregular visits",
            "odedeploy.models.patients",
        ),
    }
)

JUDGES: Mapping[str, Entry] = MappingProxyType(
    {
        "digit-classifier": Entry(
            "A convolutional classifier that judges generated digits",
            "odedeploy.models.digit_classifier",
        ),
    }
)
"""Models that solve no ODE and measure those that do; ``train`` and ``publish`` know them too."""


def build(name: str) -> tuple[nn.Module, dict[str, np.ndarray]]:
    """The model with its shipped weights, in eval mode, and its shipped calibration inputs.

    The inputs are arrays by the names of forward's arguments, batch first; no training step saw
    them. Raises UnknownName for a name that is not in ``MODELS``.
    """
    entry = _entry(name)
    function: Callable[[], tuple[nn.Module, dict[str, np.ndarray]]]
    function = getattr(import_module(entry.module), entry.build)
    return function()


def address(name: str) -> str:
    """``"package.module:callable"`` of the model's ``build``; raises UnknownName."""
    entry = _entry(name)
    return f"{entry.module}:{entry.build}"


def source(name: str) -> str:
    """The model whose weights and card this one has, itself or another; raises UnknownName."""
    return _entry(name).trained or name


def card(name: str) -> dict[str, Any]:
    """The shipped model card: data, command, recipe, accuracy, tolerances, seconds, versions.

    Raises UnknownName for a name that is not in ``MODELS``.
    """
    path = WEIGHTS / f"{source(name)}.json"
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def train(
    name: str,
    *,
    folder: Path,
    data: Path | None = None,
    seed: int = 0,
    epochs: int | None = None,
    regularise: Sequence[str] = (),
    tolerance: float | None = None,
    adjoint_tolerance: float | None = None,
    gradient_error: float = 0.0,
    checkpoints: int = 0,
    device: str = "auto",
    fresh: bool = False,
    report: Callable[[Progress], None] = lambda _: None,
) -> TrainingResult | None:
    """Train the model by its own recipe; write its checkpoint, weights and card to ``folder``.

    A checkpoint of the same run in ``folder`` is resumed; ``fresh`` starts over. ``data`` is the
    folder of the data set; without it the files are fetched once. ``device`` is ``auto``, ``cpu``
    or ``cuda``. In place of the model's own recipe: ``epochs`` stretches or shrinks it;
    ``regularise`` are texts NAME=WEIGHT of the table ``regularisers``; ``tolerance`` and
    ``adjoint_tolerance`` are rtol = atol of the forward and the backward solve, and with
    ``gradient_error`` both are chosen at the start of each epoch, the loosest whose gradient is
    that close to a tight one; ``checkpoints`` keeps so many states for the checkpointed adjoint.
    Under ``torchrun`` every process calls this; all but the first return None.

    Raises UnknownName for the name, device or regulariser, BadInput for unusable data, folder,
    seed, epochs, weight or tolerance, for what the model's training cannot do, or a checkpoint of
    another run, Diverged for a loss that is not finite, Unusable without CUDA.
    """
    module = _trainable(name)
    from odedeploy.models import parallel, publishing, regularisers, training

    training.place(device)
    weights = regularisers.parse(regularise)
    _make(folder)
    task = module.task(data)
    recipe = task.recipe if epochs is None else task.recipe.lasting(epochs)
    recipe = recipe.solved(tolerance, adjoint_tolerance, gradient_error, checkpoints)
    recipe = recipe.regularised(weights) if weights else recipe
    checkpoint = folder / f"{name}.ckpt"
    asked = replace(task, recipe=recipe)
    training.run(asked, checkpoint, seed=seed, device=device, fresh=fresh, report=report)
    if not parallel.leads():
        return None
    return publishing.publish(task, checkpoint, folder, device=device)


def publish(
    name: str, *, checkpoint: Path, folder: Path, data: Path | None = None, device: str = "auto"
) -> TrainingResult:
    """Write weights and card of a checkpoint, finished or not, as ``train`` does at its end.

    Raises UnknownName, and BadInput for unusable data, a checkpoint of another model, or a folder
    that cannot be written.
    """
    module = _trainable(name)
    from odedeploy.models import publishing

    _make(folder)
    return publishing.publish(module.task(data), checkpoint, folder, device=device)


def _entry(name: str) -> Entry:
    if name not in MODELS:
        raise UnknownName("model", name, MODELS)
    return MODELS[name]


def _trainable(name: str) -> Trainable:
    entry = JUDGES[name] if name in JUDGES else _entry(name)
    if entry.trained:
        raise BadInput(f"{name} has the weights of {entry.trained}; train that one.")
    return cast(Trainable, import_module(entry.module))


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(
            f"The folder {folder} cannot be made ({error.strerror or error}); choose another."
        ) from error
