"""Five models against DeepCTR-Torch, an independent implementation: equal weights and inputs, logits and gradients."""

import pytest
import torch

import robe
from robe.models import DCN, AutoInt, DeepFM, FiBiNET, XDeepFM

FIELDS, DIM, DENSE, BATCH = 6, 8, 3, 11
ROWS = [5, 9, 40, 3, 17, 1]
TABLES = [robe.Table(f"C{i}", rows, DIM) for i, rows in enumerate(ROWS)]
TIGHT = {"rtol": 1e-9, "atol": 1e-9}  # in float64; the paper's models are asked to agree to 1e-5


@pytest.fixture(scope="module")
def deepctr():
    """The package; it asks for its newest version on the network when it is imported, which tests do not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("threading.Thread.start", lambda thread: None)
        import deepctr_torch.models
    return deepctr_torch.models


def columns():
    from deepctr_torch.inputs import DenseFeat, SparseFeat

    sparse = [SparseFeat(t.name, t.num_embeddings, embedding_dim=DIM) for t in TABLES]
    return [*sparse, *(DenseFeat(f"I{i}", 1) for i in range(DENSE))]


# Ours, theirs, and how the weights are called that only some models have: (ours, theirs).


CASES = {
    "dcn": (
        lambda e, f: DCN(e, DENSE, mlp=(12, 10), cross_layers=3, first_order=f),
        lambda m, c: m.DCN(c, c, cross_num=3, dnn_hidden_units=(12, 10)),
        [("cross.weight", "crossnet.kernels"), ("cross.bias", "crossnet.bias"), ("output.weight", "dnn_linear.weight")],
    ),
    "autoint": (
        lambda e, f: AutoInt(e, DENSE, (12, 10), attention_layers=2, attention_heads=2, attention_dim=4, first_order=f),
        lambda m, c: m.AutoInt(c, c, att_layer_num=2, att_head_num=2, dnn_hidden_units=(12, 10)),
        [("output.weight", "dnn_linear.weight")],
    ),
    "deepfm": (
        lambda e, f: DeepFM(e, DENSE, mlp=(12, 10), dropout=0, first_order=f),
        lambda m, c: m.DeepFM(c, c, dnn_hidden_units=(12, 10)),
        [("deep.1.weight", "dnn_linear.weight")],
    ),
    "deepfm with batch normalisation": (
        lambda e, f: DeepFM(e, DENSE, mlp=(12, 10), dropout=0, batch_norm=True, first_order=f),
        lambda m, c: m.DeepFM(c, c, dnn_hidden_units=(12, 10), dnn_use_bn=True),
        [("deep.1.weight", "dnn_linear.weight")],
    ),
    "xdeepfm": (
        lambda e, f: XDeepFM(e, DENSE, mlp=(12, 10), cin=(6, 8, 5), dropout=0, first_order=f),
        lambda m, c: m.xDeepFM(c, c, dnn_hidden_units=(12, 10), cin_layer_size=(6, 8, 5)),
        [("deep.1.weight", "dnn_linear.weight"), ("cin_output.weight", "cin_linear.weight")],
    ),
    "xdeepfm without split": (
        lambda e, f: XDeepFM(e, DENSE, mlp=(12,), cin=(5, 7), cin_split_half=False, dropout=0, first_order=f),
        lambda m, c: m.xDeepFM(c, c, dnn_hidden_units=(12,), cin_layer_size=(5, 7), cin_split_half=False),
        [("deep.1.weight", "dnn_linear.weight"), ("cin_output.weight", "cin_linear.weight")],
    ),
    **{
        f"fibinet, {kind}": (
            lambda e, f, kind=kind: FiBiNET(e, DENSE, mlp=(12, 10), bilinear=kind, dropout=0, first_order=f),
            lambda m, c, kind=kind: m.FiBiNET(c, c, dnn_hidden_units=(12, 10), bilinear_type=kind),
            [
                ("deep.1.weight", "dnn_linear.weight"),
                ("senet.excitation.0.weight", "SE.excitation.0.weight"),
                ("senet.excitation.2.weight", "SE.excitation.2.weight"),
            ],
        )
        for kind in ("interaction", "each", "all")
    },
}


def pairs(ours, theirs, named):
    """Every parameter of ours with the expression of theirs that it must equal, as functions without arguments.

    The expressions take views of ``.data`` or, for gradients, of ``.grad``.
    """
    mine, other = dict(ours.named_parameters()), dict(theirs.named_parameters())
    found = [(mine[a], lambda of, b=b: of(other[b])) for a, b in named]
    found += [(mine["dense_weight"], lambda of: of(other["linear_model.weight"]))]
    found += [(mine["bias"], lambda of: of(other["out.bias"]))]
    linears = [m for m in ours.deep.modules() if isinstance(m, torch.nn.Linear) and m.bias is not None]
    for a, b in zip(linears, theirs.dnn.linears, strict=True):
        found += [(a.weight, lambda of, b=b: of(b.weight)), (a.bias, lambda of, b=b: of(b.bias))]
    norms = [m for m in ours.deep.modules() if isinstance(m, torch.nn.BatchNorm1d)]
    for a, b in zip(norms, getattr(theirs.dnn, "bn", []), strict=True):
        found += [(a.weight, lambda of, b=b: of(b.weight)), (a.bias, lambda of, b=b: of(b.bias))]
    if isinstance(ours, AutoInt):
        for a, b in zip(ours.attention, theirs.int_layers, strict=True):
            four = (b.W_Query, b.W_key, b.W_Value, b.W_Res)
            found += [(a.weight, lambda of, four=four: torch.cat([of(w).T for w in four]))]
    if isinstance(ours, XDeepFM):
        for a, b in zip(ours.cin.layers, theirs.cin.conv1ds, strict=True):
            found += [(a.weight, lambda of, b=b: of(b.weight)), (a.bias, lambda of, b=b: of(b.bias))]
    if isinstance(ours, FiBiNET):
        bilinear = theirs.Bilinear.bilinear
        # With a matrix per field theirs has one more than is used: the last field is the first of no pair.
        used = [bilinear] if isinstance(bilinear, torch.nn.Linear) else list(bilinear)[: len(ours.bilinear.weight)]
        found += [(ours.bilinear.weight, lambda of: torch.stack([of(b.weight) for b in used]))]
    return found


def tables_of(embedding_dict, value):
    return [value(embedding_dict[t.name].weight) for t in TABLES]


def data(p):
    return p.detach()


def grad(p):
    return p.grad


def inputs():
    ids = torch.stack([torch.randint(0, rows, (BATCH,)) for rows in ROWS], 1)
    return torch.randn(BATCH, DENSE, dtype=torch.float64), ids


def run_both(ours, theirs, dense, ids):
    """Logits of both, after a backward from the same random direction."""
    direction = torch.randn(BATCH, dtype=torch.float64)
    mine = ours(dense, ids)
    (mine * direction).sum().backward()
    probability = theirs(torch.cat([ids.double(), dense], 1)).squeeze(1)
    other = torch.logit(probability)
    (other * direction).sum().backward()
    return mine, other


def make(deepctr, name, embedding, first_order):
    mine, theirs, named = CASES[name]
    ours, other = mine(embedding, first_order).double(), theirs(deepctr, columns()).double()
    with torch.no_grad():
        for p in (*ours.parameters(), *other.parameters()):
            p.normal_(std=0.2)
    return ours, other, named


def compare(ours, theirs, named, dense, ids):
    with torch.no_grad():
        for p, expression in pairs(ours, theirs, named):
            p.copy_(expression(data).reshape(p.shape))
    mine, other = run_both(ours, theirs, dense, ids)
    torch.testing.assert_close(mine, other, **TIGHT)
    for p, expression in pairs(ours, theirs, named):
        torch.testing.assert_close(p.grad, expression(grad).reshape(p.shape), **TIGHT)
    counted = {id(p) for p, _ in pairs(ours, theirs, named)}
    embeddings = {id(p) for p in (*ours.embedding.parameters(), *getattr(ours.first_order, "parameters", list)())}
    assert counted | embeddings == {id(p) for p in ours.parameters()}, "a parameter was not compared"


@pytest.mark.parametrize("name", CASES)
def test_full_tables(deepctr, name):
    embedding = robe.FullEmbeddingCollection(TABLES, dtype=torch.float64)
    ours, theirs, named = make(deepctr, name, embedding, embedding.first_order())
    with torch.no_grad():
        for collection, other in ((embedding, theirs), (ours.first_order, theirs.linear_model)):
            for bag, weight in zip(collection.embeddings, tables_of(other.embedding_dict, data), strict=True):
                bag.weight.copy_(weight)
    compare(ours, theirs, named, *inputs())
    for collection, other in ((embedding, theirs), (ours.first_order, theirs.linear_model)):
        for bag, gradient in zip(collection.embeddings, tables_of(other.embedding_dict, grad), strict=True):
            torch.testing.assert_close(bag.weight.grad, gradient, **TIGHT)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_robe(deepctr, name, tied):
    """Their tables hold what ours materialise; the array's gradient is theirs, summed over the slots of every row."""
    embedding = robe.RobeEmbeddingCollection(TABLES, num_slots=101, block_size=4, dtype=torch.float64)
    ours, theirs, named = make(deepctr, name, embedding, "tied" if tied else embedding.first_order())
    array = embedding.array
    every = [(theirs.embedding_dict, embedding)]
    every += [] if tied else [(theirs.linear_model.embedding_dict, ours.first_order)]
    with torch.no_grad():
        for dictionary, collection in every:
            for t in TABLES:
                dictionary[t.name].weight.copy_(collection.materialize(t.name))
        if tied:
            for t in TABLES:
                theirs.linear_model.embedding_dict[t.name].weight.copy_(embedding.materialize(t.name)[:, :1])
    compare(ours, theirs, named, *inputs())
    expected = torch.zeros_like(array)
    for dictionary, collection in every:
        for t in TABLES:
            slots = collection.slots(t.name, torch.arange(t.num_embeddings))
            expected.index_put_((slots,), dictionary[t.name].weight.grad, accumulate=True)
    if tied:
        for t in TABLES:
            slots = embedding.slots(t.name, torch.arange(t.num_embeddings))[:, :1]
            expected.index_put_((slots,), theirs.linear_model.embedding_dict[t.name].weight.grad, accumulate=True)
    torch.testing.assert_close(array.grad, expected, **TIGHT)
