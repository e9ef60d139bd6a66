"""Modules with int8 arrays: made from trained ones, for inference."""

import copy
import io
import json

import pytest
import torch
from safetensors.torch import load, save

import robe
from robe.jagged import Jagged
from robe.models import DLRM
from robe.quantization import GROUP

TABLES = [robe.Table("user", 40, 4), robe.Table("movie", None, 4), robe.Table("year", 5, 4, direct=True)]
IDS = torch.tensor([[1, -5, 4], [39, 2**62, 0], [7, 0, 2]])


def collection(**options):
    return robe.RobeEmbeddingCollection(TABLES, num_slots=201, block_size=2, use_sign=True, **options)


def check_close(small, module, *inputs):
    """Within half the largest scale, and not equal: the slots are rounded."""
    exact = module(*inputs).detach()
    error = (small(*inputs) - exact).abs().max()
    assert 0 < error <= module.array.detach().abs().max() / 254 * 1.001


def test_embeddings_are_those_of_the_stored_numbers():
    exact = collection()
    coll = robe.quantize(exact)
    stored = coll.shared()
    out = coll(IDS)
    assert out.shape == (3, 3, 4)
    check_close(coll, exact, IDS)
    twin = collection()
    with torch.no_grad():
        twin.array.copy_(stored)
    assert torch.equal(out, twin(IDS))
    bags = Jagged.from_lists([[[1, 2], [-5], []]])
    assert torch.equal(coll(bags), twin(bags))
    assert torch.equal(coll.slots("year", IDS[:, 2]), exact.slots("year", IDS[:, 2]))
    assert torch.equal(coll.materialize("user"), twin.materialize("user"))
    assert torch.equal(coll.materialize("user")[IDS[:, 0]], out[:, 0])


def test_every_number_that_is_stored_counts():
    exact = collection()
    coll = robe.quantize(exact)
    assert list(coll.parameters()) == []
    assert coll.num_embedding_parameters == 201 + 4 == sum(b.numel() for b in coll.shared.buffers())
    assert (exact.nbytes, coll.nbytes) == (4 * 201, 201 + 4 * 4)
    assert "torch.int8, output_dtype=torch.float32" in repr(coll)


def test_the_original_is_left_alone():
    exact = collection()
    before = exact.array.detach().clone()
    robe.quantize(exact)
    assert torch.equal(exact.array, before)
    assert isinstance(exact.shared, robe.RobeArray)


@pytest.mark.parametrize("padding", [None, 3])
def test_drop_in_modules(padding):
    ids = torch.tensor([[1, 3], [9, 3]])
    embedding = robe.RobeEmbedding(10, 8, padding, num_slots=100)
    check_close(robe.quantize(embedding), embedding, ids)
    bag = robe.RobeEmbeddingBag(10, 8, num_slots=100, padding_idx=padding)
    check_close(robe.quantize(bag), bag, ids)


def test_arrays_that_were_shared_stay_so():
    first = robe.RobeEmbedding(10, 8, num_slots=100)
    second = robe.RobeEmbedding(20, 8, array=first, table_id=1)
    both = robe.quantize(torch.nn.ModuleList([first, second]))
    assert both[0].shared is both[1].shared
    assert isinstance(both[0].shared, robe.QuantizedArray)
    with pytest.raises(TypeError, match=r"array: expected a robe.RobeArray or a ROBE module, got QuantizedArray"):
        robe.RobeEmbedding(20, 8, array=both[0], table_id=2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_output_has_the_dtype_of_the_model(dtype):
    exact = collection()
    coll = robe.quantize(exact)
    scales, want = coll.shared.scales.clone(), coll(IDS)
    coll.to(dtype)
    assert torch.equal(coll(IDS), want.to(dtype))
    assert torch.equal(coll.shared.scales, scales)
    assert copy.deepcopy(coll)(IDS).dtype == dtype
    assert torch.equal(coll.float()(IDS), want)
    with pytest.raises(TypeError, match=r"an int8 array gives embeddings of torch.float32 or .*, not torch.float64"):
        coll.double()
    assert torch.equal(coll(IDS), want)
    assert robe.quantize(collection(dtype=dtype))(IDS).dtype == dtype
    assert robe.quantize(collection(dtype=dtype, output_dtype=torch.float32))(IDS).dtype == torch.float32
    with pytest.raises(TypeError, match=r"not torch.float64; convert with"):
        robe.quantize(exact.double())


def test_state_survives_safetensors():
    coll, other = robe.quantize(collection()), robe.quantize(collection(init_std=0.5))
    state = load(save(coll.state_dict()))
    assert set(state) == {"_extra_state", "shared.array", "shared.scales"}
    assert json.loads(bytes(state["_extra_state"].tolist()))["quantized"] == {"bits": 8, "group": GROUP}
    other.load_state_dict(state)
    assert torch.equal(coll(IDS), other(IDS))


def test_a_state_of_another_kind_is_refused_and_loads_nothing():
    exact = collection()
    coll = robe.quantize(exact)
    other = robe.quantize(robe.RobeEmbeddingCollection(TABLES, num_slots=201, block_size=2, use_sign=True, seed=1))
    for module, state, message in (
        (coll, exact.state_dict(), "quantized: saved None, this module"),
        (exact, coll.state_dict(), "quantized: saved .*'group': 64.*, this module None"),
        (coll, other.state_dict(), r"hash\.seed: saved 1, this module 0"),
    ):
        before = module(IDS)
        with pytest.raises(RuntimeError, match=message):
            module.load_state_dict(state)
        assert torch.equal(module(IDS), before)


def test_through_the_meta_device():
    coll = robe.quantize(collection())
    with torch.device("meta"):
        empty = robe.quantize(collection())
    empty.load_state_dict(coll.state_dict(), assign=True)
    assert torch.equal(empty(IDS), coll(IDS))
    moved = robe.quantize(collection()).to("meta").to_empty(device="cpu")
    moved.load_state_dict(coll.state_dict())
    assert torch.equal(moved(IDS), coll(IDS))


def test_compiled_equals_eager():
    coll = robe.quantize(collection())
    compiled = torch.compile(coll, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(IDS), coll(IDS))
    coll.bfloat16()
    assert torch.equal(compiled(IDS), coll(IDS))


@pytest.fixture
def model():
    tables = [robe.Table(str(i), 50, 16) for i in range(3)]
    embedding = robe.RobeEmbeddingCollection(tables, num_slots=500, init_std=0.5)
    return DLRM(embedding, num_dense=2, bottom_mlp=[16], top_mlp=[8])


def batch(size):
    return torch.rand(size, 2), torch.randint(0, 50, (size, 3))


def test_in_a_model(model):
    """Bottom and top MLP train on; the embeddings take no part."""
    small, inputs = robe.quantize(model), batch(20)
    assert not small.embedding.fuses_dot(inputs[1], small.bottom(inputs[0]))
    want = model(*inputs)
    torch.testing.assert_close(small(*inputs), want, rtol=0.1, atol=0.05)
    assert not torch.equal(small(*inputs), want)
    small(*inputs).sum().backward()
    assert all(p.grad is not None for p in small.parameters())
    with pytest.raises(ValueError, match="found none that can be trained"):
        robe.optim.SGD(small, lr=0.1)
    assert small.bfloat16()(inputs[0].bfloat16(), inputs[1]).dtype == torch.bfloat16


def test_in_an_exported_model(model):
    small, size = robe.quantize(model).eval(), torch.export.Dim("B")
    exported = torch.export.export(small, batch(4), dynamic_shapes=({0: size}, {0: size}))
    assert sum("lookup_quantized" in str(node.target) for node in exported.graph.nodes) == 1
    file = io.BytesIO()
    torch.export.save(exported, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for rows in (1, 300):
        inputs = batch(rows)
        torch.testing.assert_close(loaded(*inputs), small(*inputs))


def test_what_cannot_be_done_is_said(model):
    with pytest.raises(ValueError, match="module: expected a ROBE embedding or a model with one"):
        robe.quantize(torch.nn.Linear(2, 2))
    with pytest.raises(TypeError, match="an int8 array is for inference"):
        robe.quantize(model).embedding.reset_parameters()
    with torch.no_grad():
        model.embedding.array[7] = torch.nan
    with pytest.raises(ValueError, match="array: expected finite slots"):
        robe.quantize(model)


@pytest.mark.parametrize("num_dense", [0, 2])
def test_a_float32_model_over_a_bfloat16_array(num_dense):
    tables = [robe.Table(str(i), 50, 16) for i in range(3)]
    coll = robe.RobeEmbeddingCollection(tables, num_slots=500, dtype=torch.bfloat16, output_dtype=torch.float32)
    model, (dense, ids) = DLRM(coll, num_dense, bottom_mlp=[16], top_mlp=[8]), batch(6)
    assert not coll.fuses_dot(ids)
    out = model(dense if num_dense else None, ids)
    assert out.dtype == torch.float32
    out.sum().backward()
    assert coll.array.grad.dtype == torch.bfloat16
    optimizer = robe.optim.SGD(coll, lr=0.1)
    before = coll.array.detach().clone()
    model(dense if num_dense else None, ids).sum().backward()
    optimizer.step()
    assert not torch.equal(coll.array, before)
    with pytest.raises(ValueError, match=r"output_dtype: the shared array has torch.float32, got torch.float64"):
        robe.RobeEmbeddingCollection(tables, array=coll, output_dtype=torch.float64)
