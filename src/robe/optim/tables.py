"""Adam on tables of rows whose gradients are sparse: the full tables that ROBE is compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from robe.functional import Fields
from robe.layout import Layout, Mode, Table
from robe.ops import Record, native
from robe.optim.arrays import SPARSE_ADAM_RULE, has_kernel, zero_state


class SparseAdam(torch.optim.SparseAdam):
    """``torch.optim.SparseAdam`` with a CPU kernel, which sums and applies a table's gradients in one pass.

    Arguments, state and results (to rounding) are torch's, but for one thing: in a row that has a gradient, elements
    whose gradient is exactly zero keep their value and moments. What the kernel does not take, such as tables on a GPU,
    goes torch's own way.

    Args:
        params: tables [rows, D], with gradients of ``nn.Embedding`` or ``nn.EmbeddingBag`` with ``sparse=True``.
        lr: learning rate.
        betas: decay of the two moments.
        eps: added to the root of the second.
        maximize: step along the gradient.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of every parameter that has a gradient.

        Args:
            closure: computes the loss anew and returns it, as in torch.optim.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        fused = [(group, table) for group, table in self._tables() if _fuses(table)]
        gradients = [table.grad for _, table in fused]
        for group, table in fused:
            self._step(group, table)
            table.grad = None
        if any(table.grad is not None for _, table in self._tables()):
            super().step()  # type: ignore[no-untyped-call]
        for (_, table), gradient in zip(fused, gradients, strict=True):
            table.grad = gradient
        return loss

    def _tables(self) -> Iterator[tuple[dict[str, Any], Tensor]]:
        for group in self.param_groups:
            for table in group["params"]:
                yield group, table

    def _step(self, group: dict[str, Any], table: Tensor) -> None:
        state = self.state[table]
        if not state:
            state["step"] = 0
            state["exp_avg"], state["exp_avg_sq"] = zero_state(table), zero_state(table)
        state["step"] += 1
        assert table.grad is not None
        ids, gradients = table.grad._indices()[0], table.grad._values()
        if ids.numel() == 0:
            return
        rows, dim = table.shape
        fields = _rows_of(rows, dim)
        record = Record(gradients, ids.unsqueeze(1), None, None, fields.specs, fields.hash_spec, Mode.SUM)
        beta1, beta2 = group["betas"]
        update = native.CUpdate(
            rule=SPARSE_ADAM_RULE,
            maximize=group["maximize"],
            lr=float(group["lr"]),
            beta1=beta1,
            beta2=beta2,
            eps=group["eps"],
            bias1=1 - beta1 ** state["step"],
            bias2=1 - beta2 ** state["step"],
            state1=state["exp_avg"].data_ptr(),
            state2=state["exp_avg_sq"].data_ptr(),
        )
        native.step(table.detach().view(-1), [record], update)


@lru_cache(maxsize=1024)
def _rows_of(rows: int, dim: int) -> Fields:
    """A table as an array all of whose rows are stored one by one."""
    return Fields.of(Layout((Table("rows", rows, dim, direct=True),), rows * dim, dim))


def _fuses(table: Tensor) -> bool:
    """Whether the kernel can step a table: with a sparse gradient of whole rows."""
    grad = table.grad
    return has_kernel(table) and table.dim() == 2 and grad is not None and grad.is_sparse and grad.sparse_dim() == 1
