"""What only a GPU shows: registration, streams, graphs, compilation, large addresses, asserts on the device."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import robe
from robe.functional import Fields
from robe.layout import Layout, Table
from robe.models import DLRM
from robe.ops import reference
from robe.ops.triton.plan import MAX_PLANS

pytestmark = pytest.mark.gpu

op = torch.ops.robe
ROWS = [100_000, 37, 5, 2_000_000]


def collection(dim=128, slots=1_000_003, block=128, **options):
    tables = [Table(str(i), rows, dim) for i, rows in enumerate(ROWS)]
    return robe.RobeEmbeddingCollection(tables, num_slots=slots, block_size=block, device="cuda", **options)


def draw(batch, seed=0):
    torch.manual_seed(seed)
    return (torch.rand(batch, len(ROWS), dtype=torch.float64) * torch.tensor(ROWS)).long()


@pytest.fixture
def no_waiting():
    """Whatever makes the host wait for the GPU is an error."""
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")


def test_the_kernels_are_active():
    status = {s["op"]: s for s in robe.ops.status() if s["device"] == "cuda"}
    assert all(s["kernel"] == "triton" for s in status.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("dim", "block"), [(128, 128), (128, 1), (128, 32), (16, 16), (16, 64)])
def test_a_large_batch(dim, block, dtype):
    coll = collection(dim, block=block, dtype=dtype)
    ids = draw(5000)
    fields = Fields.of(coll.layout)
    array = coll.array.detach()
    want = reference.lookup(array.cpu(), ids, None, None, fields.specs, fields.hash_spec, fields.width, 0)
    out = coll(ids.cuda()).flatten(1)
    assert torch.equal(out.cpu(), want)
    grad = torch.randn(want.shape).to(dtype)
    out.backward(grad.cuda())
    want = reference.lookup_backward_array(
        grad.double(), array.cpu().double(), ids, None, None, fields.specs, fields.hash_spec, 0
    )
    # Thousands of terms meet in the slots of the small tables.
    error = (coll.array.grad.cpu().double() - want).abs().max() / want.abs().max()
    assert error < (1e-5 if dtype == torch.float32 else 2**-7)


def test_nothing_waits_for_the_gpu(no_waiting):
    coll, ids = collection(), draw(64).cuda()
    optimizers = [robe.optim.SGD(coll, lr=0.1)]

    def step():
        coll(ids).sum().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

    step()
    optimizers[0] = robe.optim.Adam(coll, lr=0.1)
    step()
    no_waiting()
    step()
    optimizers[0] = robe.optim.Adagrad(coll, lr=0.1)
    step()
    torch.use_deterministic_algorithms(True)
    coll(ids).sum().backward()
    torch.use_deterministic_algorithms(False)


def test_deterministic_gives_equal_bits():
    coll, ids = collection(block=8), draw(20_000).cuda()
    grad = torch.randn(20_000, len(ROWS) * 128, device="cuda")
    tail = (coll.array.detach(), ids, None, None, coll.fields, list(coll.layout.hash_spec()), 0)
    fast = op.lookup_backward_array(grad, *tail)
    torch.use_deterministic_algorithms(True)
    first, second = (op.lookup_backward_array(grad, *tail) for _ in range(2))
    torch.use_deterministic_algorithms(False)
    assert torch.equal(first, second)
    assert (first - fast).abs().max() / first.abs().max() < 1e-5


@pytest.mark.parametrize("name", ["SGD", "Adagrad", "Adam"])
def test_a_training_step_in_a_cuda_graph(name):
    ids, grad = draw(256).cuda(), torch.randn(256, len(ROWS), 16, device="cuda")

    def make():
        torch.manual_seed(0)
        coll = collection(16, slots=5003, block=16)
        optimizer = getattr(robe.optim, name)(coll, lr=0.1)

        def step():
            coll(ids).backward(grad)
            optimizer.step()
            optimizer.zero_grad()

        return coll, step

    captured, step = make()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    for _ in range(3):
        graph.replay()
    eager, step = make()
    for _ in range(5):
        step()
    torch.testing.assert_close(captured.array, eager.array, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty")
def test_a_graph_before_the_first_call_says_what_to_do():
    coll, ids = collection(), draw(4).cuda()
    graph = torch.cuda.CUDAGraph()
    with pytest.raises(RuntimeError, match="run it once first"), torch.no_grad(), torch.cuda.graph(graph):
        coll(ids)


def test_a_graph_outlives_the_kept_plans():
    coll, ids = collection(), draw(64).cuda()
    with torch.no_grad():
        want = coll(ids)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = coll(ids)
        array, spec = coll.array.detach(), list(coll.layout.hash_spec())
        for _ in range(MAX_PLANS + 1):
            op.lookup(array, ids, None, None, coll.fields.clone(), spec, 4 * 128, 0)
        trash = [torch.full((2048,), 2**40, device="cuda") for _ in range(100)]  # in memory that was freed
        out.zero_()
        graph.replay()
    assert torch.equal(out, want)
    assert len(trash) == 100


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_int8(dtype, no_waiting):
    """Equal to the reference; without waiting; in a graph; compiled without breaks."""
    coll = robe.quantize(collection(slots=1_000_003)).to(dtype)
    ids = draw(5000)
    fields, shared = Fields.of(coll.layout), coll.shared
    tail = (fields.specs, fields.hash_spec, fields.width, 0, dtype)
    want = reference.lookup_quantized(shared.array.cpu(), shared.scales.cpu(), ids, None, None, *tail)
    ids = ids.cuda()
    assert torch.equal(coll(ids).flatten(1).cpu(), want)
    assert torch.equal(torch.compile(coll, fullgraph=True)(ids).flatten(1).cpu(), want)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = coll(ids)
    out.zero_()
    graph.replay()
    assert torch.equal(out.flatten(1).cpu(), want)
    no_waiting()
    coll(ids)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dlrm_compiles_without_breaks_and_fuses(dtype):
    coll = collection(dtype=dtype, init_std=0.1)
    model = DLRM(coll, bottom_mlp=(64,), top_mlp=(64,)).cuda()
    model.bottom.to(dtype)
    model.top.to(dtype)
    dense, ids = torch.rand(512, 13, device="cuda", dtype=dtype), draw(512).cuda()
    assert coll.fuses_dot(ids, model.bottom(dense))
    with torch.no_grad():
        want = model(dense, ids)
        got = torch.compile(model, fullgraph=True)(dense, ids)
        coll.fuses_dot = lambda *_: False
        unfused = model(dense, ids)
    tolerance = 1e-4 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(unfused, want, rtol=tolerance, atol=tolerance)


def test_gradients_of_the_fused_interaction():
    def train(fused):
        torch.manual_seed(0)
        model = DLRM(collection(16, slots=5003, block=16, init_std=0.1), bottom_mlp=(8,), top_mlp=(8,)).cuda()
        if not fused:
            model.embedding.fuses_dot = lambda *_: False
        optimizers = robe.optim.SGD(model, lr=0.1), torch.optim.SGD(robe.optim.other_parameters(model), lr=0.1)
        for number in range(5):
            torch.manual_seed(number)
            dense = torch.rand(64, 13).cuda()
            model(dense, draw(64, number).cuda()).square().mean().backward()
            for each in optimizers:
                each.step()
                each.zero_grad()
        return model

    for a, b in zip(train(True).parameters(), train(False).parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_slots_beyond_32_bits():
    """The first and the last rows of a direct table of more than 2**31 slots."""
    rows = 2**31 // 64 + 1000
    if torch.cuda.mem_get_info()[0] < 20e9:
        pytest.skip("needs 20 GB of free GPU memory")
    layout = Layout((Table("big", rows, 64, direct=True), Table("hashed", None, 64)), rows * 64 + 6400, 64)
    fields = Fields.of(layout, device="cuda")
    array = torch.zeros(layout.num_slots, dtype=torch.bfloat16, device="cuda")
    array[-64:] = torch.arange(64, device="cuda")
    ids = torch.tensor([[0, 5], [rows - 1, 7]], device="cuda")
    out = op.lookup(array, ids, None, None, fields.specs, fields.hash_spec, 128, 0)
    assert torch.equal(out[1, :64], array[-64:])
    grad = torch.ones(2, 128, dtype=torch.bfloat16, device="cuda")
    total = op.lookup_backward_array(grad, array, ids, None, None, fields.specs, fields.hash_spec, 0)
    assert torch.equal(total[-64:], torch.ones_like(total[-64:]))
    assert total.sum(dtype=torch.float64) == 256


def test_a_wrong_id_is_an_assert():
    code = (
        "import torch, robe\n"
        "coll = robe.RobeEmbeddingCollection([robe.Table('a', 10, 4)], num_slots=40, device='cuda')\n"
        "coll(torch.tensor([[9]], device='cuda'))\n"
        "torch.cuda.synchronize()\n"
        "print('fine so far', flush=True)\n"
        "coll(torch.tensor([[10]], device='cuda'))\n"
        "torch.cuda.synchronize()\n"
    )
    source = str(Path(robe.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "fine so far" in done.stdout, done.stderr
    assert done.returncode != 0
    assert "assert" in done.stderr
