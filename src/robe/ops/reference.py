"""The ops in eager PyTorch: the oracle of every other kernel, and the default kernel of every device.

Fields of the same dim and placement are computed together. Within such a group, S is the shape of its ids:
(B, G) with one id per field and sample, (N,) with bags. Formulas are those of docs/robe.md.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from robe.hashing import HashSpec, place, signs
from robe.layout import FieldSpec, Mode
from robe.ops.bags import bag_of_id, batch_size, check_ids, field_of_id
from robe.quantization import GROUP_SHIFT, check_quantized


@dataclass(frozen=True)
class Group:
    """Fields of one dim and placement, their ids, and where these live in the array."""

    columns: slice | Tensor  # output columns: all of them, or int64 [G * D]
    num_fields: int  # G
    dim: int  # D
    slots: Tensor  # int64 [*S, D]
    signs: Tensor | None  # int64 [*S, D], or None without the sign hash
    keep: Tensor | None  # bool [*S], False for padding; None where no field has padding
    chosen: Tensor | None  # positions among the op's ids, int64 [N]; None for ids [B, F]
    bag: Tensor | None  # g * B + b for each id, int64 [N]; None for ids [B, F]


def _groups(ids: Tensor, offsets: Tensor | None, fields: Tensor, spec: HashSpec) -> Iterator[Group]:
    rows = [FieldSpec(*row) for row in fields.tolist()]
    check_ids(ids, offsets, fields, rows)
    field = None if offsets is None else field_of_id(offsets, len(rows))  # [N]
    members: dict[tuple[int, int], list[int]] = {}
    for f, row in enumerate(rows):
        members.setdefault((row.dim, row.direct), []).append(f)
    for (dim, direct), numbers in members.items():
        index = torch.tensor(numbers, device=ids.device)
        chosen = bag = None
        if offsets is None or field is None:
            group_ids, entries = ids[:, index], fields[index]
        else:
            chosen = torch.isin(field, index).nonzero().squeeze(-1)
            group_ids, entries = ids[chosen], fields[field[chosen]]
            bag = bag_of_id(offsets)[chosen]
            local = torch.zeros(len(rows), dtype=torch.int64, device=ids.device)
            local[index] = torch.arange(len(numbers), device=ids.device)
            size = batch_size(ids, offsets, fields)
            bag = local[field[chosen]] * size + bag % max(size, 1)
        i = torch.arange(dim, device=ids.device)
        table = dict(zip(FieldSpec._fields, entries.unbind(-1), strict=True))  # entries broadcast against group_ids
        yield Group(
            columns=(
                slice(None)
                if len(members) == 1
                else (fields[index, FieldSpec._fields.index("column")].unsqueeze(-1) + i).flatten()
            ),
            num_fields=len(numbers),
            dim=dim,
            slots=(
                (table["base"] + group_ids * dim).unsqueeze(-1) + i  # formula (8)
                if direct
                else place(group_ids, table["addend"], dim, spec)
            ),
            signs=signs(group_ids, table["sign_addend"], dim, spec) if spec.use_sign and not direct else None,
            keep=(
                (group_ids != table["padding"]) | (table["has_padding"] == 0)
                if any(rows[f].has_padding for f in numbers)
                else None
            ),
            chosen=chosen,
            bag=bag,
        )


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _values(array: Tensor, group: Group, scales: Tensor | None = None) -> Tensor:
    """Embeddings before pooling, [*S, D] in the dtype of the array, float32 with scales; padding gives zeros."""
    values = array.index_select(0, group.slots.flatten()).view_as(group.slots)
    if scales is not None:
        values = values * scales[group.slots >> GROUP_SHIFT]  # formula (15)
    if group.signs is not None:
        values = values * group.signs.to(values.dtype)
    if group.keep is not None:
        values = values.masked_fill(~group.keep.unsqueeze(-1), 0)
    return values


def _counts(group: Group, bags: int) -> Tensor:
    """Ids of each bag that are not padding, int64 [bags]."""
    assert group.bag is not None
    ones = torch.ones_like(group.bag) if group.keep is None else group.keep.to(torch.int64)
    return torch.zeros(bags, dtype=torch.int64, device=ones.device).scatter_add_(0, group.bag, ones)


def _maxima(values: Tensor, group: Group, bags: int) -> Tensor:
    """Largest value of each bag and element, [bags, D]; 0 for empty bags."""
    assert group.bag is not None
    if group.keep is not None:
        values = values.masked_fill(~group.keep.unsqueeze(-1), -torch.inf)
    result = values.new_full((bags, values.shape[-1]), -torch.inf)
    result.scatter_reduce_(0, group.bag.unsqueeze(-1).expand_as(values), values, "amax")
    return result.masked_fill((_counts(group, bags) == 0).unsqueeze(-1), 0)


def lookup(
    array: Tensor,
    ids: Tensor,
    offsets: Tensor | None,
    weights: Tensor | None,
    fields: Tensor,
    spec: list[int],
    width: int,
    mode: int,
) -> Tensor:
    """Embeddings of all fields, [B, W]: formulas (9) to (11)."""
    return _lookup(array, None, ids, offsets, weights, fields, spec, width, mode, array.dtype)


def lookup_quantized(
    array: Tensor,
    scales: Tensor,
    ids: Tensor,
    offsets: Tensor | None,
    weights: Tensor | None,
    fields: Tensor,
    spec: list[int],
    width: int,
    mode: int,
    dtype: torch.dtype,
) -> Tensor:
    """Embeddings of an int8 array, [B, W] in ``dtype``: formulas (9) to (11) and (15)."""
    check_quantized(array, scales, dtype)
    return _lookup(array, scales, ids, offsets, weights, fields, spec, width, mode, dtype)


def _lookup(
    array: Tensor,
    scales: Tensor | None,
    ids: Tensor,
    offsets: Tensor | None,
    weights: Tensor | None,
    fields: Tensor,
    spec: list[int],
    width: int,
    mode: int,
    dtype: torch.dtype,
) -> Tensor:
    size = batch_size(ids, offsets, fields)
    out = array.new_empty(size, width, dtype=dtype)
    for group in _groups(ids, offsets, fields, HashSpec(*spec)):
        values = _values(array, group, scales)
        if group.bag is not None:
            values = _pool(values, group, weights, size * group.num_fields, mode)  # [G * B, D]
            values = values.view(group.num_fields, size, group.dim).transpose(0, 1)  # [B, G, D]
        out[:, group.columns] = values.reshape(size, group.num_fields * group.dim).to(dtype)
    return out


def _pool(values: Tensor, group: Group, weights: Tensor | None, bags: int, mode: int) -> Tensor:
    assert group.bag is not None
    dtype = values.dtype
    values = values.to(_accumulator(dtype))
    if mode == Mode.MAX:
        return _maxima(values, group, bags).to(dtype)
    if weights is not None:
        values = values * weights[group.chosen].to(values.dtype).unsqueeze(-1)
    total = values.new_zeros(bags, values.shape[-1]).index_add_(0, group.bag, values)
    if mode == Mode.MEAN:
        total = total / _counts(group, bags).clamp(min=1).unsqueeze(-1)
    return total.to(dtype)


def lookup_backward_array(
    grad: Tensor,
    array: Tensor,
    ids: Tensor,
    offsets: Tensor | None,
    weights: Tensor | None,
    fields: Tensor,
    spec: list[int],
    mode: int,
) -> Tensor:
    """Gradient of the array, [m]: equation 3 of the paper, formula (12)."""
    size = batch_size(ids, offsets, fields)
    total = torch.zeros(array.shape, dtype=_accumulator(array.dtype), device=array.device)
    for group in _groups(ids, offsets, fields, HashSpec(*spec)):
        rows = grad[:, group.columns].to(total.dtype).reshape(size, group.num_fields, group.dim)  # [B, G, D]
        if group.bag is not None:
            rows = rows.transpose(0, 1).reshape(size * group.num_fields, group.dim)  # [G * B, D]
            if mode == Mode.MEAN:
                rows = rows / _counts(group, len(rows)).clamp(min=1).unsqueeze(-1)
            bags = len(rows)
            rows = rows[group.bag]  # [N, D]
            if weights is not None:
                rows = rows * weights[group.chosen].to(rows.dtype).unsqueeze(-1)
            if mode == Mode.MAX:
                rows = rows * _first_maxima(array, group, bags)
        if group.signs is not None:
            rows = rows * group.signs.to(rows.dtype)
        if group.keep is not None:
            rows = rows.masked_fill(~group.keep.unsqueeze(-1), 0)
        total.scatter_add_(0, group.slots.flatten(), rows.flatten())
    return total.to(array.dtype)


def _first_maxima(array: Tensor, group: Group, bags: int) -> Tensor:
    """True where an element is the first of its bag to reach the maximum, bool [N, D]."""
    assert group.bag is not None
    values = _values(array, group)
    largest = values == _maxima(values, group, bags)[group.bag]
    if group.keep is not None:
        largest &= group.keep.unsqueeze(-1)
    n = len(values)
    position = torch.arange(n, device=values.device).unsqueeze(-1)
    first = torch.full((bags, values.shape[-1]), n, device=values.device)
    first.scatter_reduce_(0, group.bag.unsqueeze(-1).expand_as(values), torch.where(largest, position, n), "amin")
    return position == first[group.bag]


def lookup_backward_weights(
    grad: Tensor,
    array: Tensor,
    ids: Tensor,
    offsets: Tensor | None,
    weights: Tensor | None,
    fields: Tensor,
    spec: list[int],
) -> Tensor:
    """Gradient of the weights, [N]: formula (13)."""
    assert weights is not None
    size = batch_size(ids, offsets, fields)
    accumulator = _accumulator(array.dtype)
    total = torch.zeros(weights.shape, dtype=accumulator, device=weights.device)
    for group in _groups(ids, offsets, fields, HashSpec(*spec)):
        rows = grad[:, group.columns].to(accumulator).reshape(size, group.num_fields, group.dim)
        rows = rows.transpose(0, 1).reshape(size * group.num_fields, group.dim)[group.bag]
        total[group.chosen] = (rows * _values(array, group).to(accumulator)).sum(-1)
    return total.to(weights.dtype)


def _vectors(array: Tensor, dense: Tensor | None, ids: Tensor, fields: Tensor, spec: list[int], width: int) -> Tensor:
    """The vectors that interact, [B, G, D]."""
    rows = lookup(array, ids, None, None, fields, spec, width, Mode.SUM)
    vectors = rows.view(ids.shape[0], fields.shape[0], width // fields.shape[0])
    return vectors if dense is None else torch.cat([dense.unsqueeze(1), vectors], dim=1)


def lookup_dot(array: Tensor, dense: Tensor | None, ids: Tensor, fields: Tensor, spec: list[int], width: int) -> Tensor:
    """Embeddings and their dot products."""
    vectors = _vectors(array, dense, ids, fields, spec, width)
    i, j = torch.tril_indices(vectors.shape[1], vectors.shape[1], offset=-1, device=array.device)
    pairs = torch.bmm(vectors, vectors.transpose(1, 2))[:, i, j]
    return pairs if dense is None else torch.cat([dense, pairs], dim=1)


def lookup_dot_backward(
    grad: Tensor, array: Tensor, dense: Tensor | None, ids: Tensor, fields: Tensor, spec: list[int], width: int
) -> tuple[Tensor, Tensor]:
    """Gradients of ``dense`` (empty without) and of the embeddings, [B, W]."""
    vectors = _vectors(array, dense, ids, fields, spec, width)
    size, groups, dim = vectors.shape
    i, j = torch.tril_indices(groups, groups, offset=-1, device=array.device)
    pairs = grad.new_zeros(size, groups, groups)
    pairs[:, i, j] = grad[:, grad.shape[1] - len(i) :]
    grads = torch.bmm(pairs + pairs.transpose(1, 2), vectors)
    if dense is None:
        return grad.new_empty(0), grads.reshape(size, width)
    return grads[:, 0] + grad[:, :dim], grads[:, 1:].clone(memory_format=torch.contiguous_format).view(size, width)


# "CompositeExplicitAutograd" is every device; a kernel registered for one device takes precedence there.
for _name, _kernel in (
    ("robe::lookup", lookup),
    ("robe::lookup_quantized", lookup_quantized),
    ("robe::lookup_backward_array", lookup_backward_array),
    ("robe::lookup_backward_weights", lookup_backward_weights),
    ("robe::lookup_dot", lookup_dot),
    ("robe::lookup_dot_backward", lookup_dot_backward),
):
    torch.library.impl(_name, "CompositeExplicitAutograd", _kernel)
