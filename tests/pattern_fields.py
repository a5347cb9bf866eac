"""What the vector field reads, and what it is made of."""

from __future__ import annotations

import torch
from pattern_base import Built, Conditioned, Field, Model, Solver, mlp, pattern, rows, unit
from torch import Tensor, nn
from torchdiffeq import odeint


@pattern("time is never read")
def autonomous_field() -> Built:
    return Solver(odeint, autonomous=True), rows()


@pattern("context stored on the field before the call")
def context_on_the_field() -> Built:
    class Stored(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(3, 3)
            self.net = Field(6)
            self.context: Tensor | None = None

        def field(self, t: Tensor, y: Tensor) -> Tensor:
            assert self.context is not None
            return self.net(t, torch.cat([y, self.context], 1))[:, :3]

        def forward(self, y: Tensor) -> Tensor:
            self.context = self.embed(y)
            return odeint(self.field, y, torch.tensor([0.0, 1.0]))[-1]

    return Stored(), rows()


@pattern("a closure over a second input")
def two_inputs() -> Built:
    class Forced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Field()

        def forward(self, y: Tensor, force: Tensor) -> Tensor:
            return odeint(lambda t, x: self.net(t, x) + force, y, torch.tensor([0.0, 1.0]))[-1]

    return Forced(), {**rows(), "force": torch.randn(8, 3)}


@pattern("class labels: f(t, x, y)")
def class_conditional() -> Built:
    def forward(m: Model, y: Tensor, c: Tensor) -> Tensor:
        def velocity(t: Tensor, x: Tensor, label: Tensor) -> Tensor:
            time = t * torch.ones(x.shape[0], 1)
            return m.net(torch.cat([x, time, m.embed(label)], 1))

        return odeint(lambda t, x: velocity(t, x, c), y, unit())[-1]

    model = Conditioned(forward, net=mlp(8, 3), embed=nn.Embedding(5, 4))
    return model, {**rows(), "c": torch.arange(8) % 5}


@pattern("guidance: a scale that is a number at run time", static=("c",))
def guidance_scale() -> Built:
    def forward(m: Model, y: Tensor, c: Tensor) -> Tensor:
        def guided(t: Tensor, x: Tensor) -> Tensor:
            free = m.net(t, x)
            return free + c * (m.label(t, x) - free)

        return odeint(guided, y, unit())[-1]

    return Conditioned(forward, net=Field(), label=Field()), {**rows(), "c": torch.tensor(1.5)}


@pattern("time expanded to the batch and concatenated, convolution, norms, dropout")
def convolution_with_norm_and_dropout() -> Built:
    class Images(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
            self.conv = nn.Conv2d(5, 4, 3, padding=1)
            self.norm = nn.GroupNorm(2, 4, eps=0.1)
            self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))

        def field(self, t: Tensor, y: Tensor) -> Tensor:
            time = t.expand(y.shape[0], 1, *y.shape[2:])
            return self.conv(torch.cat([self.norm(torch.tanh(y)), time], 1))

        def forward(self, image: Tensor) -> Tensor:
            state = odeint(self.field, self.stem(image), torch.tensor([0.0, 1.0]))[-1]
            return self.head(state)

    return Images(), {"image": torch.rand(8, 1, 4, 4)}


@pattern("sines of the expanded time")
def time_expanded_and_embedded() -> Built:
    class Embedded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(3 + 8, 16), nn.SiLU(), nn.Linear(16, 3))
            self.register_buffer("frequencies", torch.arange(1.0, 5.0))

        def field(self, t: Tensor, y: Tensor) -> Tensor:
            phase = t.expand(y.shape[0], 1) * self.frequencies
            return self.net(torch.cat([y, phase.sin(), phase.cos()], 1))

        def forward(self, y: Tensor) -> Tensor:
            return odeint(self.field, y, torch.tensor([0.0, 1.0]))[-1]

    return Embedded(), rows()


@pattern("a hypernetwork: weights computed from time")
def hypernetwork() -> Built:
    def forward(m: Model, y: Tensor) -> Tensor:
        def field(t: Tensor, x: Tensor) -> Tensor:
            weight, bias = m.hyper(t.view(1, 1)).view(-1).split([9, 3])
            return torch.tanh(nn.functional.linear(x, weight.view(3, 3), bias))

        return odeint(field, y, unit())[-1]

    return Model(forward, hyper=mlp(1, 12)), rows()


@pattern("self-attention over tokens")
def attention() -> Built:
    def forward(m: Model, y: Tensor) -> Tensor:
        def field(t: Tensor, x: Tensor) -> Tensor:
            h = m.norm(x)
            return m.mix(h, h, h, need_weights=False)[0] * t.cos()

        return odeint(field, y, unit())[-1]

    mix = nn.MultiheadAttention(4, 2, batch_first=True)
    return Model(forward, mix=mix, norm=nn.LayerNorm(4, eps=0.1)), rows(3, 4)


@pattern("a dense graph layer; the adjacency matrix has no batch", static=("c",))
def dense_graph() -> Built:
    def forward(m: Model, y: Tensor, c: Tensor) -> Tensor:
        return odeint(lambda t, x: m.net(c @ x) - x, y, unit())[-1]

    weights = torch.rand(6, 6)
    adjacency = weights / weights.sum(1, keepdim=True)
    return Conditioned(forward, net=mlp(2, 2)), {**rows(6, 2), "c": adjacency}


@pattern("a scattered graph layer over a list of edges")
def scatter_graph() -> Built:
    def forward(m: Model, y: Tensor) -> Tensor:
        source, target = m.edges

        def field(t: Tensor, x: Tensor) -> Tensor:
            messages = torch.tanh(m.net(x[:, source]))
            return torch.zeros_like(x).index_add(1, target, messages) - x

        return odeint(field, y, unit())[-1]

    edges = torch.tensor([[0, 1, 2, 3, 4, 0], [1, 2, 3, 4, 0, 2]])
    return Model(forward, net=mlp(2, 2), edges=edges), rows(5, 2)


@pattern("a sparse adjacency matrix: torch.sparse.mm")
def sparse_graph() -> Built:
    def forward(m: Model, y: Tensor) -> Tensor:
        def field(t: Tensor, x: Tensor) -> Tensor:
            nodes = torch.tanh(m.net(x)).permute(1, 0, 2).reshape(5, -1)
            mixed = torch.sparse.mm(m.adjacency, nodes) + m.adjacency.t() @ nodes
            return mixed.reshape(5, x.shape[0], 2).permute(1, 0, 2) - x

        return odeint(field, y, unit())[-1]

    edges = torch.tensor([[0, 1, 2, 3, 4, 0, 0], [1, 2, 3, 4, 0, 2, 1]])
    adjacency = torch.sparse_coo_tensor(edges, torch.rand(7), (5, 5), check_invariants=True)
    return Model(forward, net=mlp(2, 2), adjacency=adjacency), rows(5, 2)


@pattern("LayerNorm")
def layer_norm() -> Built:
    field = lambda m: lambda t, x: m.net(m.norm(x)) * t  # noqa: E731
    return Model(lambda m, y: odeint(field(m), y, unit())[-1],
                 net=mlp(3, 3), norm=nn.LayerNorm(3, eps=0.5)), rows()


@pattern("BatchNorm, in evaluation mode")
def batch_norm() -> Built:
    norm = nn.BatchNorm1d(3)
    norm.running_mean.copy_(torch.randn(3))
    norm.running_var.copy_(torch.rand(3) + 0.5)
    field = lambda m: lambda t, x: m.net(m.norm(x))  # noqa: E731
    return Model(lambda m, y: odeint(field(m), y, unit())[-1], net=mlp(3, 3), norm=norm), rows()


@pattern("a table looked up by time")
def table_of_time() -> Built:
    def forward(m: Model, y: Tensor) -> Tensor:
        def field(t: Tensor, x: Tensor) -> Tensor:
            i = (torch.searchsorted(m.knots, t) - 1).clamp(0, len(m.knots) - 2)
            part = (t - m.knots[i]) / (m.knots[i + 1] - m.knots[i])
            return m.net(t, x) + m.values[i] + part * (m.values[i + 1] - m.values[i])

        return odeint(field, y, unit(), rtol=1e-7, atol=1e-7)[-1]

    table = {"knots": torch.linspace(0, 1, 5), "values": torch.randn(5, 3)}
    return Model(forward, net=Field(), **table), rows()


@pattern("controlled: an input series interpolated at the time, index by `.item()`")
def controlled() -> Built:
    def forward(m: Model, y: Tensor, c: Tensor) -> Tensor:
        knots = torch.linspace(0, 1, c.shape[1])

        def field(t: Tensor, x: Tensor) -> Tensor:
            i = int((torch.bucketize(t, knots) - 1).clamp(0, c.shape[1] - 2).item())
            part = (t - knots[i]) / (knots[i + 1] - knots[i])
            force = c[:, i] + part * (c[:, i + 1] - c[:, i])
            return (m.net(x).view(-1, 3, 2) @ force.unsqueeze(2)).squeeze(2)

        return odeint(field, y, unit(), rtol=1e-7, atol=1e-7)[-1]

    return Conditioned(forward, net=mlp(3, 6)), {**rows(), "c": torch.randn(8, 5, 2)}


@pattern("a Python branch on time")
def branch_on_time() -> Built:
    def forward(m: Model, y: Tensor) -> Tensor:
        def field(t: Tensor, x: Tensor) -> Tensor:
            if t < 0.5:
                return m.early(t, x) * (0.5 - t)
            return m.late(t, x) * (t - 0.5)

        return odeint(field, y, torch.tensor([0.0, 0.5, 1.0]), rtol=1e-7, atol=1e-7)[-1]

    return Model(forward, early=Field(), late=Field()), rows()


@pattern("fixed steps over a schedule held in a Python list")
def schedule_by_index() -> Built:
    rates = [0.1, 0.5, 1.0, 0.2]

    def forward(m: Model, y: Tensor) -> Tensor:
        field = lambda t, x: m.net(t, x) * rates[min(int(t * 4), 3)]  # noqa: E731
        return odeint(field, y, unit(), method="euler", options={"step_size": 0.25})[-1]

    return Model(forward, net=Field()), rows()
