"""The compiled kernels: finding, loading and calling the shared library built from csrc/.

The library has a plain C interface (csrc/robe.h) and knows nothing of torch, so that one binary serves every version.
It shares torch's pool of OpenMP threads, because torch is imported first and both ask for the same ``libgomp.so.1``.

Environment variables, read once: ``ROBE_KERNELS`` is "auto", "native" (an error without the library) or "reference";
``ROBE_LIBRARY`` names another build of the library; ``ROBE_ISA`` limits it to "avx2" or "generic".
"""

from __future__ import annotations

import ctypes
import os
import sys
from ctypes import c_char_p, c_double, c_int, c_int64, c_void_p
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor

from robe.checks import nearest
from robe.layout import FieldSpec
from robe.ops.bags import batch_size, check_ids

if TYPE_CHECKING:
    from robe.ops.recording import Record

ABI = 5
OK, BAD_ID, BAD_OFFSETS, BAD_SPEC, NO_MEMORY = range(5)
DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3, torch.int8: 4}
CHOICES = ("auto", "native", "reference")


class CArray(ctypes.Structure):
    """``robe_array`` of csrc/robe.h."""

    _fields_ = (
        ("data", c_void_p), ("slots", c_int64), ("dtype", c_int64), ("scales", c_void_p), ("out_dtype", c_int64),
    )  # fmt: skip


class CBatch(ctypes.Structure):
    """``robe_batch`` of csrc/robe.h."""

    _fields_ = (
        *((name, c_void_p) for name in ("ids", "offsets", "weights", "fields", "spec", "grad")),
        *((name, c_int64) for name in ("num_ids", "num_fields", "batch_size", "width", "mode")),
    )


class CUpdate(ctypes.Structure):
    """``robe_update`` of csrc/robe.h."""

    _fields_ = (
        *((name, c_int64) for name in ("rule", "maximize", "nesterov", "first")),
        *((name, c_double) for name in ("lr", "weight_decay", "momentum", "dampening")),
        *((name, c_double) for name in ("beta1", "beta2", "eps", "bias1", "bias2")),
        *((name, c_void_p) for name in ("state1", "state2")),
    )


SIGNATURES: dict[str, list[Any]] = {
    "robe_lookup": [c_void_p, c_int64],
    "robe_lookup_backward_array": [c_void_p, c_int64],
    "robe_lookup_backward_weights": [c_void_p, c_int64],
    "robe_lookup_dot": [c_void_p, c_void_p, c_int64],
    "robe_lookup_dot_backward": [c_void_p, c_void_p, c_void_p, c_int64],
    "robe_step": [c_int64, c_void_p, c_int64],
    "robe_prepare": [c_void_p],
}


def _load() -> tuple[ctypes.CDLL | None, str]:
    """The library, or None; and why."""
    choice = os.environ.get("ROBE_KERNELS", "auto")
    if choice not in CHOICES:
        raise ValueError(f"ROBE_KERNELS: unknown {choice!r}; {nearest(choice, CHOICES)}")
    if choice == "reference":
        return None, "eager PyTorch: ROBE_KERNELS=reference asks for it"
    library, reason = _open()
    if library is None and choice == "native":
        raise ImportError(f"ROBE_KERNELS=native, but {reason}")
    return library, reason


def _open() -> tuple[ctypes.CDLL | None, str]:
    suffix = {"win32": "dll", "darwin": "dylib"}.get(sys.platform, "so")
    path = Path(os.environ.get("ROBE_LIBRARY") or Path(__file__).with_name(f"_kernels.{suffix}"))
    if not path.exists():
        return None, "eager PyTorch: installed without compiled kernels (no working C++ compiler when it was built)"
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        return None, f"eager PyTorch: the compiled kernels do not load: {error}"
    if library.robe_abi() != ABI:
        return None, "eager PyTorch: the compiled kernels are of another version of robe; reinstall it"
    library.robe_isa.restype = c_char_p
    for name, tail in SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = [c_void_p, c_void_p, *tail], c_int
    library.robe_lookup_prepared.argtypes = [c_void_p] * 4 + [c_int64, c_void_p, c_int64]
    library.robe_attention.argtypes = [c_void_p] + [c_int64] * 5 + [c_void_p, c_int64]
    library.robe_attention_backward.argtypes = [c_void_p] * 3 + [c_int64] * 5 + [c_void_p, c_int64]
    library.robe_free.argtypes, library.robe_free.restype = [c_void_p], None
    library.robe_huge_pages.argtypes, library.robe_huge_pages.restype = [c_void_p, c_int64], None
    return library, f"compiled kernels, {library.robe_isa().decode()}"


library, reason = _load()


class Call:
    """The C arguments of one lookup, and the tensors that they point into."""

    def __init__(
        self,
        array: Tensor,
        ids: Tensor,
        offsets: Tensor | None,
        weights: Tensor | None,
        fields: Tensor,
        spec: list[int],
        width: int,
        mode: int,
        grad: Tensor | None = None,
        scales: Tensor | None = None,
        out_dtype: torch.dtype | None = None,
    ) -> None:
        ids, fields = ids.contiguous(), fields.contiguous()
        offsets = None if offsets is None else offsets.contiguous()
        weights = None if weights is None else weights.contiguous()
        grad = None if grad is None else grad.contiguous()
        scales = None if scales is None else scales.contiguous()
        constants = (c_int64 * len(spec))(*spec)
        self._alive = (ids, offsets, weights, fields, grad, scales, constants)
        self.array = CArray(
            array.data_ptr(),
            array.shape[0],
            DTYPES[array.dtype],
            None if scales is None else scales.data_ptr(),
            DTYPES[out_dtype or array.dtype],
        )
        self.batch = CBatch(
            ids.data_ptr(),
            None if offsets is None else offsets.data_ptr(),
            None if weights is None else weights.data_ptr(),
            fields.data_ptr(),
            ctypes.addressof(constants),
            None if grad is None else grad.data_ptr(),
            ids.numel(),
            fields.shape[0],
            batch_size(ids, offsets, fields),
            width,
            mode,
        )

    def run(self, function: str, *arguments: int | None) -> None:
        """Calls a function of the library on this lookup, on torch's number of threads.

        Args:
            function: its name in csrc/robe.h.
            arguments: what stands between the batch and the number of threads.

        Raises:
            IndexError, ValueError: as the reference.
            MemoryError: working memory could not be allocated.
        """
        kernel = getattr(library, function)
        status = kernel(ctypes.byref(self.array), ctypes.byref(self.batch), *arguments, torch.get_num_threads())
        if status != OK:
            self.fail(status)

    def check(self) -> None:
        """Raises IndexError or ValueError, as the reference, where an id or the offsets are wrong."""
        ids, offsets, _, fields, *_ = self._alive
        check_ids(ids, offsets, fields, [FieldSpec(*row) for row in fields.tolist()])

    def fail(self, status: int) -> NoReturn:
        """Raises the error of a status other than OK."""
        if status in (BAD_ID, BAD_OFFSETS):
            self.check()
            raise RuntimeError("ids: changed while they were looked up")
        check_memory(status)
        raise ValueError(
            "fields, spec: expected numbers that fit each other, the output's width and the array, as robe.Layout "
            f"makes them; got fields {self._alive[3].tolist()} and spec {list(self._alive[-1])}"
        )


def check_memory(status: int) -> None:
    """Raises MemoryError where a kernel could not allocate its working memory."""
    if status == NO_MEMORY:
        raise MemoryError("robe: the kernel's working memory could not be allocated")


def step(array: Tensor, records: list[Record], update: CUpdate) -> None:
    """Applies the gradients of ``records`` together to ``array`` and the states in ``update``, in place.

    Raises:
        IndexError, ValueError, MemoryError: as ``Call.run``; nothing is changed then.
    """
    calls = [
        Call(array, r.ids, r.offsets, r.weights, r.fields, r.spec, r.grad.shape[1], r.mode, r.grad) for r in records
    ]
    batches = (CBatch * len(calls))(*(call.batch for call in calls))
    assert library is not None
    status = library.robe_step(
        ctypes.byref(calls[0].array), batches, len(calls), ctypes.byref(update), torch.get_num_threads()
    )
    if status != OK:
        for call in calls:
            call.check()
        calls[0].fail(status)
    torch.autograd.graph.increment_version(array)


def huge_pages(tensor: Tensor) -> None:
    """Asks the system for huge pages behind a tensor: fewer page faults and TLB misses. A hint; before it is filled."""
    if library is not None and tensor.device.type == "cpu":
        library.robe_huge_pages(tensor.data_ptr(), tensor.nbytes)
