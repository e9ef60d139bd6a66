"""What every ROBE module shares: an array, a layout, and a state that knows both."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from robe.functional import Fields, field_tensor, robe_embedding
from robe.layout import Layout, difference
from robe.nn.array import RobeArray
from robe.nn.quantized import QuantizedArray
from robe.quantization import GROUP

EXTRA_STATE = "_extra_state"


class DescribedModule(nn.Module):
    """A module whose state dict says what its numbers mean, and which refuses numbers that mean something else.

    The description is JSON in a uint8 tensor, ``_extra_state``, so that safetensors can hold it.
    """

    def description(self) -> dict[str, Any]:
        """What decides the meaning of the parameters, as JSON-able values."""
        raise NotImplementedError

    def get_extra_state(self) -> Tensor:
        """The description as JSON, in a uint8 tensor."""
        text = json.dumps(self.description(), sort_keys=True)
        return torch.tensor(list(text.encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Any) -> None:
        """Nothing to set: the description is compared before anything is loaded."""

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        saved = state_dict.get(prefix + EXTRA_STATE)
        if saved is not None:
            differing = difference(json.loads(bytes(saved.tolist())), self.description())
            if differing:
                error_msgs.append(
                    f"{prefix or 'this module'}: the saved numbers were laid out differently and cannot be read "
                    f"by this module; build it with the saved values. " + "; ".join(differing)
                )
                # Loading goes on to the children and raises at the end: let it find the present values.
                state_dict |= {prefix + name: value for name, value in self.state_dict().items()}
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


class RobeModule(DescribedModule):
    """An array and the layout by which it is read.

    The state dict holds the array and the layout. Loading refuses a state whose layout differs.

    Args:
        layout: where elements live.
        shared: the array, of ``layout.num_slots`` slots; ``robe.quantize`` puts a ``QuantizedArray`` in its place.
        tables: the table that each field looks up.
        padding: padding id of each field.
    """

    fields: Tensor  # the op's argument, int64 [F, 9]
    shared: RobeArray | QuantizedArray

    def __init__(
        self,
        layout: Layout,
        shared: RobeArray,
        tables: Sequence[int | str] | None = None,
        padding: Sequence[int | None] | None = None,
    ) -> None:
        super().__init__()
        self.layout = layout
        self.shared = shared
        if shared.array.numel() != layout.num_slots:
            raise ValueError(f"array: expected {layout.num_slots} slots, got {shared.array.numel()}")
        self._field_specs = layout.field_specs(tables, padding)
        self._hash_spec = list(layout.hash_spec())
        self._fields: Fields | None = None
        self._width = sum(spec.dim for spec in self._field_specs)
        self.register_buffer("fields", field_tensor(self._field_specs, self.array.device), persistent=False)

    @property
    def array(self) -> Tensor:
        """The parameter M, [m]; a buffer if it is int8."""
        # Past nn.Module's attribute lookup, which costs as much as a small embedding.
        array = cast(RobeArray, self._modules["shared"])._parameters.get("array")
        return self.shared.array if array is None else array

    @property
    def nbytes(self) -> int:
        """Bytes of the array, with the scales of an int8 one."""
        scales = self.shared.scales
        return self.array.nbytes + (0 if scales is None else scales.nbytes)

    def reset_parameters(self) -> None:
        """Draws the array anew; embeddings that share it change with it."""
        self.shared.reset_parameters()

    def slots(self, table: int | str, ids: Tensor) -> Tensor:
        """Where each element lives: int64 [N] -> int64 [N, D]; ``table`` by number or name."""
        return self.layout.slots(table, ids)

    def materialize(self, table: int | str = 0) -> Tensor:
        """The dense twin of a table: [rows, D], detached, in the dtype of the embeddings.

        Raises:
            ValueError: the table has no ``num_embeddings``, so it has no rows to list.
        """
        t = self.layout.index(table)
        rows = self.layout.tables[t].num_embeddings
        if rows is None:
            raise ValueError(
                f"table {self.layout.tables[t].name!r} has num_embeddings=None: any int64 id, so no full table; "
                "look ids up, or ask slots() for them"
            )
        return self._rows(t, torch.arange(rows, device=self.array.device))

    @torch.no_grad()
    def _rows(self, t: int, ids: Tensor) -> Tensor:
        fields, shared = Fields.of(self.layout, [t], device=self.array.device), self.shared
        return robe_embedding(ids, self.array, fields, scales=shared.scales, dtype=shared.output_dtype)

    def description(self) -> dict[str, Any]:
        """The layout and hash; the group of the scales if the array is int8."""
        quantized = {"quantized": {"bits": 8, "group": GROUP}} if isinstance(self.shared, QuantizedArray) else {}
        return {**self.layout.to_dict(), **quantized}

    def _ready(self, array: Tensor) -> Fields:
        """The fields for a lookup in ``array``, the parameter."""
        specs, ready, shared = self._buffers["fields"], self._fields, cast(RobeArray, self._modules["shared"])
        if specs is None or specs.device != array.device:  # load_state_dict(assign=True) onto a meta module
            self.fields = specs = field_tensor(self._field_specs, array.device)
        if ready is None or ready.specs is not specs or ready.owner is not shared:
            ready = Fields(specs, self._hash_spec, self._width, self.layout.num_slots, shared)
            self._fields = ready
        return ready

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles make their own fields."""
        return {**self.__dict__, "_fields": None}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> RobeModule:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        # to_empty() and meta devices leave garbage or nothing in buffers; the layout knows better.
        self.fields = field_tensor(self._field_specs, self.array.device)
        return self


def describe(layout: Layout) -> str:
    """Size, Z and hash, for ``extra_repr``."""
    hash = layout.hash
    text = f"num_slots={layout.num_slots}, block_size={layout.block_size}, hash={type(hash).__name__}(seed={hash.seed})"
    if all(t.num_embeddings is not None for t in layout.tables):
        text += f", compression={layout.full_parameters / layout.num_slots:.4g}"
    return text + (", use_sign=True" if layout.use_sign else "")
