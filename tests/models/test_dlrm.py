import pytest
import torch

import robe
from robe.models import DLRM

TABLES = [robe.Table(f"C{i}", 50, 16) for i in range(26)]


def make(num_dense=13, **options):
    return DLRM(robe.RobeEmbeddingCollection(TABLES, num_slots=500), num_dense, **options)


def test_shapes_of_table_8():
    model = make()
    widths = [m.weight.shape for m in [*model.bottom, *model.top] if isinstance(m, torch.nn.Linear)]
    assert [tuple(w) for w in widths] == [(512, 13), (256, 512), (64, 256), (16, 64), (512, 367), (256, 512), (1, 256)]
    out = model(torch.rand(5, 13), torch.randint(0, 50, (5, 26)))
    assert out.shape == (5,)
    out.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_against_a_hand_computed_example():
    """Two features of dim 2, no hidden layers: the logit is w . [bottom, <bottom, e>] + b."""
    emb = robe.RobeEmbeddingCollection([robe.Table("a", 3, 2)], num_slots=4)
    model = DLRM(emb, num_dense=1, bottom_mlp=(), top_mlp=())
    with torch.no_grad():
        emb.array.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
        model.bottom[0].weight.copy_(torch.tensor([[2.0], [-1.0]]))
        model.bottom[0].bias.copy_(torch.tensor([0.0, 5.0]))
        model.top[0].weight.copy_(torch.tensor([[1.0, 10.0, 100.0]]))
        model.top[0].bias.copy_(torch.tensor([0.5]))
    e = emb.array[emb.slots("a", torch.tensor(1))]
    # dense 3: bottom = relu([6, 2]) = [6, 2]
    expected = 6 + 20 + 100 * (6 * e[0] + 2 * e[1]) + 0.5
    torch.testing.assert_close(model(torch.tensor([[3.0]]), torch.tensor([[1]])), expected.detach().reshape(1))


def test_pairs_and_gradients_against_a_hand_computed_example():
    """Bottom z = (3, 1), a = (1, 2), b = (-1, 4): Facebook's order of pairs is (a, z), (b, z), (b, a).

    The logit is 1 z_0 + 10 z_1 + 100 a.z + 1000 b.z + 10000 b.a + 0.5, with a.z = 5, b.z = 1, b.a = 7.
    """
    tables = [robe.Table("a", 2, 2), robe.Table("b", 2, 2)]
    model = DLRM(robe.FullEmbeddingCollection(tables), num_dense=1, bottom_mlp=(), top_mlp=())
    a, b = (bag.weight for bag in model.embedding.embeddings)
    with torch.no_grad():
        a.copy_(torch.tensor([[9.0, 9.0], [1.0, 2.0]]))
        b.copy_(torch.tensor([[-1.0, 4.0], [9.0, 9.0]]))
        model.bottom[0].weight.copy_(torch.tensor([[1.0], [0.0]]))
        model.bottom[0].bias.copy_(torch.tensor([0.0, 1.0]))
        model.top[0].weight.copy_(torch.tensor([[1.0, 10.0, 100.0, 1000.0, 10000.0]]))
        model.top[0].bias.copy_(torch.tensor([0.5]))
    logit = model(torch.tensor([[3.0]]), torch.tensor([[1, 0]]))
    assert logit.tolist() == [3 + 10 + 500 + 1000 + 70000 + 0.5]
    logit.backward()
    # By a: 100 z + 10000 b; by b: 1000 z + 10000 a; by z, that is by the bias: (1, 10) + 100 a + 1000 b.
    assert a.grad.tolist() == [[0, 0], [300 - 10000, 100 + 40000]]
    assert b.grad.tolist() == [[3000 + 10000, 1000 + 20000], [0, 0]]
    assert model.bottom[0].bias.grad.tolist() == [1 + 100 - 1000, 10 + 200 + 4000]
    assert model.bottom[0].weight.grad.tolist() == [[3 * -899.0], [3 * 4210.0]]
    assert model.top[0].weight.grad.tolist() == [[3, 1, 5, 1, 7]]
    assert model.top[0].bias.grad.tolist() == [1]


def test_without_numeric_features():
    model = make(num_dense=0)
    assert model.bottom is None
    assert model.top[0].in_features == 26 * 25 // 2
    assert model(None, torch.randint(0, 50, (5, 26))).shape == (5,)


@pytest.mark.parametrize("num_dense", [0, 13])
def test_concatenated_embeddings_reach_the_top(num_dense):
    model = make(num_dense, concat_embeddings=True)
    plain = make(num_dense)
    assert model.top[0].in_features == plain.top[0].in_features + 26 * 16
    with torch.no_grad():  # with no weight on the embeddings it is the plain model
        model.load_state_dict({k: v for k, v in plain.state_dict().items() if k != "top.0.weight"}, strict=False)
        model.top[0].weight.zero_()
        model.top[0].weight[:, 26 * 16 :] = plain.top[0].weight
    dense, ids = (torch.rand(5, 13) if num_dense else None), torch.randint(0, 50, (5, 26))
    torch.testing.assert_close(model(dense, ids), plain(dense, ids))
    with torch.no_grad():
        model.top[0].weight[:, :16] = 1
    assert not torch.allclose(model(dense, ids), plain(dense, ids))


def test_bags():
    emb = robe.RobeEmbeddingCollection(TABLES[:2], num_slots=500)
    model = DLRM(emb, num_dense=0)
    single = model(None, torch.tensor([[3, 4]]))
    bags = model(None, robe.Jagged.from_lists([[[3], [4]]]))
    torch.testing.assert_close(single, bags)


@pytest.mark.parametrize("kind", [robe.FullEmbeddingCollection, robe.HashingTrickCollection])
def test_any_embedding(kind):
    size = {} if kind is robe.FullEmbeddingCollection else {"compression": 10}
    model = DLRM(kind(TABLES, **size))
    assert model(torch.rand(5, 13), torch.randint(0, 50, (5, 26))).shape == (5,)


@pytest.mark.parametrize("dense", [None, torch.rand(5, 12)])
def test_dense_features_are_checked(dense):
    with pytest.raises(ValueError, match=r"dense: expected shape \[B, 13\]"):
        make()(dense, torch.randint(0, 50, (5, 26)))
    with pytest.raises(ValueError, match="dense: expected None"):
        make(num_dense=0)(torch.rand(5, 13), torch.randint(0, 50, (5, 26)))


def test_one_feature_has_nothing_to_interact_with():
    with pytest.raises(ValueError, match="at least two features"):
        DLRM(robe.RobeEmbeddingCollection(TABLES[:1], num_slots=500), num_dense=0)


def test_mixed_dims_are_refused():
    emb = robe.RobeEmbeddingCollection([robe.Table("a", 5, 2), robe.Table("b", 5, 4)], num_slots=500)
    with pytest.raises(ValueError, match="one common embedding_dim"):
        DLRM(emb)


def test_compiled_model_equals_eager():
    model = make()
    dense, ids = torch.rand(5, 13), torch.randint(0, 50, (5, 26))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(dense, ids), model(dense, ids))


def test_dropout_and_batch_normalisation_of_the_top():
    model = make(top_mlp=[6, 5], dropout=0.5, batch_norm=True)
    names = [type(layer).__name__ for layer in model.top]
    assert names == ["Linear", "BatchNorm1d", "ReLU", "Dropout"] * 2 + ["Linear"]
    inputs = torch.rand(64, 13), torch.randint(0, 50, (64, 26))
    assert not torch.equal(model(*inputs), model(*inputs))
    model.eval()
    assert torch.equal(model(*inputs), model(*inputs))
