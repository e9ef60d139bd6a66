"""Lookups whose numbers are checked and handed to the compiled kernels once."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import c_void_p
from typing import Any

import torch
from torch import Tensor

from robe.layout import FieldSpec
from robe.ops import buffers, native
from robe.ops.bags import check_ids

# Gives what was prepared for arrays like this one and a dtype of the output; asked only where the compiled kernels run.
MakePrepared = Callable[[Tensor, torch.dtype], "Prepared"]


class Prepared:
    """Fields whose numbers the library has been given once: for lookups too small to do so every time.

    Args:
        fields: int64 [F, 9].
        spec: the hash.
        width: W.
        num_slots: m.
        dtype: of the array.
        out_dtype: of the embeddings; another than ``dtype`` for int8 alone.

    Raises:
        ValueError: the numbers do not fit each other.
    """

    def __init__(
        self,
        fields: Tensor,
        spec: list[int],
        width: int,
        num_slots: int,
        dtype: torch.dtype,
        out_dtype: torch.dtype,
    ) -> None:
        assert native.library is not None
        self._arguments = (fields, spec, width, num_slots, dtype, out_dtype)
        self._version = fields._version
        self._large = buffers.SMALLEST // max(width * out_dtype.itemsize, 1)  # samples
        none = torch.empty(0, fields.shape[0], dtype=torch.int64)
        call = native.Call(torch.empty(0, dtype=dtype), none, None, None, fields, spec, width, 0, out_dtype=out_dtype)
        call.array.slots = num_slots
        self._handle = c_void_p()
        status = native.library.robe_prepare(
            ctypes.byref(call.array), ctypes.byref(call.batch), ctypes.byref(self._handle)
        )
        if status != native.OK:
            call.fail(status)
        self._free, self._lookup = native.library.robe_free, native.library.robe_lookup_prepared

    def __del__(self) -> None:
        if hasattr(self, "_free"):
            self._free(self._handle)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles are made anew."""
        return Prepared, self._arguments

    def fits(self, fields: Tensor, array: Tensor, out_dtype: torch.dtype) -> bool:
        """Whether it is these fields, unchanged, and an array of the size and dtypes that it was made for."""
        made_for, _, _, num_slots, dtype, made_out_dtype = self._arguments
        return (
            fields is made_for
            and fields._version == self._version
            and array.dtype == dtype
            and out_dtype == made_out_dtype
            and array.shape[0] == num_slots
        )

    def lookup(self, array: Tensor, ids: Tensor, scales: Tensor | None = None) -> Tensor:
        """``robe::lookup`` of ids [B, F], or ``robe::lookup_quantized`` with ``scales``.

        Raises:
            IndexError: an id is outside its table.
            MemoryError: working memory could not be allocated.
        """
        if not ids.is_contiguous():
            ids = ids.contiguous()
        if not array.is_contiguous():
            array = array.contiguous()
        scales_at = None
        if scales is not None:
            scales = scales.contiguous()
            scales_at = scales.data_ptr()
        specs, _, width, _, _, dtype = self._arguments
        batch = ids.shape[0]
        out = buffers.empty((batch, width), dtype) if batch >= self._large else torch.empty(batch, width, dtype=dtype)
        status = self._lookup(
            self._handle, array.data_ptr(), scales_at, ids.data_ptr(), batch, out.data_ptr(), torch.get_num_threads()
        )
        if status == native.BAD_ID:
            check_ids(ids, None, specs, [FieldSpec(*row) for row in specs.tolist()])
            raise RuntimeError("ids: changed while they were looked up")
        if status != native.OK:
            raise MemoryError("robe: the kernel's working memory could not be allocated")
        return out
