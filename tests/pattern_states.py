"""What is solved for."""

from __future__ import annotations

import torch
from pattern_base import Built, Conditioned, Field, Model, mlp, pattern, rows, unit
from torch import Tensor, nn
from torchdiffeq import odeint

Pair = tuple[Tensor, Tensor]


@pattern("a tuple: the state and its accumulated energy")
def tuple_state() -> Built:
    def forward(m: Model, y: Tensor) -> dict[str, Tensor]:
        def field(t: Tensor, state: Pair) -> Pair:
            slope = m.net(t, state[0])
            return slope, (slope**2).sum(1)

        start = (y, torch.zeros(y.shape[0]))
        position, energy = odeint(field, start, unit())
        return {"position": position[-1], "energy": energy[-1]}

    return Model(forward, net=Field()), rows()


@pattern("three tensors of different ranks, one of them never read")
def three_tensors() -> Built:
    def forward(m: Model, y: Tensor) -> tuple[Tensor, ...]:
        def field(t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            maps, vector, _ = state
            slope = torch.tanh(m.mix(vector))
            return maps * -0.5 + slope[:, :, None, None], slope, (slope * vector).sum(1)

        start = (y[:, :, None, None].expand(-1, -1, 2, 2), y, y.new_zeros(y.shape[0]))
        return tuple(part[-1] for part in odeint(field, start, unit()))

    return Model(forward, mix=nn.Linear(3, 3)), rows()


@pattern("position and velocity as a tuple")
def position_and_velocity() -> Built:
    def forward(m: Model, y: Tensor) -> Tensor:
        def field(t: Tensor, state: Pair) -> Pair:
            position, velocity = state
            return velocity, m.net(t, position) - 0.1 * velocity

        position, _ = odeint(field, (y, torch.zeros_like(y)), torch.linspace(0, 1, 3))
        return position.transpose(0, 1)

    return Model(forward, net=Field()), rows()


@pattern("position and velocity in one tensor, cut in two by the field")
def second_order_chunks() -> Built:
    def field(m: Model, t: Tensor, state: Tensor) -> Tensor:
        position, velocity = torch.chunk(state, 2, dim=-1)
        return torch.cat([velocity, m.net(position)], -1)

    def forward(m: Model, y: Tensor) -> Tensor:
        return odeint(lambda t, x: field(m, t, x), y, unit())[-1][..., :2]

    return Model(forward, net=mlp(2, 2)), rows(4)


@pattern("zeros appended to a vector")
def augmented_vector() -> Built:
    def forward(m: Model, y: Tensor) -> Tensor:
        wide = torch.cat([y, torch.zeros(y.shape[0], 2)], 1)
        return m.head(odeint(m.field, wide, unit())[-1])

    return Model(forward, field=Field(5), head=nn.Linear(5, 1)), rows()


@pattern("zero channels appended to an image")
def augmented_image() -> Built:
    def forward(m: Model, y: Tensor) -> Tensor:
        batch, _, height, width = y.shape
        wide = torch.cat([y, torch.zeros(batch, 3, height, width)], 1)
        field = lambda t, x: torch.tanh(m.conv(x)) - 0.1 * x  # noqa: E731
        return odeint(field, wide, unit())[-1].flatten(1)

    return Model(forward, conv=nn.Conv2d(5, 5, 3, padding=1)), rows(2, 4, 4)


@pattern("a state of rank 1, one number a sample")
def scalar_state() -> Built:
    field = lambda t, x: -x * (1 + x.sin()) * t.cos()  # noqa: E731
    return Model(lambda m, y: odeint(field, y[:, 0] * m.scale, unit())[-1],
                 scale=nn.Parameter(torch.tensor(0.7))), rows()


@pattern("a sequence of vectors, flattened by the field")
def sequence_state() -> Built:
    def forward(m: Model, y: Tensor) -> Tensor:
        def field(t: Tensor, x: Tensor) -> Tensor:
            return m.net(t, x.reshape(-1, x.shape[-1])).view(*x.shape)

        return odeint(field, y, unit())[-1]

    return Model(forward, net=Field()), rows(4, 3)


@pattern("the batch is not the state's first axis")
def batch_on_the_second_axis() -> Built:
    def forward(m: Model, y: Tensor) -> Tensor:
        turned = y.permute(1, 0, 2)
        return odeint(lambda t, x: m.net(t, x), turned, unit())[-1].permute(1, 0, 2)

    return Model(forward, net=Field()), rows(4, 3)


@pattern("context carried in the state with a zero derivative")
def context_in_the_state() -> Built:
    def forward(m: Model, y: Tensor, c: Tensor) -> Tensor:
        def field(t: Tensor, state: Tensor) -> Tensor:
            return torch.cat([m.net(state), torch.zeros_like(state[:, 3:])], 1)

        return odeint(field, torch.cat([y, c], 1), unit())[-1][:, :3]

    return Conditioned(forward, net=mlp(5, 3)), {**rows(), "c": torch.randn(8, 2)}
