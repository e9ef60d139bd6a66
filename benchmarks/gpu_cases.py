"""What is measured on a GPU: lookups, training of the embeddings, and DLRM from end to end."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import robe
from gpu_timing import Bench, Run, zipf_or_uniform
from robe.functional import Fields
from robe.models import DLRM
from robe.ops import reference

# Distinct values of the categorical columns, Criteo TB as MLPerf caps it at 40 million rows, and Criteo Kaggle.
TB = [39884406, 39043, 17289, 7420, 20263, 3, 7120, 1543, 63, 38532951, 2953546, 403346, 10, 2208, 11938, 155, 4, 976]
TB += [14, 39979771, 25641295, 39664984, 585935, 12972, 108, 36]
KAGGLE = [1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194, 27, 14992, 5461306, 10]
KAGGLE += [5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572]
SPARE = 35e9  # bytes left beside the full tables
op = torch.ops.robe


@dataclass(frozen=True)
class Sizes:
    """Everything that a rehearsal makes small."""

    rows: list[int]
    kaggle: list[int]
    dim: int
    batches: list[int]
    train_batches: list[int]
    slots: list[int]
    resident_slots: int  # of the array that fits the L2 cache in bfloat16
    blocks: list[int]
    kaggle_slots: int
    kaggle_blocks: list[int]
    model_batch: int
    model_blocks: list[int]  # of the paper's Table 5
    bottom: tuple[int, ...]
    top: tuple[int, ...]

    @property
    def full_bytes(self) -> float:
        return sum(self.rows) * self.dim * 4.0

    @staticmethod
    def of(device: torch.device, tiny: bool, largest: int) -> Sizes:
        if tiny:
            small = [3, 50, 7]
            return Sizes(small, small, 8, [4], [4], [200], 100, [1, 8], 100, [4], 4, [8], (8,), (8,))
        if not largest:
            room = torch.cuda.mem_get_info(device)[0] - SPARE
            largest = 40_000_000
            while sum(min(r, largest) for r in TB) * 512.0 > room:
                largest = largest * 9 // 10
        batches = [2048, 16384, 65536, 131072]
        return Sizes(
            [min(r, largest) for r in TB], KAGGLE, 128, batches, batches[:3], [27_000_000, 2_700_000], 10_000_000,
            [1, 8, 32, 128], 540_000, [1, 4, 16], 16384, [1, 2, 8, 32, 128], (512, 256), (1024, 1024, 512, 256),
        )  # fmt: skip


class FullTables(nn.Module):
    """All full tables in one tensor, looked up by one kernel: the strongest form that torch has."""

    def __init__(self, rows: list[int], dim: int, device: torch.device) -> None:
        super().__init__()
        self.num_fields, self.embedding_dim = len(rows), dim
        self.rows = rows
        self.weight = nn.Parameter(torch.empty(sum(rows), dim, device=device).uniform_(-0.01, 0.01))
        self.base = torch.tensor([0, *rows[:-1]], device=device).cumsum(0)

    def forward(self, ids: Tensor) -> Tensor:
        return nn.functional.embedding(ids + self.base, self.weight, sparse=torch.is_grad_enabled())

    def parts(self) -> tuple[Tensor, ...]:
        return self.weight.detach().split(self.rows)


@functools.cache
def full_tables(rows: tuple[int, ...], dim: int, device: torch.device) -> FullTables:
    return FullTables(list(rows), dim, device)


def collection(rows: list[int], dim: int, slots: int, block: int, device: torch.device, **options: Any) -> Any:
    tables = [robe.Table(str(i), count, dim) for i, count in enumerate(rows)]
    return robe.RobeEmbeddingCollection(tables, num_slots=slots, block_size=block, device=device, **options)


def checked(coll: Any, ids: Tensor) -> Any:
    """The collection, after comparing its kernels with the reference on a few samples."""
    ids = ids[:64].cpu()
    array = coll.array.detach().cpu()
    fields = Fields.of(coll.layout)
    common = (ids, None, None, fields.specs, fields.hash_spec)
    with torch.no_grad():
        got = coll(ids.to(coll.array.device)).flatten(1)
    want = reference.lookup(array, *common, fields.width, 0)
    assert torch.equal(got.cpu(), want), "forward differs from the reference"
    grad = torch.randn(want.shape, dtype=want.dtype)
    device = coll.array.device
    got = op.lookup_backward_array(
        grad.to(device), coll.array.detach(), ids.to(device), None, None, fields.specs.to(device), fields.hash_spec, 0
    )
    want = reference.lookup_backward_array(grad, array, *common, 0)
    tolerance = 1e-4 if want.dtype == torch.float32 else 2e-2
    torch.testing.assert_close(got.cpu(), want, rtol=tolerance, atol=tolerance)
    return coll


def checked_int8(coll: Any, ids: Tensor) -> Any:
    """The int8 form of a collection in bfloat16, after comparing its kernel with the reference on a few samples."""
    small = robe.quantize(coll).bfloat16()
    array, scales, fields = small.shared.array.cpu(), small.shared.scales.cpu(), Fields.of(small.layout)
    tail = (fields.specs, fields.hash_spec, fields.width, 0, torch.bfloat16)
    want = reference.lookup_quantized(array, scales, ids.cpu(), None, None, *tail)
    assert torch.equal(small(ids).flatten(1).cpu(), want), "int8 differs from the reference"
    return small


def name_of(slots: int, block: int, what: str = "robe") -> str:
    return f"{what} m={slots / 1e6:g}M Z={block}"


def batches_of(rows: list[int], batch: int, skew: str, bench: Bench) -> list[Tensor]:
    return [zipf_or_uniform(rows, batch, skew, i, bench.device) for i in range(bench.turns)]


def lookups(bench: Bench, sizes: Sizes) -> None:
    """MLPerf's shape: lookups of 26 tables, D = 128."""
    one_shape(bench, sizes.rows, sizes.dim, sizes, "tb", [(m, z) for m in sizes.slots for z in sizes.blocks])


def kaggle_lookups(bench: Bench, sizes: Sizes) -> None:
    """Kaggle's shape: lookups of 26 tables, D = 16 (8 in a rehearsal)."""
    dim = 8 if bench.tiny else 16
    layouts = [(sizes.kaggle_slots, z) for z in sizes.kaggle_blocks]
    one_shape(bench, sizes.kaggle, dim, sizes, "kaggle", layouts)


def one_shape(
    bench: Bench, rows: list[int], dim: int, sizes: Sizes, shape: str, layouts: list[tuple[int, int]]
) -> None:
    full, width = full_tables(tuple(rows), dim, bench.device), len(rows) * dim
    parts = full.parts()
    ids_of_gate = zipf_or_uniform(rows, 64, "uniform", 0, bench.device)
    arrays = {name_of(m, z): checked(collection(rows, dim, m, z, bench.device), ids_of_gate) for m, z in layouts}
    m, z = sizes.resident_slots, layouts[-1][1]
    in_cache = collection(rows, dim, m, z, bench.device, dtype=torch.bfloat16)
    arrays[name_of(m, z, "robe bf16")] = checked(in_cache, ids_of_gate)
    arrays[name_of(m, z, "robe int8 to bf16")] = checked_int8(in_cache, ids_of_gate)
    slots = layouts[0][0]
    small = torch.randn(max(1, slots // dim), dim, device=bench.device)  # of the array's size, rows aligned
    for skew in ("uniform", "zipf"):
        for batch in sizes.batches:
            ids = batches_of(rows, batch, skew, bench)
            columns = [[i[:, f].contiguous() for f in range(len(rows))] for i in ids]
            offsets = torch.arange(batch, device=bench.device)
            known = [torch.randint(0, len(small), (batch * len(rows),), device=bench.device) for _ in ids]
            out = torch.empty(batch, width, device=bench.device)

            def bags(turn: int, columns: list[list[Tensor]] = columns, offsets: Tensor = offsets) -> None:
                for part, column in zip(parts, columns[turn], strict=True):
                    nn.functional.embedding_bag(column, part, offsets, mode="sum")

            def robe_run(coll: Any, ids: list[Tensor] = ids) -> Run:
                return lambda turn: coll(ids[turn])

            alternatives: dict[str, Run] = {
                f"{len(rows)} F.embedding_bag": bags,
                "one F.embedding": lambda turn, ids=ids: nn.functional.embedding(ids[turn] + full.base, full.weight),
                "limit: gather of known rows": lambda turn, known=known, out=out: torch.index_select(
                    small, 0, known[turn], out=out.view(-1, dim)
                ),
                "limit: store": lambda turn, out=out: out.fill_(float(turn)),
                **{name: robe_run(coll) for name, coll in arrays.items()},
            }
            with torch.no_grad():
                bench.measure(
                    f"{shape} lookup, {skew}", batch, {name: bench.graph(run) for name, run in alternatives.items()}
                )


def training(bench: Bench, sizes: Sizes) -> None:
    """Forward, backward and step of the embeddings alone, in eager mode; ROBE's also as a graph."""
    full = full_tables(tuple(sizes.rows), sizes.dim, bench.device)
    gate = zipf_or_uniform(sizes.rows, 64, "uniform", 0, bench.device)
    for slots, block in itertools.product(sizes.slots, sizes.blocks):
        checked(collection(sizes.rows, sizes.dim, slots, block, bench.device), gate)
    for batch in sizes.train_batches:
        for skew in ("uniform", "zipf"):
            ids = batches_of(sizes.rows, batch, skew, bench)
            grad = torch.randn(batch, len(sizes.rows), sizes.dim, device=bench.device)
            full_optimizer = torch.optim.SGD([full.weight], lr=1e-6)

            def full_run(
                turn: int, ids: list[Tensor] = ids, grad: Tensor = grad, optimizer: Any = full_optimizer
            ) -> None:
                full(ids[turn]).backward(grad)
                optimizer.step()
                optimizer.zero_grad()

            def robe_run(slots: int, block: int, rule: str, ids: list[Tensor] = ids, grad: Tensor = grad) -> Run:
                coll = collection(sizes.rows, sizes.dim, slots, block, bench.device)
                optimizer = getattr(robe.optim, rule)(coll, lr=1e-6)

                def run(turn: int) -> None:
                    coll(ids[turn]).backward(grad)
                    optimizer.step()

                return run

            alternatives = {"full tables, sparse SGD": bench.eager(full_run)}
            for slots in sizes.slots:
                for block in sizes.blocks:
                    alternatives[name_of(slots, block, "robe SGD")] = bench.eager(robe_run(slots, block, "SGD"))
                for rule in ("SGD", "Adagrad", "Adam"):
                    block = sizes.blocks[-1]
                    name = name_of(slots, block, f"robe {rule}, graph")
                    alternatives[name] = bench.graph(robe_run(slots, block, rule))
            bench.measure(f"tb training, {skew}", batch, alternatives)
            full.weight.grad = None


def dlrm(embedding: Any, sizes: Sizes, device: torch.device) -> DLRM:
    """MLPerf's DLRM with MLPs in bfloat16."""
    model = DLRM(embedding, 13, sizes.bottom, sizes.top).to(device)
    model.bottom.bfloat16()
    model.top.bfloat16()
    return model


def models(bench: Bench, sizes: Sizes) -> Iterator[tuple[str, DLRM]]:
    rows, dim, device = sizes.rows, sizes.dim, bench.device
    yield "full tables", dlrm(Cast(full_tables(tuple(rows), dim, device)), sizes, device)
    slots = round(sum(rows) * dim / 1000) if not bench.tiny else sizes.slots[0]
    for block in sizes.model_blocks:
        coll = collection(rows, dim, slots, block, device, dtype=torch.bfloat16)
        yield f"robe 1000x bf16 fused Z={block}", dlrm(coll, sizes, device)
    yield f"robe 1000x int8 Z={block}", dlrm(robe.quantize(coll), sizes, device)
    coll = collection(rows, dim, slots, sizes.blocks[-1], device, output_dtype=torch.bfloat16)
    yield f"robe 1000x fp32 Z={sizes.blocks[-1]}", dlrm(coll, sizes, device)


def check_model(model: DLRM, compiled: Any, dense: Tensor, ids: Tensor) -> None:
    """Compiled and fused forms give the plain form's logits, to the rounding of bfloat16."""
    got, again = model(dense, ids), compiled(dense, ids)
    plain = model
    if isinstance(model.embedding, robe.RobeEmbeddingCollection):
        plain = copy.copy(model)
        plain._modules = dict(model._modules)
        plain.embedding = Cast(model.embedding)
    want = plain(dense, ids)
    for result in (got, again):
        torch.testing.assert_close(result, want, rtol=0.05, atol=0.05)


class Cast(nn.Module):
    """An embedding in bfloat16 for the MLPs, of which DLRM does not see that it could interact by itself."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner, self.num_fields, self.embedding_dim = inner, inner.num_fields, inner.embedding_dim

    def forward(self, ids: Tensor) -> Tensor:
        return self.inner(ids).bfloat16()


def inference(bench: Bench, sizes: Sizes) -> None:
    """MLPerf's DLRM, full tables against ROBE at 1000x: from the GPU's memory, and from the host's as in Table 5."""
    batch = sizes.model_batch
    ids = batches_of(sizes.rows, batch, "zipf", bench)
    dense = [torch.rand(batch, 13, device=bench.device).bfloat16() for _ in ids]
    host = [(d.cpu(), i.cpu()) for d, i in zip(dense, ids, strict=True)]
    if bench.on_gpu:
        host = [(d.pin_memory(), i.pin_memory()) for d, i in host]
    compiler = {"backend": "eager"} if bench.tiny else {}
    torch._dynamo.config.recompile_limit = 64
    alternatives: dict[str, Callable[[], None]] = {}
    every = list(models(bench, sizes))
    with torch.no_grad():
        for name, model in every:
            compiled = torch.compile(model, fullgraph=True, **compiler)
            check_model(model, compiled, dense[0], ids[0])

            def resident(run: Any) -> Run:
                return lambda turn: run(dense[turn], ids[turn])

            def copied(run: Any) -> Callable[[], None]:
                """A graph of one batch, fed from the host before every replay."""
                to = dense[0].clone(), ids[0].clone()
                replay = bench.captured(lambda: run(*to))

                def every_turn() -> None:
                    for batch in host:
                        for buffer, values in zip(to, batch, strict=True):
                            buffer.copy_(values, non_blocking=True)
                        replay()

                return every_turn

            alternatives[f"{name}, eager"] = bench.eager(resident(model))
            alternatives[f"{name}, compiled"] = bench.eager(resident(compiled))
            alternatives[f"{name}, graph"] = bench.graph(resident(model))
            alternatives[f"{name}, compiled graph"] = bench.graph(resident(compiled))
            alternatives[f"{name}, graph, from host"] = copied(model)
            alternatives[f"{name}, compiled graph, from host"] = copied(compiled)
        bench.measure("dlrm inference", batch, alternatives)


def training_steps(bench: Bench, sizes: Sizes) -> None:
    """A training step of MLPerf's DLRM: SGD everywhere, bfloat16 MLPs, in eager mode; ROBE's also as a graph."""
    batch = sizes.model_batch
    ids = batches_of(sizes.rows, batch, "zipf", bench)
    dense = [torch.rand(batch, 13, device=bench.device).bfloat16() for _ in ids]
    labels = torch.randint(0, 2, (batch,), device=bench.device).float()
    alternatives: dict[str, Callable[[], None]] = {}

    def run_of(model: DLRM, optimizers: list[torch.optim.Optimizer]) -> Run:
        def run(turn: int) -> None:
            logits = model(dense[turn], ids[turn]).float()
            nn.functional.binary_cross_entropy_with_logits(logits, labels).backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()

        return run

    for name, model in models(bench, sizes):
        if name.startswith(("robe 1000x bf16", "robe 1000x int8")):
            continue  # optimizers keep arrays of training in float32; int8 is not trained
        if name == "full tables":
            alternatives[f"{name}, eager"] = bench.eager(run_of(model, [torch.optim.SGD(model.parameters(), lr=1e-6)]))
            continue
        others = torch.optim.SGD(robe.optim.other_parameters(model), lr=1e-6)
        run = run_of(model, [robe.optim.SGD(model, lr=1e-6), others])
        alternatives[f"{name}, eager"] = bench.eager(run)
        alternatives[f"{name}, graph"] = bench.graph(run)
    bench.measure("dlrm training", batch, alternatives)


CASES = (
    ("Lookups, MLPerf's shape", lookups),
    ("DLRM inference", inference),
    ("Training of the embeddings", training),
    ("DLRM training", training_steps),
    ("Lookups, Kaggle's shape", kaggle_lookups),
)


def acceptance(bench: Bench) -> Iterator[str]:
    """The targets, beside what was measured; the reference figure comes first in each pair."""
    pairs = (
        ("tb lookup, uniform", 65536, "limit: store", "robe m=27M Z=128", 0.85, "of store bandwidth"),
        ("tb lookup, uniform", 65536, "one F.embedding", "robe m=27M Z=128", 1.3, "the full-table lookup"),
        ("tb lookup, uniform", 65536, "one F.embedding", "robe bf16 m=10M Z=128", 1.6, "the full-table lookup"),
        ("tb training, uniform", 65536, "full tables, sparse SGD", "robe SGD m=27M Z=128", 2.0, "the sparse path"),
        ("dlrm inference", 16384, "full tables, compiled graph", "robe 1000x bf16 fused Z=128, compiled graph", 1.5,
         "the full tables"),
        ("dlrm training", 16384, "full tables, eager", "robe 1000x fp32 Z=128, eager", 1.0, "the full tables"),
    )  # fmt: skip
    for group, batch, base, name, target, words in pairs:
        ours, theirs = bench.find(group, batch, name), bench.find(group, batch, base)
        if ours is None or theirs is None:
            yield f"not measured: {group}, B={batch}: {name} against {base}"
            continue
        got = theirs["median_ms"] / ours["median_ms"]
        yield f"{'met   ' if got >= target else 'missed'} {got:5.2f} (target {target}) {words}: {group}, {name}"
    ours = bench.find("dlrm inference", 16384, "robe 1000x bf16 fused Z=128, compiled graph")
    if ours is not None:
        rate = ours["samples_per_second"] / 1e6
        yield f"{'met   ' if rate >= 15 else 'missed'} {rate:5.1f} M samples/s (target 15): {ours['what']}"
