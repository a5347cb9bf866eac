"""``patients``: the next visit's laboratory values at its true date, from all earlier visits.

A gated recurrence and the traces of each value jump at every visit, knowing the days in between;
from the last visit on, the state drifts by an ODE of its own to the date that is asked for; a
linear head reads the change since each value was last measured. dh/dt = g(h) (c(h) − h), as in
GRU-ODE, keeps the state bounded. The time from the last visit to the date is the length of the
solve, by rescaling to s ∈ [0, 1]: 309 days are 309 days, for every patient of a batch.

Sources: Chen, Rubanova, Bettencourt, Duvenaud, *Neural Ordinary Differential Equations*,
NeurIPS 2018 (arXiv 1806.07366), section 5; Rubanova, Chen, Duvenaud, *Latent ODEs for
Irregularly-Sampled Time Series*, NeurIPS 2019 (arXiv 1907.03907); De Brouwer et al.,
*GRU-ODE-Bayes*, NeurIPS 2019 (arXiv 1905.12374).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torchdiffeq import odeint

from odedeploy.models import pbcseq, publishing
from odedeploy.models.recurrence import Recurrence
from odedeploy.models.tasks import Batch, Metrics, Recipe, Task

NAME = "patients"
MEMORY, STATE = 16, 12
YEAR = 365.25
AHEAD = 3
"""In training, the visit to predict is one of the next three."""

DROPPED = 0.1
"""Share of the values that a training step does not see."""

RECIPE = Recipe(
    epochs=16, tolerances=(1e-3,) * 14 + (1e-5,) * 2, batch=64, learning_rate=5e-3,
    weight_decay=0.1, averaging=0.99,
)  # fmt: skip


class Scale(nn.Module):
    """Visits' values in and out of standard deviations of the training patients, logs of skewed."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: Tensor | None = None, deviation: Tensor | None = None) -> None:
        super().__init__()
        size = len(pbcseq.VALUES)
        self.register_buffer("mean", torch.zeros(size) if mean is None else mean)
        self.register_buffer("deviation", torch.ones(size) if deviation is None else deviation)

    @classmethod
    def of(cls, values: Tensor, observed: Tensor) -> Scale:
        """Mean and standard deviation over what is observed of values (…, 12)."""
        logs, seen = _logarithms(values, observed).flatten(0, -2), observed.flatten(0, -2)
        mean = logs.sum(0) / seen.sum(0)
        return cls(mean, (((logs - mean) * seen).square().sum(0) / seen.sum(0)).sqrt())

    def forward(self, values: Tensor, observed: Tensor) -> Tensor:
        """Values (…, k) in standard deviations, 0 where nothing is observed."""
        k = values.shape[-1]
        logs = _logarithms(values, observed)
        return (logs - self.mean[:k]) / self.deviation[:k] * observed

    def units(self, labs: Tensor) -> dict[str, Tensor]:
        """Laboratory values (batch, 7) in their units, by name."""
        k = len(pbcseq.LABS)
        found = (self.mean[:k] + self.deviation[:k] * labs).unbind(-1)
        return {
            name.replace(".", "_"): value.exp() if name in pbcseq.LOGARITHMIC else value
            for name, value in zip(pbcseq.LABS, found, strict=True)
        }


def _logarithms(values: Tensor, observed: Tensor) -> Tensor:
    k = len(pbcseq.LOGARITHMIC)
    there = observed[..., :k]
    return torch.cat([torch.log(values[..., :k] + (1 - there)), values[..., k:]], dim=-1)


class Traces(nn.Module):
    """Means of each value that forget at rates of their own: (batch, visits, k) → (batch, 2, k).

    The trace of a value jumps at every visit that measured it and decays in between, dm/dt = −r m,
    with a learned rate r per value, from a half-year and from three years; divided by the same
    trace of what was observed, and drawn towards the training patients' mean, 0.
    """

    def __init__(self, values: int) -> None:
        super().__init__()
        years = torch.tensor([0.5, 3.0])[:, None].expand(-1, values)
        self.log_rate = nn.Parameter(-years.log())
        self.log_prior = nn.Parameter(torch.full((2, values), -2.0))

    def forward(self, known: Tensor, observed: Tensor, ago: Tensor) -> Tensor:
        decay = torch.exp(-ago[..., None, None] * self.log_rate.exp()) * observed[:, :, None]
        return (decay * known[:, :, None]).sum(dim=1) / (decay.sum(dim=1) + self.log_prior.exp())


class VectorField(nn.Module):
    """f(h) = g(h) (c(h) − h) of a state (batch, size), per year; it does not depend on time."""

    def __init__(self, size: int = STATE) -> None:
        super().__init__()
        self.gate = nn.Linear(size, size)
        self.goal = nn.Linear(size, size)
        self.evaluations = 0

    def forward(self, h: Tensor) -> Tensor:
        self.evaluations += 1
        return torch.sigmoid(self.gate(h)) * (torch.tanh(self.goal(h)) - h)


class PatientOde(nn.Module):
    """Laboratory values at a date, from the visits before it.

    ``tolerance`` is rtol = atol of the adaptive solve. ``adjoint_tolerance`` goes unused: training
    runs backwards through the solver.
    """

    dynamic_axes = {name: {1: "visits"} for name in ("values", "observed", "day")}

    def __init__(
        self,
        memory: int = MEMORY,
        state: int = STATE,
        scale: Callable[[], Scale] = Scale,
        tolerance: float = 1e-5,
    ) -> None:
        super().__init__()
        values = len(pbcseq.VALUES)
        self.scale = scale()
        self.recurrence = Recurrence(2 * values + 5, memory, backwards=False)
        self.traces = Traces(values)
        self.blend = nn.Parameter(torch.full((2, len(pbcseq.LABS)), 0.2))
        self.enter = nn.Linear(memory + 4 * values + 3, state)
        self.field = VectorField(state)
        self.change = nn.Linear(state, len(pbcseq.LABS))
        self.tolerance = self.adjoint_tolerance = tolerance

    @property
    def evaluations(self) -> int:
        """Evaluations of the vector field so far."""
        return self.field.evaluations

    def forward(
        self, values: Tensor, observed: Tensor, day: Tensor, patient: Tensor, date: Tensor
    ) -> dict[str, Tensor]:
        """Each laboratory value (batch,) at ``date`` (batch,), in its unit.

        ``values`` (batch, visits, 12) at ascending ``day`` (batch, visits) since enrolment;
        ``observed`` is 1 for a value and 0 where it is missing or the visit padding; ``patient``
        (batch, 3) is age at enrolment, 1 for a woman, 1 for D-penicillamine.
        """
        return self.scale.units(self.standardised(values, observed, day, patient, date))

    def standardised(
        self, values: Tensor, observed: Tensor, day: Tensor, patient: Tensor, date: Tensor
    ) -> Tensor:
        """As ``forward``, (batch, 7) in standard deviations of the training patients."""
        known = self.scale(values, observed)
        about, gap = centred(patient), gaps(day)
        there = observed.amax(dim=2)
        latest = (day * there).amax(dim=1, keepdim=True)
        ago = (latest - day) / YEAR
        each = torch.ones_like(ago)[..., None] * about[:, None]
        seen = torch.cat([known, observed, ago[..., None], gap[..., None], each], dim=-1)
        memory = self.recurrence(seen, there)
        last, ever = latest_known(known, observed)
        apart = self.traces(known, observed, ago) - last[:, None]
        told = torch.cat([memory, last, ever, apart.flatten(1), about], dim=-1)
        h = torch.tanh(self.enter(told))
        change: Tensor = self.change(self._drift(h, (date[:, None] - latest) / YEAR))
        labs = len(pbcseq.LABS)
        level: Tensor = (self.blend * apart[..., :labs]).sum(dim=1)
        return last[:, :labs] + level + change

    def _drift(self, h: Tensor, years: Tensor) -> Tensor:
        """The state (batch, size) after ``years`` (batch, 1)."""
        tolerance = self.tolerance
        times = torch.tensor([0.0, 1.0], dtype=h.dtype, device=h.device)
        trajectory = odeint(
            lambda s, state: years * self.field(state), h, times,
            rtol=tolerance, atol=tolerance, method="dopri5",
        )  # fmt: skip
        return cast(Tensor, trajectory[-1])


def centred(patient: Tensor) -> Tensor:
    """Age, sex and treatment (batch, 3) around zero, age in tens of years."""
    return (patient - patient.new_tensor([50.0, 0.5, 0.5])) / patient.new_tensor([10, 1, 1])


def gaps(day: Tensor) -> Tensor:
    """Years since the visit before, since enrolment for the first: (batch, visits)."""
    return (day - nn.functional.pad(day, (1, 0))[:, :-1]) / YEAR


def latest_known(known: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
    """The last observed of each value (batch, visits, k) → (batch, k), and whether there is one."""
    later = observed.sum(dim=1, keepdim=True) - torch.cumsum(observed, dim=1)
    newest = observed * (later < 0.5).to(observed)
    return (known * newest).sum(dim=1), newest.sum(dim=1)


def build() -> tuple[PatientOde, dict[str, np.ndarray]]:
    """The trained model in eval mode, and 632 prefixes of patients not trained on."""
    model = PatientOde()
    model.load_state_dict(publishing.shipped_weights(NAME))
    return model.eval(), pbcseq.shipped()


def task(data: Path | None = None) -> Task:
    """Predict visits of the training patients; ``data`` is the folder of pbcseq as CSV.

    Without it the file is fetched once. Raises BadInput for data that is missing or damaged.
    """
    return predict(PatientOde, RECIPE, pbcseq.load(data))


def predict(model: Callable[..., nn.Module], recipe: Recipe, patients: pbcseq.Patients) -> Task:
    """The task of training ``model``, anything with ``standardised``, on pbcseq."""
    training = patients.part("training")
    scale = partial(
        Scale.of, torch.from_numpy(training.values), torch.from_numpy(training.observed)
    )
    prefixes = tensors(pbcseq.following(training, AHEAD))

    def batch(rows: Tensor, generator: Generator) -> Batch:
        values, observed, *rest = (part[rows] for part in prefixes)
        kept = (torch.rand(observed.shape, generator=generator) >= DROPPED).float() * observed
        return (values * kept, kept, *rest)

    def measured(part: str) -> Callable[[nn.Module], Metrics]:
        return lambda trained: measure(trained, tensors(pbcseq.following(patients.part(part))))

    return Task(
        name=NAME,
        model=partial(model, scale=scale),
        size=len(prefixes[0]),
        batch=batch,
        loss=loss,
        held_out=measured("validation"),
        test=measured("held-out"),
        recipe=recipe,
        data=pbcseq.FACTS,
    )


def tensors(prefixes: pbcseq.Prefixes) -> Batch:
    """Forward's arguments, target and known as tensors."""
    return tuple(torch.from_numpy(array) for array in prefixes[:-1])


def loss(model: nn.Module, batch: Batch) -> tuple[Tensor, Metrics]:
    """Mean squared error in standard deviations of the values that were measured."""
    squares = errors(model, batch).square()
    mean = squares.sum() / batch[-1].sum()
    return mean, {"rmse": mean.sqrt().item()}


def errors(model: nn.Module, batch: Batch) -> Tensor:
    """Prediction less truth (batch, 7) in standard deviations, 0 for what was not measured."""
    *inputs, target, known = batch
    ode = cast(PatientOde, model)
    wrong: Tensor = (ode.standardised(*inputs) - ode.scale(target, known)) * known
    return wrong


@torch.no_grad()
def measure(model: nn.Module, batch: Batch) -> Metrics:
    """RMSE over all measured values, in standard deviations of the training patients."""
    device = next(model.parameters()).device
    return loss(model, tuple(part.to(device) for part in batch))[1]
