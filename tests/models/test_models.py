"""What holds for every model: gradients, any embedding, compilation, export; and sizes at Kaggle's cardinalities."""

import itertools

import pytest
import torch

import robe
from robe.models import DCN, MODELS, AutoInt, ClickModel, DCNv2, DeepFM, FiBiNET, FinalMLP
from robe.nn.interactions import CrossNetworkV2, cin

F, D, B = 4, 8, 5
TABLES = [robe.Table(f"C{i}", 50, D) for i in range(F)]
SMALL = {
    "dlrm": {"bottom_mlp": (6,), "top_mlp": (6,)},
    "dcn": {"mlp": (6, 4)},
    "autoint": {"mlp": (6,), "attention_dim": 3, "attention_layers": 2},
    "deepfm": {"mlp": (6,), "dropout": 0},
    "xdeepfm": {"mlp": (6,), "cin": (4, 4), "dropout": 0},
    "fibinet": {"mlp": (6,), "dropout": 0},
    "dcnv2": {"mlp": (6,), "cross_rank": 3},
    "finalmlp": {"mlp": (6, 4), "second_mlp": (4,)},
}
WITH_FIRST_ORDER = [name for name, model in MODELS.items() if issubclass(model, ClickModel)]
# Distinct values of Criteo Kaggle's fields: Appendix C of the paper.
KAGGLE = [1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194, 27, 14992, 5461306, 10]
KAGGLE += [5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572]


def collection(slots=500, **options):
    return robe.RobeEmbeddingCollection(TABLES, num_slots=slots, block_size=4, init_std=0.3, **options)


def make(name, num_dense=3, embedding=None, **options):
    return MODELS[name](embedding or collection(), num_dense=num_dense, **(SMALL[name] | options))


def batch(num_dense=3, rows=B):
    return (torch.rand(rows, num_dense) if num_dense else None), torch.randint(0, 50, (rows, F))


@pytest.mark.parametrize("num_dense", [0, 3])
@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_gets_a_gradient(name, num_dense):
    model = make(name, num_dense)
    out = model(*batch(num_dense))
    assert out.shape == (B,)
    out.square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", MODELS)
def test_no_rows(name):
    assert make(name)(*batch(rows=0)).shape == (0,)


@pytest.mark.parametrize("kind", ["full", "hashing"])
@pytest.mark.parametrize("name", MODELS)
def test_any_embedding_and_bags(name, kind):
    embedding = (
        robe.FullEmbeddingCollection(TABLES)
        if kind == "full"
        else robe.HashingTrickCollection(TABLES, compression=10, capped=True)
    )
    options = {"first_order": embedding.first_order()} if name in WITH_FIRST_ORDER else {}
    model = make(name, embedding=embedding, **options)
    dense, ids = batch()
    single = model(dense, ids)
    bags = model(dense, robe.Jagged.from_lists([[[int(i)] for i in row] for row in ids]))
    torch.testing.assert_close(single, bags)


@pytest.mark.parametrize("name", MODELS)
def test_compiled_equals_eager(name):
    model = make(name)
    inputs = batch()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), model(*inputs))


@pytest.mark.parametrize("name", MODELS)
def test_exported_for_any_batch_size(name):
    model = make(name).eval()
    size = torch.export.Dim("B")
    exported = torch.export.export(model, batch(), dynamic_shapes=({0: size}, {0: size})).module()
    inputs = batch(rows=17)
    torch.testing.assert_close(exported(*inputs), model(*inputs))


@pytest.mark.parametrize("name", MODELS)
def test_wrong_inputs_are_explained(name):
    with pytest.raises(ValueError, match=r"dense: expected shape \[B, 3\], got \(5, 2\)"):
        make(name)(torch.rand(B, 2), batch()[1])
    with pytest.raises(ValueError, match="dense: expected None"):
        make(name, num_dense=0)(torch.rand(B, 2), batch()[1])
    mixed = robe.RobeEmbeddingCollection([robe.Table("a", 5, 2), robe.Table("b", 5, 4)], num_slots=50)
    with pytest.raises(ValueError, match="one common embedding_dim"):
        MODELS[name](mixed)


@pytest.mark.parametrize("name", WITH_FIRST_ORDER)
def test_first_order_weights(name):
    """Tied ones are element 0 of the embeddings, those of their own are other slots of the same array."""
    inputs = batch()
    plain, tied = make(name, first_order=None), make(name)
    tied.load_state_dict(plain.state_dict())
    firsts = sum(tied.embedding.materialize(t)[inputs[1][:, t], 0] for t in range(F))
    torch.testing.assert_close(tied(*inputs) - plain(*inputs), firsts)

    embedding = plain.embedding
    weights = embedding.first_order()
    own = make(name, embedding=embedding, first_order=weights)
    own.load_state_dict(plain.state_dict(), strict=False)
    torch.testing.assert_close(own(*inputs) - plain(*inputs), weights(inputs[1]).sum((1, 2)))
    assert weights.array is embedding.array
    assert sum(p.numel() for p in own.parameters()) == sum(p.numel() for p in plain.parameters())
    slots = [[c.slots(t, torch.arange(50))[:, 0] for t in range(F)] for c in (embedding, weights)]
    assert not any(torch.equal(a, b) for a, b in zip(*slots, strict=True))


def test_first_order_weights_that_cannot_be():
    with pytest.raises(ValueError, match="expected 'tied', None or a collection of dim 1, got 'own'"):
        make("deepfm", first_order="own")
    with pytest.raises(ValueError, match="expected a collection of 4 fields of dim 1, got 4 of dim 8"):
        make("deepfm", first_order=collection())
    with pytest.raises(ValueError, match="released hash does not number tables"):
        collection(hash=robe.ReleasedHash()).first_order()
    direct = [*TABLES[:3], robe.Table("C3", 50, D, direct=True)]
    with pytest.raises(ValueError, match="rows of direct tables"):
        robe.RobeEmbeddingCollection(direct, num_slots=900, block_size=4).first_order()


@pytest.mark.parametrize("seen", ["sum", "mean", "max"])
def test_first_order_weights_pool_bags_as_embeddings_do(seen):
    assert collection(mode=seen).first_order().mode == seen


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"dlrm"}))
def test_options_of_the_deep_part(name):
    options = {"dropout": 0.5, "batch_norm": True, "mlp_init_std": 1e-4}
    model = make(name, **options)
    assert any(isinstance(m, torch.nn.BatchNorm1d) for m in model.modules())
    hidden = next(m for m in model.modules() if isinstance(m, torch.nn.Linear) and m.out_features == 6)
    assert hidden.weight.std() < 1e-3
    inputs = batch()
    assert not torch.equal(model(*inputs), model(*inputs))
    model.eval()
    assert torch.equal(model(*inputs), model(*inputs))


@pytest.mark.parametrize("rows", [0, 1, 5])
@pytest.mark.parametrize("size", [1, 30, 1 << 20])
def test_products_in_slices_of_any_size(monkeypatch, rows, size):
    """Slices of one row, of rows that do not divide the batch, and all at once: values and gradients of the formula."""
    monkeypatch.setattr(cin, "SLICE", size)
    hidden = torch.randn(rows, 2, 4, dtype=torch.float64)[:, :, :3].requires_grad_()  # not contiguous
    base = torch.randn(rows, 5, 2, dtype=torch.float64).transpose(1, 2).requires_grad_()
    weight = torch.randn(4, 15, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(4, dtype=torch.float64, requires_grad=True)
    expected = torch.einsum("bdh,bdf,nhf->bdn", hidden, base, weight.view(4, 3, 5)) + bias
    torch.testing.assert_close(cin.sums_of_products(hidden, base, weight, bias), expected)
    assert torch.autograd.gradcheck(cin.sums_of_products, (hidden, base, weight, bias))


def test_products_under_autocast(monkeypatch):
    """bfloat16 as in torch's own layers, but sums over many slices in float32, and float32 gradients."""
    monkeypatch.setattr(cin, "SLICE", 30)
    inputs = [torch.randn(size, requires_grad=True) for size in ((40, 8, 3), (40, 8, 5), (4, 15), (4,))]
    grad = torch.randn(40, 8, 4)
    with torch.autocast("cpu", torch.bfloat16):
        out = cin.sums_of_products(*inputs)
    assert out.dtype == torch.bfloat16
    gradients = torch.autograd.grad(out, inputs, grad.bfloat16())
    exact = cin.sums_of_products(*inputs)
    for got, expected in zip((out, *gradients), (exact, *torch.autograd.grad(exact, inputs, grad)), strict=True):
        assert got.dtype == (torch.bfloat16 if got is out else torch.float32)
        assert (got - expected).norm() < 0.01 * expected.norm()


def test_parameter_counts_of_public_runs():
    """The totals that BARS' logs of DCNv2_criteo_x4_001 and FinalMLP_criteo_x4_001 print for their vocabularies."""
    rows = [
        1446, 39530, 5131, 156656, 3176, 28, 11043, 148913, 12, 4560, 2003, 554, 5, 154564, 18, 17, 53031, 82, 40955,
        157339, 117822, 306, 18, 11882, 630, 5, 44, 6, 27, 37, 72, 99, 122, 41, 220, 112, 80, 69, 92,
    ]  # fmt: skip
    with torch.device("meta"):
        full = robe.FullEmbeddingCollection([robe.Table(f"C{i}", n, 16) for i, n in enumerate(rows)])
        dcn = DCNv2(full, 0, mlp=(1000,) * 5, cross_layers=3, batch_norm=True)
        final = FinalMLP(full, 0, mlp=(1000,) * 5, second_mlp=(500,), num_heads=50, gates=False)
    assert sum(p.numel() for p in dcn.parameters()) == 20_382_577
    assert (
        sum(p.numel() for p in final.parameters()) + 1 == 19_524_954
    )  # their two streams each add a bias to the logit


def test_dcn_v2_against_its_formula():
    """x + x0 * (W x + b) twice, W = U V of rank 3, beside relu(W x0 + b)."""
    model = DCNv2(collection(), num_dense=3, mlp=(6,), cross_layers=2, cross_rank=3)
    dense, ids = batch()
    x0 = torch.cat([model.embedding(ids).flatten(1), dense], 1)
    x = x0
    for layer in model.cross.layers:
        (v, u) = layer
        x = x0 * (x @ v.weight.T @ u.weight.T + u.bias) + x
    deep = torch.relu(x0 @ model.deep[0].weight.T + model.deep[0].bias)
    expected = torch.cat([x, deep], 1) @ model.output.weight[0] + model.output.bias
    torch.testing.assert_close(model(dense, ids), expected)
    assert CrossNetworkV2(7, 1).layers[0].weight.shape == (7, 7)


def test_finalmlp_against_its_formula():
    model = FinalMLP(collection(), num_dense=3, mlp=(6, 4), second_mlp=(8,), num_heads=2)
    with torch.no_grad():
        model.gates.normal_()
    dense, ids = batch()
    x0 = torch.cat([model.embedding(ids).flatten(1), dense], 1)
    left = model.first(x0 * 2 * torch.sigmoid(model.gates[0]))
    right = model.second(x0 * 2 * torch.sigmoid(model.gates[1]))
    heads = [
        torch.einsum("bi,ij,bj->b", left[:, 2 * h : 2 * h + 2], model.fusion.weight[h], right[:, 4 * h : 4 * h + 4])
        for h in range(2)
    ]
    expected = torch.cat([left, right], 1) @ model.fusion.linear.weight[0] + model.fusion.linear.bias + sum(heads)
    torch.testing.assert_close(model(dense, ids), expected)
    assert FinalMLP(collection(), 3, mlp=(6,), second_mlp=(6,), gates=False).gates is None
    other = FinalMLP(collection(), 3, mlp=(6,), second_mlp=(6,), dropout=0.2, second_dropout=0.1)
    assert [stream[-1].p for stream in (other.first, other.second)] == [0.2, 0.1]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FinalMLP(collection(), mlp=(), second_mlp=(4,)), r"mlp: expected at least one layer"),
        (lambda: FinalMLP(collection(), mlp=(5,), second_mlp=(4,)), r"num_heads: expected a divisor of the widths"),
        (lambda: MODELS["xdeepfm"](collection(), cin=()), r"maps: expected at least one layer"),
        (lambda: MODELS["xdeepfm"](collection(), cin=(3, 4)), r"maps: expected even numbers"),
        (lambda: FiBiNET(collection(), bilinear="al"), r"bilinear: unknown 'al'; did you mean 'all'\?"),
        (lambda: FiBiNET(robe.RobeEmbeddingCollection(TABLES[:1], num_slots=50)), r"at least two fields to pair"),
    ],
)  # fmt: skip
def test_impossible_models_are_explained(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_without_a_deep_part():
    for model in (DCN(collection(), 3, mlp=()), AutoInt(collection(), 3, mlp=()), DeepFM(collection(), 3, mlp=())):
        assert model(*batch()).shape == (B,)


def meta(name, make_embedding):
    with torch.device("meta"):
        tables = [robe.Table(f"C{i + 1}", rows, 16) for i, rows in enumerate(KAGGLE)]
        return MODELS[name](make_embedding(tables))


@pytest.mark.parametrize("name", MODELS)
def test_parameters_at_kaggle_cardinalities(name):
    """The paper: 33.76 million tokens of D = 16 are 540 million parameters, and 540 thousand at 1000x."""
    full = meta(name, robe.FullEmbeddingCollection)
    small = meta(name, lambda tables: robe.RobeEmbeddingCollection(tables, num_slots=540_000, block_size=16))
    embedding = [sum(p.numel() for p in model.embedding.parameters()) for model in (full, small)]
    assert embedding == [33_762_577 * 16, 540_000]
    networks = [sum(p.numel() for p in m.parameters()) - n for m, n in zip((full, small), embedding, strict=True)]
    assert networks == [NETWORKS[name]] * 2


def linear(*widths):
    """Weights and biases of linear layers."""
    return sum(a * b + b for a, b in itertools.pairwise(widths))


WIDTH = 26 * 16 + 13  # of embeddings and numeric features
# Table 8 by hand: hidden layers, output layer, interactions; and 14 for the numeric features' weights and the bias.
NETWORKS = {
    "dlrm": linear(13, 512, 256, 64, 16) + linear(27 * 26 // 2 + 16, 512, 256, 1),
    "dcn": linear(WIDTH, 1024, 1024, 1024, 1024) + 2 * WIDTH + (WIDTH + 1024) + 14,
    "autoint": linear(WIDTH, 400, 400, 400) + 4 * 64 * (16 + 64 + 64) + (26 * 64 + 400) + 14,
    "deepfm": linear(WIDTH, 400, 400, 400) + 400 + 14,
    "xdeepfm": linear(WIDTH, 400, 400, 400) + 400 + linear(26 * 26, 200) + 2 * linear(100 * 26, 200) + 400 + 14,
    "fibinet": linear(2 * 325 * 16 + 13, 400, 400, 400) + 400 + 325 * 16 * 16 + 2 * 26 * 8 + 14,
    "dcnv2": linear(WIDTH, 400, 400, 400) + 3 * linear(WIDTH, WIDTH) + linear(WIDTH + 400, 1),
    "finalmlp": linear(WIDTH, 400, 400, 400) + linear(WIDTH, 400) + linear(800, 1) + 2 * 200 * 200 + 2 * WIDTH,
}
