"""What kernels need to know of the fields and the hash, prepared once per module.

The ``fields`` argument of the ops lives on the GPU, and reading it makes the host wait. A module hands over the same
memory with every call, so it is read at the first one and the result kept, with the tensor, whose memory can so not
become another's. Compilers may wrap it in another tensor object: memory is what identifies it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from robe.hashing import MIXED, RELEASED, HashSpec
from robe.layout import FieldSpec

WORD = 2**64


@dataclass(frozen=True, eq=False)
class Plan:
    """One module's fields and hash, on the host and on the device."""

    rows: list[FieldSpec]
    spec: HashSpec
    table: Tensor  # int64 [F, 11]: see robe.ops.triton.rows
    constants: Tensor  # int64 [13]: see robe.ops.triton.hash
    version: int  # of the tensor that this was read from

    @cached_property
    def max_dim(self) -> int:
        """The largest D."""
        return max(row.dim for row in self.rows)

    @cached_property
    def common_dim(self) -> int:
        """D where all fields have it and lie side by side; else 0."""
        dim = self.rows[0].dim
        same = all(row.dim == dim and row.column == f * dim for f, row in enumerate(self.rows))
        return dim if same else 0

    @cached_property
    def segment(self) -> int:
        """Elements of a chunk, Z, or the largest D if Z is above it: a row is then one chunk."""
        return min(self.spec.block_size, self.max_dim)

    @cached_property
    def slots(self) -> int:
        """Slots that the array must have."""
        direct = [row.base + row.rows * row.dim for row in self.rows if row.direct]
        hashed = [] if all(row.direct for row in self.rows) else [self.spec.num_slots]
        return max(direct + hashed)

    @cached_property
    def flags(self) -> dict[str, Any]:
        """The kernels' compile-time switches: what no field needs costs nothing."""
        return {
            "MIXED": self.spec.form == MIXED,
            "SIGNED": bool(self.spec.use_sign),
            # 32-bit slots halve the work of addressing; rows that wrap reach less than 2**20 slots further.
            "NARROW": self.slots < 2**31 - 2**20,
            "GROUPED": any(_group(row, self.spec) > 1 for row in self.rows),
            "ANY_DIRECT": any(row.direct for row in self.rows),
            "BOUNDED": any(row.rows >= 0 for row in self.rows),
            "PADDED": any(row.has_padding for row in self.rows),
        }


MAX_PLANS = 256  # kept, the least recently used goes first; a few kilobytes each
_plans: OrderedDict[tuple[Any, ...], tuple[Tensor, Plan]] = OrderedDict()
_captured: set[Plan] = set()  # kept for ever: a CUDA graph holds the addresses of their tensors


def plan_of(fields: Tensor, spec: list[int], array: Tensor, width: int) -> Plan:
    """The plan of an op's arguments.

    Raises:
        ValueError: the numbers do not fit each other, the output's width or the array.
        RuntimeError: a CUDA graph is being captured and these fields were never looked up before.
    """
    # Tensors made under inference_mode have no version: nothing but a rebuilt module would change these.
    version = -1 if fields.is_inference() else fields._version
    key = (fields.data_ptr(), fields.shape, fields.stride(), fields.device, *spec)
    plan = _plans[key][1] if key in _plans else None
    capturing = fields.device.type == "cuda" and torch.cuda.is_current_stream_capturing()
    if plan is None or plan.version != version:
        if capturing:
            raise RuntimeError(
                "robe: a CUDA graph is being captured and this module was never used before; run it once first, "
                "as torch asks for all that goes into a graph"
            )
        plan = _make(fields, HashSpec(*spec), version)
        _plans[key] = fields, plan
        if len(_plans) > MAX_PLANS:
            _plans.popitem(last=False)
    _plans.move_to_end(key)
    if capturing:
        _captured.add(plan)
    if plan.slots > array.shape[0] or sum(row.dim for row in plan.rows) != width:
        raise _unfit(plan.rows, plan.spec)
    return plan


def _make(fields: Tensor, spec: HashSpec, version: int) -> Plan:
    rows = [FieldSpec(*row) for row in fields.tolist()]
    width = sum(row.dim for row in rows)
    if not rows or any(not 0 < row.dim <= width or not 0 <= row.column <= width - row.dim for row in rows):
        raise _unfit(rows, spec)
    hashed = [row for row in rows if not row.direct]
    prime = spec.prime if spec.form != MIXED else WORD
    if hashed and (spec.num_slots < spec.block_size or any(not 0 <= row.addend % WORD < prime for row in hashed)):
        raise _unfit(rows, spec)
    groups = [_group(row, spec) for row in rows]
    table = [[*row, group, _ratio(group)] for row, group in zip(rows, groups, strict=True)]
    as_words = [[_signed(x) for x in row] for row in (*table, _constants(spec))]
    return Plan(
        rows,
        spec,
        torch.tensor(as_words[:-1], dtype=torch.int64).to(fields.device),
        torch.tensor(as_words[-1], dtype=torch.int64).to(fields.device),
        version,
    )


def _group(row: FieldSpec, spec: HashSpec) -> int:
    """Rows that share a block: Z / D where Z > D, except in the released form."""
    return 1 if row.direct or spec.form == RELEASED else max(1, spec.block_size // row.dim)


def _constants(spec: HashSpec) -> list[int]:
    factors = (
        spec.key_multiplier,
        spec.chunk_multiplier,
        spec.sign_key_multiplier,
        spec.sign_element_multiplier,
    )
    ratios = [factor * WORD // spec.prime if spec.form != MIXED else 0 for factor in factors]
    modulus = spec.num_slots - (spec.block_size - 1 if spec.form == RELEASED else 0)
    pairs = [number for pair in zip(factors, ratios, strict=True) for number in pair]
    return [spec.prime, *pairs, modulus, _ratio(modulus), spec.num_slots, 0]


def _ratio(divisor: int) -> int:
    """What ``divmod_by`` multiplies by; a divisor below 1 is never used (no hashed table)."""
    return (WORD - 1) // max(divisor, 1)


def _signed(x: int) -> int:
    """The int64 with the bits of ``x mod 2**64``."""
    x %= WORD
    return x - WORD if x >= WORD // 2 else x


def _unfit(rows: list[FieldSpec], spec: HashSpec) -> ValueError:
    return ValueError(
        "fields, spec: expected numbers that fit each other, the output's width and the array, as robe.Layout "
        f"makes them; got fields {[list(row) for row in rows]} and spec {list(spec)}"
    )
