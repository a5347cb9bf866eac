"""Evaluations of a vector field with constants of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from odedeploy.errors import BadInput
from odedeploy.executor import Field, States

Values = Mapping[str, np.ndarray] | Mapping[str, Tensor]
"""By the name of the parameter that they stand in for, of its shape."""


def own_fields(
    field: Field, constants: Sequence[Values], model: nn.Module
) -> Field | Sequence[Field]:
    """``field`` once per evaluation, each with its constants in place of parameters of ``model``.

    ``field`` itself without constants. Every torch function that the field calls receives the
    values where it is given the parameter, whoever holds the parameter: a module, a closure, a
    list. Gradients reach values that require them. Nothing is changed in the model, so that
    other threads, and this one after an error, see it as it is.

    Raises BadInput for a parameter that the model lacks or that has another number of elements.
    """
    if not constants:
        return field
    parameters = dict(model.named_parameters())
    return [
        _with(field, {id(parameters[name]): value for name, value in tensors.items()})
        for tensors in (_tensors(values, parameters) for values in constants)
    ]


def _with(field: Field, values: Mapping[int, Tensor]) -> Field:
    def evaluate(t: Tensor, states: States) -> States:
        with _Substituting(values):
            return field(t, states)

    return evaluate


def _tensors(values: Values, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    tensors = {}
    for name, value in values.items():
        parameter = parameters.get(name)
        size = np.size(value) if isinstance(value, np.ndarray) else value.numel()
        if parameter is None or parameter.numel() != size:
            raise BadInput(
                f"The plan has {size} constants in place of the parameter {name!r}, which this "
                f"model {'lacks' if parameter is None else 'holds in another size'}; make the "
                "plan for this model."
            )
        tensor = torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value
        placed = tensor.to(dtype=parameter.dtype, device=parameter.device)
        tensors[name] = placed.reshape(parameter.shape)
    return tensors


class _Substituting(TorchFunctionMode):
    """Within, functions read ``values`` in place of the tensors whose ``id`` is given."""

    def __init__(self, values: Mapping[int, Tensor]) -> None:
        super().__init__()
        self._values = values

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        args, kwargs = pytree.tree_map_only(Tensor, self._own, (args, kwargs or {}))
        return func(*args, **kwargs)

    def _own(self, tensor: Tensor) -> Tensor:
        return self._values.get(id(tensor), tensor)
