"""How the library calls the ops: recorded for an optimizer, or as they are."""

from torch import Tensor

from robe.layout import Mode
from robe.ops import straight
from robe.ops.prepared import MakePrepared
from robe.ops.recording import RecordedLookup, RecordedLookupDot, Recorder, records_gradients


def lookup(
    array: Tensor,
    ids: Tensor,
    offsets: Tensor | None,
    weights: Tensor | None,
    fields: Tensor,
    spec: list[int],
    width: int,
    mode: Mode,
    recorder: Recorder | None = None,
    prepared: MakePrepared | None = None,
) -> Tensor:
    """Embeddings of all fields: [B, W] in the dtype of ``array``. Arguments as in the module's docstring.

    With a ``recorder``, the backward appends to it instead of making a gradient of the array. ``prepared``: gives
    what was made of ``fields`` and ``spec`` before, for ids without offsets.
    """
    if records_gradients(recorder, array):
        recorded: Tensor = RecordedLookup.apply(  # type: ignore[no-untyped-call]
            recorder, array, ids, offsets, weights, fields, spec, width, int(mode), prepared
        )
        return recorded
    return straight.lookup(array, ids, offsets, weights, fields, spec, width, int(mode), prepared)


def lookup_dot(
    array: Tensor,
    dense: Tensor | None,
    ids: Tensor,
    fields: Tensor,
    spec: list[int],
    width: int,
    recorder: Recorder | None = None,
) -> Tensor:
    """The lookup and the dot interaction in one: see the module's docstring."""
    if records_gradients(recorder, array):
        recorded: Tensor = RecordedLookupDot.apply(  # type: ignore[no-untyped-call]
            recorder, array, dense, ids, fields, spec, width
        )
        return recorded
    return straight.lookup_dot(array, dense, ids, fields, spec, width)
