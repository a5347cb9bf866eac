"""Networks and samplers of solver libraries as their users write them, none of it changed.

``MODELS`` maps ``"library: model"`` to a factory of the module and its inputs, 12 rows each,
seeded. A library is imported inside its factories, so that those of the others can be used
without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Built = tuple[nn.Module, dict[str, Tensor]]
MODELS: dict[str, Callable[[], Built]] = {}


def model(factory: Callable[[], Built]) -> Callable[[], Built]:
    library, name = factory.__name__.split("__")

    def seeded() -> Built:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            return factory()

    MODELS[f"{library}: {name.replace('_', ' ')}"] = seeded
    return seeded


class Called(nn.Module):
    """``forward(x)`` calls ``function(solver, x)``, ``solver`` being a part of the model."""

    def __init__(self, solver: Any, function: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.solver = solver
        self._function = function

    def forward(self, x: Tensor) -> Any:
        return self._function(self.solver, x)


def _network(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 24), nn.Tanh(), nn.Linear(24, outputs))


def _rows(*shape: int) -> dict[str, Tensor]:
    return {"x": torch.randn(12, *shape)}


@model
def torchdyn__dopri5() -> Built:
    from torchdyn.core import NeuralODE

    solver = NeuralODE(_network(3, 3), solver="dopri5", atol=1e-6, rtol=1e-6)
    return Called(solver, lambda node, x: node(x, torch.linspace(0, 1, 2))[1][-1]), _rows(3)


@model
def torchdyn__depth_concatenated_in_a_sequence() -> Built:
    from torchdyn.core import NeuralODE
    from torchdyn.nn import Augmenter, DepthCat

    field = nn.Sequential(DepthCat(1), _network(6, 5))
    solver = NeuralODE(
        field, solver="tsit5", sensitivity="adjoint", return_t_eval=False, atol=1e-6, rtol=1e-6
    )
    return Augmented(Augmenter(augment_dims=2), solver), _rows(3)


class Augmented(nn.Module):
    """Augmentation, a Neural ODE and a head, as in torchdyn's classifiers."""

    def __init__(self, augment: nn.Module, solver: nn.Module) -> None:
        super().__init__()
        self.net = nn.Sequential(augment, solver)
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.net(x)[-1])


@model
def torchdyn__euler_trajectory() -> Built:
    from torchdyn.core import NeuralODE

    solver = NeuralODE(_network(3, 3), solver="euler")
    return Called(solver, lambda node, x: node.trajectory(x, torch.linspace(0, 1, 8))), _rows(3)


@model
def torchdyn__rk4_backwards() -> Built:
    from torchdyn.core import NeuralODE

    solver = NeuralODE(_network(3, 3), solver="rk4", sensitivity="interpolated_adjoint")
    return Called(solver, lambda node, x: node(x, torch.linspace(1, 0, 5))[1][-1]), _rows(3)


@model
def torchcfm__mlp() -> Built:
    from torchcfm.models import MLP
    from torchcfm.utils import torch_wrapper
    from torchdyn.core import NeuralODE

    network = torch_wrapper(MLP(dim=2, time_varying=True))
    solver = NeuralODE(network, solver="dopri5", sensitivity="adjoint", atol=1e-4, rtol=1e-4)
    return Called(solver, lambda node, x: node.trajectory(x, torch.linspace(0, 1, 5))), _rows(2)


@model
def torchcfm__unet() -> Built:
    from torchcfm.models.unet.unet import UNetModelWrapper
    from torchdiffeq import odeint

    network = UNetModelWrapper(
        dim=(1, 8, 8), num_res_blocks=1, num_channels=32, channel_mult=[1, 2], num_heads=1,
        attention_resolutions="4",
    )
    nn.init.normal_(network.out[-1].weight, std=0.2)
    span = torch.linspace(0, 1, 2)

    def solve(network: Any, x: Tensor) -> Any:
        return odeint(network, x, span, rtol=1e-4, atol=1e-4, method="dopri5")[-1]

    return Called(network, solve), _rows(1, 8, 8)


@model
def zuko__cnf_sample() -> Built:
    import zuko

    flow = zuko.flows.CNF(3, hidden_features=(16, 16))
    return Called(flow, lambda flow, x: flow().transform.inv(x)), _rows(3)


@model
def zuko__cnf_conditional_sample() -> Built:
    import zuko

    class Conditional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.flow = zuko.flows.CNF(3, context=2, hidden_features=(16, 16))

        def forward(self, x: Tensor, context: Tensor) -> Tensor:
            return self.flow(context).transform.inv(x)

    return Conditional(), {**_rows(3), "context": torch.randn(12, 2)}


@model
def zuko__cnf_log_prob() -> Built:
    import zuko

    flow = zuko.flows.CNF(3, hidden_features=(16, 16))
    return Called(flow, lambda flow, x: flow().log_prob(x)), _rows(3)


def _flow_matching() -> Any:
    from flow_matching.utils import ModelWrapper

    class Velocity(ModelWrapper):
        def forward(self, x: Tensor, t: Tensor, **extras: Any) -> Tensor:
            time = t.expand(x.shape[0])[:, None]
            return self.model(torch.cat([x, time], 1))

    return Velocity(_network(3, 2))


@model
def flow_matching__midpoint_sample() -> Built:
    from flow_matching.solver import ODESolver

    def sample(network: Any, x: Tensor) -> Any:
        return ODESolver(network).sample(x_init=x, method="midpoint", step_size=0.1)

    return Called(_flow_matching(), sample), _rows(2)


@model
def flow_matching__dopri5_intermediates() -> Built:
    from flow_matching.solver import ODESolver

    def sample(network: Any, x: Tensor) -> Any:
        return ODESolver(network).sample(
            x_init=x, method="dopri5", step_size=None, time_grid=torch.linspace(0, 1, 4),
            return_intermediates=True,
        )

    return Called(_flow_matching(), sample), _rows(2)


@model
def flow_matching__exact_likelihood() -> Built:
    from flow_matching.solver import ODESolver

    def likelihood(network: Any, x: Tensor) -> Any:
        return ODESolver(network).compute_likelihood(
            x_1=x, log_p0=lambda z: -(z**2).sum(1) / 2, method="midpoint", step_size=0.1,
            exact_divergence=True,
        )[1]

    return Called(_flow_matching(), likelihood), _rows(2)


class Controlled(nn.Module):
    """torchcde's own example: a Neural CDE driven by an interpolated time series."""

    def __init__(self, interpolation: str, **solver: Any) -> None:
        super().__init__()
        self.start = nn.Linear(2, 4)
        self.net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 8), nn.Tanh())
        self.read = nn.Linear(4, 1)
        self.interpolation = interpolation
        self.settings = solver

    def func(self, t: Tensor, z: Tensor) -> Tensor:
        return self.net(z).view(z.shape[0], 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        import torchcde

        if self.interpolation == "linear":
            control = torchcde.LinearInterpolation(x)
        else:
            control = torchcde.CubicSpline(x)
        z0 = self.start(control.evaluate(control.interval[0]))
        z = torchcde.cdeint(
            X=control, func=self.func, z0=z0, t=control.interval, adjoint=False, **self.settings
        )
        return self.read(z[:, -1])


@model
def torchcde__hermite_cubic() -> Built:
    import torchcde

    series = torch.randn(12, 3, 2) / 2
    x = torchcde.hermite_cubic_coefficients_with_backward_differences(series)
    return Controlled("cubic", rtol=1e-6), {"x": x}


@model
def torchcde__linear_rk4() -> Built:
    return Controlled("linear", method="rk4", options={"step_size": 0.5}), _rows(3, 2)


class Batched(nn.Module):
    """A torchode solve on times that all samples share."""

    def __init__(self, build: Callable[[Any], Any], step: float | None = None) -> None:
        super().__init__()
        import torchode

        self.net = _network(3, 3)
        self.solver = build(torchode.ODETerm(self.field))
        self.step = step

    def field(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(y) * torch.cos(t)[:, None]

    def forward(self, x: Tensor) -> Tensor:
        import torchode

        times = torch.linspace(0, 1, 5).expand(x.shape[0], -1)
        problem = torchode.InitialValueProblem(y0=x, t_eval=times)
        step = None if self.step is None else torch.full_like(x[:, 0], self.step)
        return self.solver.solve(problem, dt0=step).ys


@model
def torchode__tsit5() -> Built:
    import torchode

    def build(term: Any) -> Any:
        controller = torchode.IntegralController(atol=1e-6, rtol=1e-6, term=term)
        return torchode.AutoDiffAdjoint(torchode.Tsit5(term=term), controller)

    return Batched(build), _rows(3)


@model
def torchode__fixed_heun() -> Built:
    import torchode

    def build(term: Any) -> Any:
        return torchode.AutoDiffAdjoint(torchode.Heun(term=term), torchode.FixedStepController())

    return Batched(build, 0.07), _rows(3)


@model
def torchode__solve_ivp() -> Built:
    import torchode

    class Function(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = _network(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            times = torch.tensor([0.0, 1.0])
            return torchode.solve_ivp(self.field, x, times, method="dopri5").ys[:, -1]

        def field(self, t: Tensor, y: Tensor) -> Tensor:
            return self.net(y) * t[:, None]

    return Function(), _rows(3)
