"""Sparse matrices that a model holds: their products are traced as gathers and sums."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

PRODUCTS = {"__matmul__", "_sparse_mm", "matmul", "mm", "mv", "smm", "spmm"}
"""Names of the functions that multiply a sparse matrix with a dense one or a vector."""


class Scattered(TorchFunctionMode):
    """A sparse matrix A times a dense X is Σ over its entries, row r of which gets A_rc · X_c.

    What is computed from sparse tensors alone, such as a transpose, is computed at once. Neither
    tracing nor ONNX knows sparse tensors.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        sparse = [x for x in tensors if x.layout is not torch.strided]
        if not sparse:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name in PRODUCTS and len(sparse) == 1 and args[0] is sparse[0] and len(tensors) == 2:
            return _product(*tensors)
        if len(sparse) < len(tensors):
            return func(*args, **kwargs)
        with disable_proxy_modes_tracing(), unset_fake_temporarily():
            return func(*args, **kwargs)


def _product(matrix: Tensor, dense: Tensor) -> Tensor:
    with disable_proxy_modes_tracing(), unset_fake_temporarily(), torch.no_grad():
        entries = matrix.detach().to_sparse(layout=torch.sparse_coo).coalesce()
        rows, columns = (index.clone() for index in entries.indices())
        values = entries.values().clone()
    terms = dense[columns] * (values if dense.dim() == 1 else values[:, None])
    return dense.new_zeros(matrix.shape[0], *dense.shape[1:]).index_add(0, rows, terms)
