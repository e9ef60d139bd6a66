"""SGD, Adagrad and Adam on the shared array, without a gradient of its size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from robe.nn.array import RobeArray
from robe.ops import Record, Recorder, cuda, native

SGD_RULE, ADAGRAD_RULE, ADAM_RULE, SPARSE_ADAM_RULE = range(4)  # robe_rule of csrc/robe.h
FUSED_DTYPES = (torch.float32, torch.float64)


def arrays_of(modules: nn.Module | Iterable[nn.Module]) -> list[RobeArray]:
    """The arrays within modules, each once; a ``RobeArray`` or anything that contains ROBE embeddings."""
    roots = [modules] if isinstance(modules, nn.Module) else list(modules)
    for root in roots:
        if not isinstance(root, nn.Module):
            raise TypeError(
                f"modules: expected modules that contain ROBE embeddings, got {type(root).__name__}; "
                "give torch.optim the other parameters: robe.optim.other_parameters(model)"
            )
    found = {id(m): m for root in roots for m in root.modules() if isinstance(m, RobeArray)}
    if not found:
        raise ValueError(
            "modules: expected at least one ROBE embedding, found none that can be trained (int8 ones cannot); "
            "use torch.optim for other modules"
        )
    return list(found.values())


def other_parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters of a model that are not ROBE arrays: what your own optimizer takes."""
    arrays = {id(m.array) for m in model.modules() if isinstance(m, RobeArray)}
    return (p for p in model.parameters() if id(p) not in arrays)


class _ArrayOptimizer(torch.optim.Optimizer):
    """What the optimizers share; mixed in before a class of torch.optim, whose state it keeps."""

    def _attach(self, arrays: list[RobeArray]) -> None:
        self._owners = {array.array: array for array in arrays}
        self._recorders = {array.array: Recorder() for array in arrays}
        for owner in arrays:
            owner.record_into(self._recorders[owner.array])

    def _arrays(self) -> Iterator[tuple[dict[str, Any], nn.Parameter]]:
        for group in self.param_groups:
            for array in group["params"]:
                yield group, array

    def materialize_grads(self) -> None:
        """Turns what was recorded into ``array.grad``, [m], for code that reads it; ``step()`` then uses that."""
        for array, recorder in self._recorders.items():
            _add_grads(array, recorder.take())

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drops what backward passes recorded since the last step, and ``array.grad``."""
        for array, recorder in self._recorders.items():
            recorder.records.clear()
            if array.grad is not None:
                array.grad = None if set_to_none else array.grad.detach().zero_()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step from all that backward passes recorded since the last.

        Args:
            closure: computes the loss anew and returns it, as in torch.optim.

        Raises:
            RuntimeError: tensors of a lookup were modified in place since its backward, or another optimizer of
                this module has taken the array over.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        made = []
        for group, array in self._arrays():
            recorder = self._recorders[array]
            if self._owners[array].recorder is not recorder:
                raise RuntimeError(
                    "robe.optim: another optimizer has taken this array over; use only the last one made"
                )
            records = recorder.take()
            if not records:
                continue
            if array.grad is None and self._fuses(group, array):
                native.step(array, records, self._update(group, array))
            elif array.grad is None and cuda.fuses_step(array):
                self._step_on_gpu(group, array, records)
                torch.autograd.graph.increment_version(array)
            else:
                if array.grad is None:
                    made.append(array)
                _add_grads(array, records)
        if any(array.grad is not None for _, array in self._arrays()):
            super().step()
        for array in made:
            array.grad = None
        return loss

    def _fuses(self, group: dict[str, Any], array: Tensor) -> bool:
        return has_kernel(array)

    def _update(self, group: dict[str, Any], array: Tensor) -> native.CUpdate:
        """The numbers of one step of a group, with the states made and counted on."""
        raise NotImplementedError

    def _step_on_gpu(self, group: dict[str, Any], array: Tensor, records: list[Record]) -> None:
        """One step of a group by the Triton kernels; nothing in it waits for the GPU."""
        raise NotImplementedError


def _add_grads(array: Tensor, records: list[Record]) -> None:
    for record in records:
        grad = record.dense(array.detach())
        array.grad = grad if array.grad is None else array.grad.add_(grad)


def has_kernel(parameter: Tensor) -> bool:
    """Whether the CPU kernels can step a parameter: on CPU, float32 or float64, contiguous."""
    return (
        native.library is not None
        and parameter.device.type == "cpu"
        and parameter.dtype in FUSED_DTYPES
        and parameter.is_contiguous()
    )


def zero_state(array: Tensor) -> Tensor:
    """Zeros of the size of a parameter, which are in memory when this returns: no page faults in later steps."""
    state = torch.empty_like(array, memory_format=torch.contiguous_format)
    native.huge_pages(state)
    return state.zero_()


class SGD(_ArrayOptimizer, torch.optim.SGD):
    """``torch.optim.SGD`` on ROBE arrays.

    Args:
        modules: a model, an embedding, or several: the arrays within them are optimized.
        lr: learning rate.
        momentum: factor of the momentum buffer; with it every slot is visited.
        dampening: of the momentum.
        weight_decay: L2 factor; with it every slot is visited.
        nesterov: Nesterov momentum.
        maximize: step along the gradient.

    Raises:
        TypeError, ValueError: an argument is wrong, or there is no ROBE array in ``modules``.
    """

    def __init__(
        self,
        modules: nn.Module | Iterable[nn.Module],
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        arrays = arrays_of(modules)
        super().__init__([a.array for a in arrays], lr, momentum, dampening, weight_decay, nesterov, maximize=maximize)
        self._attach(arrays)

    def _buffer(self, group: dict[str, Any], array: Tensor) -> tuple[Tensor | None, bool]:
        """The momentum buffer, None without momentum; and whether it is still to be filled."""
        if group["momentum"] == 0:
            return None, False
        state = self.state[array]
        first = state.get("momentum_buffer") is None
        if first:
            state["momentum_buffer"] = zero_state(array)
        return state["momentum_buffer"], first

    def _update(self, group: dict[str, Any], array: Tensor) -> native.CUpdate:
        buffer, first = self._buffer(group, array)
        return native.CUpdate(
            rule=SGD_RULE,
            maximize=group["maximize"],
            nesterov=group["nesterov"],
            first=first,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            dampening=group["dampening"],
            state1=None if buffer is None else buffer.data_ptr(),
        )

    def _step_on_gpu(self, group: dict[str, Any], array: Tensor, records: list[Record]) -> None:
        from robe.ops.triton import update

        buffer, first = self._buffer(group, array)
        names = ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize")
        update.sgd(array.detach(), records, buffer, first=first, **{name: group[name] for name in names})


class Adagrad(_ArrayOptimizer, torch.optim.Adagrad):
    """``torch.optim.Adagrad`` (element-wise) on ROBE arrays.

    Args:
        modules: a model, an embedding, or several: the arrays within them are optimized.
        lr: learning rate.
        lr_decay: the rate falls as 1 / (1 + (step - 1) lr_decay).
        weight_decay: L2 factor; with it every slot is visited.
        initial_accumulator_value: start of the sums of squares.
        eps: added to their roots.
        maximize: step along the gradient.

    Raises:
        TypeError, ValueError: an argument is wrong, or there is no ROBE array in ``modules``.
    """

    def __init__(
        self,
        modules: nn.Module | Iterable[nn.Module],
        lr: float = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
    ) -> None:
        arrays = arrays_of(modules)
        super().__init__(
            [a.array for a in arrays],
            lr,
            lr_decay,
            weight_decay,
            initial_accumulator_value,
            eps,
            maximize=maximize,
        )
        self._attach(arrays)

    def _update(self, group: dict[str, Any], array: Tensor) -> native.CUpdate:
        state = self.state[array]
        state["step"] += 1
        return native.CUpdate(
            rule=ADAGRAD_RULE,
            maximize=group["maximize"],
            lr=group["lr"] / (1 + (state["step"].item() - 1) * group["lr_decay"]),
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            state1=state["sum"].data_ptr(),
        )

    def _step_on_gpu(self, group: dict[str, Any], array: Tensor, records: list[Record]) -> None:
        from robe.ops.triton import update

        state, lr = self.state[array], group["lr"]
        state["step"] += 1
        if group["lr_decay"] != 0:
            lr = lr / (1 + (state["step"].item() - 1) * group["lr_decay"])
        names = ("weight_decay", "eps", "maximize")
        update.adagrad(array.detach(), records, state["sum"], lr=lr, **{name: group[name] for name in names})


class Adam(_ArrayOptimizer, torch.optim.Adam):
    """``torch.optim.Adam`` on ROBE arrays; every slot is visited, as its moments decay in every step.

    Args:
        modules: a model, an embedding, or several: the arrays within them are optimized.
        lr: learning rate.
        betas: decay of the two moments.
        eps: added to the root of the second.
        weight_decay: L2 factor.
        maximize: step along the gradient.

    Raises:
        TypeError, ValueError: an argument is wrong, or there is no ROBE array in ``modules``.
    """

    def __init__(
        self,
        modules: nn.Module | Iterable[nn.Module],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        *,
        maximize: bool = False,
    ) -> None:
        arrays = arrays_of(modules)
        super().__init__([a.array for a in arrays], lr, betas, eps, weight_decay, maximize=maximize)
        self._attach(arrays)

    def _moments(self, array: Tensor) -> dict[str, Any]:
        """The state of an array, made at its first step."""
        state: dict[str, Any] = self.state[array]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"], state["exp_avg_sq"] = zero_state(array), zero_state(array)
        return state

    def _update(self, group: dict[str, Any], array: Tensor) -> native.CUpdate:
        state = self._moments(array)
        state["step"] += 1
        step, (beta1, beta2) = state["step"].item(), group["betas"]
        return native.CUpdate(
            rule=ADAM_RULE,
            maximize=group["maximize"],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            beta1=beta1,
            beta2=beta2,
            eps=group["eps"],
            bias1=1 - beta1**step,
            bias2=1 - beta2**step,
            state1=state["exp_avg"].data_ptr(),
            state2=state["exp_avg_sq"].data_ptr(),
        )

    def _step_on_gpu(self, group: dict[str, Any], array: Tensor, records: list[Record]) -> None:
        from robe.ops.triton import update

        state = self._moments(array)
        # On the device, so that a CUDA graph counts its steps.
        state["step"] = step = state["step"].to(array.device)
        step += 1
        names = ("lr", "betas", "weight_decay", "eps", "maximize")
        moments = state["exp_avg"], state["exp_avg_sq"]
        update.adam(array.detach(), records, *moments, step, **{name: group[name] for name in names})
