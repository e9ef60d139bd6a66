"""RobeEmbedding and RobeEmbeddingBag beside their torch.nn twins, whose weight is the materialized table."""

import copy
import inspect

import pytest
import torch
from torch import nn

import robe

SIZE = {"num_slots": 97, "block_size": 4}


def twin_bag(bag: robe.RobeEmbeddingBag, **options) -> nn.EmbeddingBag:
    return nn.EmbeddingBag.from_pretrained(
        bag.materialize(), mode=bag.mode, padding_idx=bag.padding_idx, include_last_offset=bag.include_last_offset
    )


@pytest.mark.parametrize(
    ("ours", "theirs"), [(robe.RobeEmbedding, nn.Embedding), (robe.RobeEmbeddingBag, nn.EmbeddingBag)]
)
def test_arguments_are_those_of_the_twin(ours, theirs):
    mine, twins = (list(inspect.signature(c).parameters.values()) for c in (ours, theirs))
    shared = [p for p in mine if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    assert [(p.name, p.default) for p in shared] == [(p.name, p.default) for p in twins]
    assert list(inspect.signature(ours.forward).parameters) == list(inspect.signature(theirs.forward).parameters)


@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3), (2, 0, 3)])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_embedding_equals_twin(shape, dtype):
    emb = robe.RobeEmbedding(20, 6, **SIZE)
    twin = nn.Embedding.from_pretrained(emb.materialize())
    ids = torch.randint(0, 20, shape, dtype=dtype)
    assert torch.equal(emb(ids), twin(ids))


@pytest.mark.parametrize("padding_idx", [3, -1, 0, -20])
def test_embedding_padding(padding_idx):
    emb = robe.RobeEmbedding(20, 6, padding_idx, **SIZE)
    assert emb.padding_idx == nn.Embedding(20, 6, padding_idx).padding_idx
    ids = torch.tensor([emb.padding_idx, 5])
    out = emb(ids)
    assert torch.equal(out[0], torch.zeros(6))
    out[0].sum().backward()
    assert torch.equal(emb.array.grad, torch.zeros(97))


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("padding_idx", [None, 2])
def test_bag_equals_twin_2d(mode, padding_idx):
    bag = robe.RobeEmbeddingBag(20, 6, mode=mode, padding_idx=padding_idx, **SIZE)
    ids = torch.randint(0, 5, (7, 4))
    torch.testing.assert_close(bag(ids), twin_bag(bag)(ids))


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_bag_equals_twin_with_offsets(mode, last, dtype):
    bag = robe.RobeEmbeddingBag(20, 6, mode=mode, include_last_offset=last, **SIZE)
    ids = torch.randint(0, 20, (9,), dtype=dtype)
    offsets = torch.tensor([0, 0, 4, 5] + [9] * last, dtype=dtype)
    torch.testing.assert_close(bag(ids, offsets), twin_bag(bag)(ids, offsets))


def test_bag_weights_equal_twin():
    bag = robe.RobeEmbeddingBag(20, 6, mode="sum", **SIZE)
    ids, weights = torch.randint(0, 20, (7, 4)), torch.rand(7, 4)
    torch.testing.assert_close(bag(ids, per_sample_weights=weights), twin_bag(bag)(ids, per_sample_weights=weights))


def errors_of(call) -> type[Exception]:
    with pytest.raises(Exception) as info:  # noqa: PT011 - the test is about which type it is
        call()
    return info.type


@pytest.mark.parametrize(
    "call",
    [
        lambda bag: bag(torch.tensor([1, 2])),
        lambda bag: bag(torch.tensor([[1, 2]]), torch.tensor([0])),
        lambda bag: bag(torch.tensor([[1, 2]]), None, torch.ones(1, 3)),
        lambda bag: bag(torch.tensor([[[1, 2]]])),
        lambda bag: bag(torch.tensor([1, 2]), torch.tensor([[0]])),
    ],
)
def test_bag_refuses_what_its_twin_refuses(call):
    bag = robe.RobeEmbeddingBag(20, 6, mode="sum", **SIZE)
    assert errors_of(lambda: call(bag)) is errors_of(lambda: call(twin_bag(bag))) is ValueError


def test_weights_with_mean_are_refused_as_by_the_twin():
    bag = robe.RobeEmbeddingBag(20, 6, mode="mean", **SIZE)
    args = (torch.tensor([[1, 2]]), None, torch.ones(1, 2))
    assert errors_of(lambda: bag(*args)) is errors_of(lambda: twin_bag(bag)(*args)) is NotImplementedError


@pytest.mark.parametrize("bad", [-1, 20, 2**40])
def test_ids_out_of_range_are_refused_as_by_the_twin(bad):
    emb = robe.RobeEmbedding(20, 6, **SIZE)
    ids = torch.tensor([0, bad])
    assert errors_of(lambda: emb(ids)) is errors_of(lambda: nn.Embedding(20, 6)(ids)) is IndexError


@pytest.mark.parametrize("kind", [robe.RobeEmbedding, robe.RobeEmbeddingBag])
@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ({"max_norm": 1.0}, "max_norm: rows share slots"),
        ({"norm_type": 1.0}, "norm_type: has a meaning with max_norm only"),
        ({"scale_grad_by_freq": True}, "scale_grad_by_freq: a slot's gradient"),
        ({"sparse": True}, "sparse: the gradient of the shared array is dense"),
        ({"_weight": torch.zeros(20, 6)}, "_weight: a full table does not fit"),
    ],
)
def test_what_cannot_be_honoured_raises(kind, option, reason):
    with pytest.raises(NotImplementedError, match=reason):
        kind(20, 6, **option, **SIZE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one of num_slots=, compression= and memory="),
        ({"num_slots": 97, "memory": "1MB"}, "exactly one of"),
        ({"num_slots": 97, "padding_idx": 20}, "padding_idx: expected a value within num_embeddings=20, got 20"),
        ({"num_slots": 97, "seed": 3, "hash": robe.UniversalHash(1)}, "carries its own seed; leave out seed=3"),
        ({"num_slots": 5}, "num_slots: expected at least block_size=6"),
        ({"array": robe.RobeArray(97), "table_id": 1, "num_slots": 97}, "array: has its own size"),
        ({"array": robe.RobeArray(97)}, "table_id: needed with array=, for equal ids of two tables"),
        ({"array": robe.RobeArray(97), "table_id": 1, "_freeze": True}, "_freeze: would freeze every embedding"),
        ({"array": robe.RobeArray(97), "table_id": 1, "init_std": 0.1}, "init_std: the shared array has its initial"),
        (
            {"array": robe.RobeArray(97), "table_id": 1, "dtype": torch.half},
            "dtype: the shared array has torch.float32",
        ),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        robe.RobeEmbedding(20, 6, **options)


def test_a_bare_parameter_is_not_an_array():
    with pytest.raises(TypeError, match=r"array: expected a robe\.RobeArray or a ROBE module, got Parameter"):
        robe.RobeEmbedding(20, 6, array=nn.Parameter(torch.zeros(97)), table_id=1)


def test_defaults_of_the_twin():
    emb = robe.RobeEmbedding(1000, 16, num_slots=5000)
    assert emb.layout.block_size == 16
    assert abs(emb.array.std() - 1) < 0.05
    assert robe.RobeEmbeddingBag(1000, 16, num_slots=5000).mode == "mean"
    assert not robe.RobeEmbedding(20, 6, _freeze=True, **SIZE).array.requires_grad


def test_memory_counts_the_dtype():
    emb = robe.RobeEmbedding(10**6, 16, memory="64KB", dtype=torch.float16)
    assert emb.array.nbytes == 64_000
    assert emb(torch.tensor([5])).dtype == torch.float16


def test_any_int64_id():
    emb = robe.RobeEmbedding(None, 6, **SIZE)
    assert emb(torch.tensor([-1, 2**63 - 1, -(2**63)])).shape == (3, 6)
    with pytest.raises(ValueError, match="has num_embeddings=None"):
        emb.materialize()


class TwoTables(nn.Module):
    def __init__(self, device=None) -> None:
        super().__init__()
        shared = robe.RobeArray(97, device=device)
        self.user = robe.RobeEmbedding(20, 6, array=shared, table_id=0)
        self.item = robe.RobeEmbeddingBag(30, 6, array=self.user, table_id=1)

    def parameter_count(self) -> int:
        return sum(p.numel() for p in self.parameters())


@pytest.mark.parametrize(
    "move",
    [
        lambda m: m,
        copy.deepcopy,
        lambda m: m.to(torch.float64),
        lambda m: m.half(),
        lambda m: m.to("meta"),
        lambda m: m.to("meta").to_empty(device="cpu"),
        lambda m: copy.deepcopy(m).to("meta").to_empty(device="cpu").double(),
    ],
)
def test_the_array_stays_shared(move):
    model = move(TwoTables())
    assert model.user.array is model.item.array
    assert model.parameter_count() == 97


def test_meta_construction_then_real_values():
    model = TwoTables(device="meta").to_empty(device="cpu")
    model.user.reset_parameters()
    real = TwoTables()
    real.load_state_dict(model.state_dict())
    ids = torch.arange(20)
    assert torch.equal(real.user(ids), model.user(ids))
    assert torch.isfinite(model.item(ids.unsqueeze(0))).all()


def test_loading_by_assignment_onto_a_meta_module():
    emb = robe.RobeEmbedding(20, 6, **SIZE)
    other = robe.RobeEmbedding(20, 6, device="meta", **SIZE)
    other.load_state_dict(emb.state_dict(), assign=True)
    ids = torch.arange(20)
    assert torch.equal(other(ids), emb(ids))


def test_deepcopy_is_independent_of_the_original():
    model = TwoTables()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.user.array.zero_()
    assert model.user.array.abs().sum() > 0
    assert torch.equal(twin.user(torch.arange(20)), torch.zeros(20, 6))


def test_state_dict_round_trip(tmp_path):
    emb, other = robe.RobeEmbedding(20, 6, **SIZE), robe.RobeEmbedding(20, 6, **SIZE)
    torch.save(emb.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(emb.array, other.array)


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        ({"num_slots": 97, "block_size": 2}, "block_size: saved 4, this module 2"),
        ({**SIZE, "seed": 1}, "hash.seed: saved 0, this module 1"),
        ({**SIZE, "hash": robe.MixedHash()}, "hash.form: saved 'universal', this module 'mixed'"),
        ({**SIZE, "use_sign": True}, "use_sign: saved False, this module True"),
        ({**SIZE, "table_id": 3}, "tables: saved"),
        ({"num_slots": 98, "block_size": 4}, "num_slots: saved 97, this module 98"),
    ],
)
def test_state_dict_of_another_layout_is_refused_and_loads_nothing(other, difference):
    state = robe.RobeEmbedding(20, 6, **SIZE).state_dict()
    emb = robe.RobeEmbedding(20, 6, **other)
    before = emb.array.detach().clone()
    with pytest.raises(RuntimeError, match="laid out differently") as info:
        emb.load_state_dict(state)
    assert difference in str(info.value)
    assert torch.equal(emb.array, before)


def test_a_growing_vocabulary_keeps_its_embeddings():
    small, large = robe.RobeEmbedding(20, 6, **SIZE), robe.RobeEmbedding(2000, 6, **SIZE)
    large.load_state_dict(small.state_dict())
    assert torch.equal(small.materialize(), large.materialize()[:20])


def test_state_dict_without_layout_is_reported():
    emb = robe.RobeEmbedding(20, 6, **SIZE)
    with pytest.raises(RuntimeError, match=r"Missing key.*_extra_state"):
        emb.load_state_dict({"shared.array": torch.zeros(97)})


def test_repr_says_what_matters():
    text = repr(robe.RobeEmbeddingBag(20_000, 6, mode="sum", **SIZE))
    for fact in ("20000, 6", "mode='sum'", "num_slots=97", "block_size=4", "UniversalHash(seed=0)", "compression=1237"):
        assert fact in text


def test_training_moves_every_id_that_shares_a_slot():
    emb = robe.RobeEmbedding(50, 6, num_slots=20, init_std=0.1)
    optimizer = torch.optim.SGD(emb.parameters(), lr=1.0)
    before = emb.materialize()
    emb(torch.tensor([7])).sum().backward()
    optimizer.step()
    moved = emb.materialize() != before
    expected = torch.isin(emb.slots(0, torch.arange(50)), emb.slots(0, torch.tensor([7])))
    assert torch.equal(moved, expected)


def test_compiled_module_equals_eager():
    bag = robe.RobeEmbeddingBag(20, 6, mode="sum", **SIZE)
    ids = torch.randint(0, 20, (8, 3))
    compiled = torch.compile(bag, fullgraph=True, backend="aot_eager")
    out = compiled(ids)
    assert torch.equal(out, bag(ids))
    out.sum().backward()
    got = bag.array.grad.clone()
    bag.array.grad = None
    bag(ids).sum().backward()
    assert torch.equal(got, bag.array.grad)
