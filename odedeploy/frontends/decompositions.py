"""Forms without writing in place, for operators of which PyTorch's own form writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def _diagonal_scatter(
    base: Tensor, source: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1
) -> Tensor:
    """``base`` with ``source`` on a diagonal."""
    matrix = base.movedim((dim1, dim2), (-2, -1))
    rows = torch.arange(matrix.shape[-2], device=base.device)[:, None]
    columns = torch.arange(matrix.shape[-1], device=base.device)[None]
    along = (rows if offset >= 0 else columns).expand(matrix.shape[-2:])
    spread = source[..., along.clamp(max=source.shape[-1] - 1)]
    return torch.where(columns - rows == offset, spread, matrix).movedim((-2, -1), (dim1, dim2))


FUNCTIONAL: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.diagonal_scatter.default: _diagonal_scatter
}
"""PyTorch's own form of this operator writes in place, which the exporter refuses. It is what
becomes of the unit vectors of ``torch.func.jacrev``."""
