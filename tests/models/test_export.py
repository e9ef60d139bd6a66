"""A model with ROBE, exported and compiled by torch's own compiler: the ops stay one call each."""

import io

import pytest
import torch

import robe
from robe.models import DLRM


@pytest.fixture
def model():
    tables = [robe.Table(str(i), 50, 16) for i in range(3)]
    return DLRM(robe.RobeEmbeddingCollection(tables, num_slots=500), num_dense=2, bottom_mlp=[16], top_mlp=[8])


def batch(size):
    return torch.rand(size, 2), torch.randint(0, 50, (size, 3))


def test_an_exported_model_is_saved_and_loaded(model):
    size = torch.export.Dim("B")
    exported = torch.export.export(model, batch(4), dynamic_shapes=({0: size}, {0: size}))
    assert sum("robe" in str(node.target) for node in exported.graph.nodes) == 1
    file = io.BytesIO()
    torch.export.save(exported, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for rows in (1, 4, 300):
        inputs = batch(rows)
        torch.testing.assert_close(loaded(*inputs), model(*inputs))


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # by inductor itself
def test_inductor_gives_the_same_results_and_gradients(model):
    compiled, inputs = torch.compile(model, fullgraph=True), batch(16)
    out = compiled(*inputs)
    out.sum().backward()
    got = model.embedding.array.grad.clone()
    model.zero_grad()
    want = model(*inputs)
    want.sum().backward()
    torch.testing.assert_close(out, want)
    torch.testing.assert_close(got, model.embedding.array.grad)
