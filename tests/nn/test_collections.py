"""One contract for every embedding collection, and what is special to each."""

import json

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

import robe
from robe.jagged import Jagged

TABLES = [robe.Table("user", 40, 4), robe.Table("movie", 60, 4), robe.Table("year", 5, 4)]
MIXED = [robe.Table("user", 40, 4), robe.Table("movie", 60, 6)]


def make(kind, tables=TABLES, **options):
    sized = {} if kind in ("full", "full sparse") else {"compression": 5}
    return {
        "robe": lambda: robe.RobeEmbeddingCollection(tables, **sized, **options),
        "robe direct": lambda: robe.RobeEmbeddingCollection(
            [*tables[:-1], robe.Table(tables[-1].name, 5, 4, direct=True)] if tables is TABLES else tables,
            **sized,
            **options,
        ),
        "full": lambda: robe.FullEmbeddingCollection(tables, **options),
        "full sparse": lambda: robe.FullEmbeddingCollection(tables, sparse=True, **options),
        "hashing": lambda: robe.HashingTrickCollection(tables, **sized, **options),
        "capped": lambda: robe.HashingTrickCollection(tables, capped=True, **sized, **options),
    }[kind]()


KINDS = pytest.mark.parametrize("kind", ["robe", "robe direct", "full", "full sparse", "hashing", "capped"])


def some_ids(tables=TABLES, size=8):
    return torch.stack([torch.randint(0, t.num_embeddings, (size,)) for t in tables], 1)


@KINDS
def test_output_is_the_rows_of_the_dense_twins(kind):
    coll = make(kind)
    ids = some_ids()
    out = coll(ids)
    assert out.shape == (8, 3, 4)
    for f, table in enumerate(TABLES):
        dense = coll.materialize(table.name)
        assert dense.shape == (table.num_embeddings, 4)
        assert torch.equal(out[:, f], dense[ids[:, f]])
        assert torch.equal(dense, coll.materialize(f))


@KINDS
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_are_pooled_as_by_the_dense_twins(kind, mode):
    if kind == "full sparse" and mode == "max":
        pytest.skip("torch.nn.EmbeddingBag has no sparse gradients for max")
    coll = make(kind, mode=mode)
    ids = Jagged.from_lists([[[1, 2], [], [4]], [[7], [8, 8, 9], [0, 1]]])
    out = coll(ids)
    for f in range(3):
        values, offsets, _ = ids.field(f)
        twin = nn.EmbeddingBag.from_pretrained(coll.materialize(f), mode=mode, include_last_offset=True)
        torch.testing.assert_close(out[:, f], twin(values, offsets))


@KINDS
def test_a_bag_is_the_sum_of_its_lookups(kind):
    coll = make(kind)
    bag = coll(Jagged.from_lists([[[1, 2, 2], [5], [0]]]))
    singles = coll(torch.tensor([[1, 5, 0], [2, 5, 0], [2, 5, 0]]))
    torch.testing.assert_close(bag[0, 0], singles[:, 0].sum(0))
    torch.testing.assert_close(bag[0, 1:], singles[0, 1:])


@KINDS
def test_weighted_bags(kind):
    coll = make(kind)
    weights = torch.tensor([0.5, -2.0, 3.0, 1.0])
    out = coll(Jagged(torch.tensor([1, 2, 5, 0]), torch.tensor([0, 2, 3, 4]), 3, weights))
    singles = coll(torch.tensor([[1, 5, 0], [2, 5, 0]]))
    torch.testing.assert_close(out[0, 0], 0.5 * singles[0, 0] - 2 * singles[1, 0])
    torch.testing.assert_close(out[0, 1], 3 * singles[0, 1])


@KINDS
def test_fields_may_share_a_table_and_come_in_any_order(kind):
    coll = make(kind, fields=["movie", "user", "movie"])
    ids = torch.tensor([[59, 39, 3]])
    out = coll(ids)
    assert torch.equal(out[0, 0], coll.materialize("movie")[59])
    assert torch.equal(out[0, 1], coll.materialize("user")[39])
    assert torch.equal(out[0, 2], coll.materialize("movie")[3])


@pytest.mark.parametrize("kind", ["robe", "full", "hashing", "capped"])
def test_fields_of_different_dims_stand_side_by_side(kind):
    coll = make(kind, MIXED)
    ids = some_ids(MIXED)
    out = coll(ids)
    assert coll.embedding_dim is None
    assert torch.equal(out, torch.cat([coll.materialize(0)[ids[:, 0]], coll.materialize(1)[ids[:, 1]]], 1))


@KINDS
def test_empty_batch(kind):
    assert make(kind)(torch.zeros(0, 3, dtype=torch.int64)).shape == (0, 3, 4)


@KINDS
def test_ids_out_of_range(kind):
    coll = make(kind)
    for bad in (-1, 60, 2**63 - 1):
        with pytest.raises(IndexError, match=rf"expected ids in \[0, 60\), got {bad}"):
            coll(torch.tensor([[0, bad, 0]]))


@KINDS
@pytest.mark.parametrize(
    ("ids", "error"),
    [
        (torch.zeros(2, 2, dtype=torch.int64), ValueError),
        (torch.zeros(6, dtype=torch.int64), ValueError),
        (torch.zeros(2, 3), TypeError),
        (Jagged.from_lists([[[1]]]), ValueError),
    ],
)
def test_wrong_shapes_and_dtypes(kind, ids, error):
    with pytest.raises(error, match="ids: expected"):
        make(kind)(ids)


@KINDS
def test_state_survives_safetensors(kind):
    coll, other = make(kind), make(kind)
    other.load_state_dict(load(save(coll.state_dict())))
    ids = some_ids()
    assert torch.equal(coll(ids), other(ids))


@KINDS
def test_parameters_are_counted_honestly(kind):
    coll = make(kind)
    assert coll.num_embedding_parameters == sum(p.numel() for p in coll.parameters())
    assert coll.full_parameters == 105 * 4
    assert coll.compression == 420 / coll.num_embedding_parameters


def test_a_robe_collection_has_as_many_parameters_as_slots():
    coll = robe.RobeEmbeddingCollection(TABLES, compression=5)
    assert [tuple(p.shape) for p in coll.parameters()] == [(84,)]
    assert coll.compression == 5


def test_the_paper_s_kaggle_array_without_allocating_the_tables():
    counts = [1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194]
    counts += [27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572]
    tables = [robe.Table(f"C{i}", n, 16) for i, n in enumerate(counts, 1)]
    coll = robe.RobeEmbeddingCollection(tables, compression=1000)
    assert coll.full_parameters == 33_762_577 * 16
    assert coll.num_embedding_parameters == 540_201
    full = robe.FullEmbeddingCollection(tables, device="meta")
    assert full.num_embedding_parameters == 540_201_232


def test_plain_hashing_shrinks_every_table_and_capped_keeps_small_ones():
    plain, capped = make("hashing"), make("capped")
    assert [e.num_embeddings for e in plain.embeddings] == [8, 12, 1]
    assert [e.num_embeddings for e in capped.embeddings] == [8, 8, 5]
    assert torch.equal(capped.materialize("year"), capped.embeddings[2].weight)


def test_sparse_gradients_only_touch_rows_that_were_looked_up():
    coll = make("full sparse")
    coll(torch.tensor([[1, 2, 3], [1, 2, 4]])).sum().backward()
    grad = coll.embeddings[2].weight.grad
    assert grad.is_sparse
    assert grad.coalesce().indices().tolist() == [[3, 4]]


def test_slots_of_baselines_address_their_parameters():
    for kind in ("full", "hashing", "capped"):
        coll = make(kind)
        flat = torch.cat([e.weight.detach().flatten() for e in coll.embeddings])
        ids = torch.tensor([3, 41])
        assert torch.equal(flat[coll.slots("movie", ids)], coll.materialize("movie")[ids])


@pytest.mark.parametrize("kind", ["full", "hashing"])
def test_baselines_need_rows(kind):
    with pytest.raises(ValueError, match="table 'user' has no num_embeddings"):
        make(kind, [robe.Table("user", None, 4)])


@KINDS
def test_unknown_table(kind):
    with pytest.raises((KeyError, ValueError), match="usr"):
        make(kind).materialize("usr")


def test_layout_in_the_state_is_readable_json():
    state = robe.RobeEmbeddingCollection(TABLES, compression=5).state_dict()
    saved = json.loads(bytes(state["_extra_state"].tolist()))
    assert saved["hash"]["form"] == "universal"
    assert saved["num_slots"] == 84


def test_compiled_collection_equals_eager():
    coll = make("robe")
    ids = some_ids()
    assert torch.equal(torch.compile(coll, fullgraph=True, backend="aot_eager")(ids), coll(ids))


@pytest.mark.parametrize("kind", ["hashing", "capped"])
def test_a_state_hashed_otherwise_is_refused_and_loads_nothing(kind):
    coll = make(kind, seed=1)
    before = [p.detach().clone() for p in coll.parameters()]
    with pytest.raises(RuntimeError, match=r"hash\.seed: saved 0, this module 1"):
        coll.load_state_dict(make(kind).state_dict())
    assert all(torch.equal(a, b) for a, b in zip(before, coll.parameters(), strict=True))
    assert "seed=1" in repr(coll)


@pytest.mark.parametrize("kind", ["robe", "full", "hashing", "capped"])
@pytest.mark.parametrize(("tables", "message"), [([], "at least one table"), ([TABLES[0]] * 2, "names must be unique")])
def test_tables_are_checked(kind, tables, message):
    with pytest.raises(ValueError, match=message):
        make(kind, tables)


@KINDS
def test_int32_ids(kind):
    coll = make(kind)
    ids = some_ids()
    assert torch.equal(coll(ids.int()), coll(ids))
