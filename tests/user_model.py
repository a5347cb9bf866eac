"""What a person's own model file looks like, with factories that go wrong in every way."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from torch import nn
from torchdiffeq import odeint

INTERVAL = torch.tensor([0.0, 1.0])


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))

    def field(self, t, y):
        return self.net(y) * torch.cos(t)

    def forward(self, x):
        return odeint(self.field, x, INTERVAL)[-1]


class Talkative(Model):
    def forward(self, x):
        print("a line of the model's own")
        return super().forward(x)


class OtherShape(Model):
    def field(self, t, y):
        return super().field(t, y)[:, :1]


class Diverging(Model):
    def field(self, t, y):
        return super().field(t, y) + 50 * y**3


def made(kind=Model, rows: int = 700):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(), torch.randn(rows, 2)


def build():
    return made()


def talkative():
    print("a line of the factory's own")
    return made(Talkative)


def without_inputs():
    return made()[0]


def other():
    model, inputs = made()
    with torch.no_grad():
        model.net[0].weight *= 2
    return model, inputs


def few():
    return made(rows=60)


def two():
    return made(rows=2)


def nan():
    model, inputs = made()
    inputs[5, 1] = float("nan")
    return model, inputs


def raises():
    raise RuntimeError("no such checkpoint")


def text():
    return "a model"


def other_shape():
    return made(OtherShape)


def diverging():
    return made(Diverging)


def waiting():
    Path("started").touch()
    print("waiting", file=sys.stderr)
    time.sleep(120)


number = 3
