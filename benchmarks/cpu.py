"""CPU benchmarks in the shape of Criteo Kaggle: 26 tables, 33.8M rows, D = 16.

    python benchmarks/cpu.py lookup step dlrm --batch 2048 16384 --json result.json

Every case checks results against the reference before it times anything, and refuses to time a kernel that is not
active. On a machine that is busy with other work, ``--threads 1 --clock cpu`` counts the time of one thread only.
"""

from __future__ import annotations

import argparse
import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import robe
from limits import Limits
from robe.functional import Fields
from robe.layout import Layout
from robe.models import DLRM
from robe.nn.interactions import DotInteraction
from robe.ops import native, reference
from timing import CLOCKS, interleave, machine, report, summary

# Distinct values of the categorical columns of Criteo Kaggle.
ROWS = [1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194, 27, 14992, 5461306, 10]
ROWS += [5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572]
DIM = 16
op = torch.ops.robe

Alternatives = dict[str, Callable[[], Any]]


def tables() -> list[robe.Table]:
    return [robe.Table(f"C{i}", rows, DIM) for i, rows in enumerate(ROWS)]


def draw_ids(batch: int, skew: str, number: int) -> Tensor:
    """int64 [B, 26]: uniform, or Zipf-like (the logarithm of the id is uniform)."""
    generator = torch.Generator().manual_seed(number)
    u = torch.rand(batch, len(ROWS), dtype=torch.float64, generator=generator)
    rows = torch.tensor(ROWS, dtype=torch.float64)
    drawn = u * rows if skew == "uniform" else rows**u
    return drawn.long().clamp_(max=torch.tensor(ROWS) - 1)


@dataclass(frozen=True)
class Case:
    """What is looked up, and where. Batches take turns, or the rows of full tables would all lie in the cache."""

    batch: int
    slots: int
    block: int
    ids: list[Tensor]  # int64 [B, 26] each
    limits: Limits

    def turns(self, run: Callable[..., Any], *arguments: list[Any]) -> Callable[[], Any]:
        """Calls ``run`` with the next batch's arguments each time; ids if none are given."""
        order = itertools.cycle(range(len(self.ids)))
        chosen = arguments or (self.ids,)
        return lambda: (lambda i: run(*(values[i] for values in chosen)))(next(order))

    @property
    def layout(self) -> Layout:
        return Layout(tuple(tables()), self.slots, self.block)

    def collection(self) -> robe.RobeEmbeddingCollection:
        return robe.RobeEmbeddingCollection(tables(), num_slots=self.slots, block_size=self.block)

    def positions(self) -> list[Tensor]:
        """Where the rows of every batch begin, int64 [B, 26], moved back where they would wrap."""
        return [
            torch.stack([self.layout.slots(i, ids[:, i])[:, 0] for i in range(26)], 1)
            .clamp_(max=self.slots - DIM)
            .contiguous()
            for ids in self.ids
        ]

    def array(self) -> Tensor:
        """The array, after checking that the kernels agree with the reference on it."""
        array, fields = self.collection().array.detach(), Fields.of(self.layout)
        common = (self.ids[0][:256], None, None, fields.specs, fields.hash_spec)
        out = op.lookup(array, *common, fields.width, 0)
        assert torch.equal(out, reference.lookup(array, *common, fields.width, 0)), "forward differs from the reference"
        got, want = (f(out, array, *common, 0) for f in (op.lookup_backward_array, reference.lookup_backward_array))
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
        return array


def quantized(collection: robe.RobeEmbeddingCollection, ids: Tensor) -> robe.RobeEmbeddingCollection:
    """Its int8 form, after checking that the kernel agrees with the reference on it."""
    small = robe.quantize(collection)
    fields = Fields.of(small.layout)
    common = (small.shared.array, small.shared.scales, ids[:256], None, None, fields.specs, fields.hash_spec)
    want = reference.lookup_quantized(*common, fields.width, 0, torch.float32)
    assert torch.equal(small(ids[:256]).flatten(1), want), "int8 differs from the reference"
    return small


@functools.cache
def full_tables() -> list[nn.EmbeddingBag]:
    return [nn.EmbeddingBag(rows, DIM, mode="sum", sparse=True) for rows in ROWS]


def columns_of(ids: Tensor) -> list[Tensor]:
    return [ids[:, i].contiguous() for i in range(ids.shape[1])]


def bags(columns: list[Tensor]) -> list[Tensor]:
    offsets = torch.arange(len(columns[0]))
    return [bag(column, offsets) for bag, column in zip(full_tables(), columns, strict=True)]


def lookup_cases(case: Case) -> Iterator[Alternatives]:
    case.array()
    collection = case.collection()
    array = collection.array.detach()
    columns, positions = [columns_of(ids) for ids in case.ids], case.positions()
    out = torch.empty(case.batch, 26 * DIM)
    base = torch.tensor([0, *ROWS[:-1]]).cumsum(0)
    one_table = torch.randn(sum(ROWS), DIM)
    with torch.no_grad():
        yield {
            "26 EmbeddingBags": case.turns(bags, columns),
            "one F.embedding": case.turns(lambda ids: nn.functional.embedding(ids + base, one_table)),
            "robe": case.turns(collection),
            "robe int8": case.turns(quantized(collection, case.ids[0])),
            "limit: random gather": case.turns(lambda at: case.limits.gather(array, at, out), positions),
            "limit: streaming gather": case.turns(lambda at: case.limits.gather(array, at, out, True), positions),
            "limit: fill": lambda: case.limits.fill(out),
        }


def step_cases(case: Case) -> Iterator[Alternatives]:
    grad = torch.randn(case.batch, 26 * DIM) / case.batch
    column_grads = [g.contiguous() for g in grad.split(DIM, 1)]
    columns = [columns_of(ids) for ids in case.ids]
    full_optimizer = torch.optim.SGD([bag.weight for bag in full_tables()], lr=1e-3)
    case.array()

    def full(columns: list[Tensor]) -> None:
        full_optimizer.zero_grad()
        torch.autograd.backward(bags(columns), column_grads)
        full_optimizer.step()

    def step(make: Callable[..., torch.optim.Optimizer], dense: bool) -> Callable[[], None]:
        collection = case.collection()
        optimizer = make(collection.parameters() if dense else collection, lr=1e-3)

        def run(ids: Tensor) -> None:
            optimizer.zero_grad()
            collection(ids).backward(grad.view(case.batch, 26, DIM))
            optimizer.step()

        return case.turns(run)

    alternatives: Alternatives = {
        "26 sparse EmbeddingBags + SGD": case.turns(full, columns),
        "robe + robe.optim.SGD": step(robe.optim.SGD, dense=False),
        "robe + robe.optim.Adagrad": step(robe.optim.Adagrad, dense=False),
        "robe + robe.optim.Adam": step(robe.optim.Adam, dense=False),
        "robe + torch.optim.SGD": step(torch.optim.SGD, dense=True),
    }
    if tbe := fbgemm(case, grad):
        alternatives["fbgemm TBE, fused SGD"] = tbe
    yield alternatives


def fbgemm(case: Case, grad: Tensor) -> Callable[[], None] | None:
    """FBGEMM's CPU table-batched embedding, where fbgemm-gpu-cpu 1.8.0 is installed."""
    try:
        from fbgemm_gpu.split_embedding_configs import EmbOptimType, SparseType
        from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
        from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
            ComputeDevice,
            SplitTableBatchedEmbeddingBagsCodegen,
        )
    except (ImportError, OSError) as error:
        print(f"fbgemm: left out, {error}")
        return None
    tbe = SplitTableBatchedEmbeddingBagsCodegen(
        [(rows, DIM, EmbeddingLocation.HOST, ComputeDevice.CPU) for rows in ROWS],
        optimizer=EmbOptimType.EXACT_SGD,
        learning_rate=1e-3,
        weights_precision=SparseType.FP32,
    )
    offsets = torch.arange(grad.shape[0] * 26 + 1)
    return case.turns(lambda flat: tbe(flat, offsets).backward(grad), [ids.t().reshape(-1) for ids in case.ids])


def backward_cases(case: Case) -> Iterator[Alternatives]:
    """The backward, and faster ones that are not deterministic: given the slots, and with threads that race."""
    fields, array = Fields.of(case.layout), case.array()
    grad = torch.randn(case.batch, 26 * DIM)
    slots = [torch.cat([case.layout.slots(i, ids[:, i]) for i in range(26)], 1).reshape(-1) for ids in case.ids]
    racing = torch.empty(case.slots)
    yield {
        "limit: racing threads": case.turns(lambda at: case.limits.race(grad, at, racing), case.positions()),
        "scatter_add_ of known slots": case.turns(
            lambda at: torch.zeros(case.slots).scatter_add_(0, at, grad.reshape(-1)), slots
        ),
        "robe": case.turns(
            lambda ids: op.lookup_backward_array(grad, array, ids, None, None, fields.specs, fields.hash_spec, 0)
        ),
    }


def dot_cases(case: Case) -> Iterator[Alternatives]:
    collection = case.collection()
    interaction, dense = DotInteraction(27), torch.randn(case.batch, DIM)

    def unfused(ids: Tensor) -> Tensor:
        pairs = interaction(torch.cat([dense.unsqueeze(1), collection(ids)], 1))
        return torch.cat([dense, pairs], 1)

    with torch.no_grad():
        ids = case.ids[0]
        torch.testing.assert_close(collection.dot(ids, dense), unfused(ids), rtol=1e-4, atol=1e-4)
        yield {
            "robe lookup + torch interaction": case.turns(unfused),
            "robe fused": case.turns(lambda ids: collection.dot(ids, dense)),
        }


def dlrm_cases(case: Case) -> Iterator[Alternatives]:
    dense, labels = torch.rand(case.batch, 13), torch.randint(0, 2, (case.batch,)).float()
    loss = nn.functional.binary_cross_entropy_with_logits
    full, small = DLRM(robe.FullEmbeddingCollection(tables(), sparse=True)), DLRM(case.collection())

    def trainer(model: DLRM, *optimizers: torch.optim.Optimizer) -> Callable[[], None]:
        def run(ids: Tensor) -> None:
            loss(model(dense, ids), labels).backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()

        return case.turns(run)

    def infer(model: DLRM) -> Callable[[], Tensor]:
        def run(ids: Tensor) -> Tensor:
            with torch.no_grad():
                return model(dense, ids)

        return case.turns(run)

    yield {"inference, full tables": infer(full), "inference, robe": infer(small)}
    yield {
        "training, full tables": trainer(full, torch.optim.SGD(full.parameters(), lr=1e-3)),
        "training, robe": trainer(
            small,
            robe.optim.SGD(small, lr=1e-3),
            torch.optim.SGD(robe.optim.other_parameters(small), lr=1e-3),
        ),
    }


def one_cases(case: Case) -> Iterator[Alternatives]:
    """One sample: what a server pays per request, a hundred times."""
    collection, offsets = case.collection(), torch.zeros(1, dtype=torch.int64)
    samples = [case.ids[0][i : i + 1].contiguous() for i in range(100)]
    columns = [columns_of(sample) for sample in samples]
    tables_ = full_tables()

    def bag_by_bag() -> None:
        for sample in columns:
            for bag, column in zip(tables_, sample, strict=True):
                bag(column, offsets)

    def together() -> None:
        for sample in samples:
            collection(sample)

    with torch.no_grad():
        yield {"26 EmbeddingBags, one sample x100": bag_by_bag, "robe, one sample x100": together}


CASES = {
    "lookup": lookup_cases,
    "backward": backward_cases,
    "step": step_cases,
    "dot": dot_cases,
    "dlrm": dlrm_cases,
    "one": one_cases,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", choices=CASES)
    parser.add_argument("--batch", type=int, nargs="+", default=[2048, 16384])
    parser.add_argument("--slots", type=int, nargs="+", default=[540_000])
    parser.add_argument("--block", type=int, nargs="+", default=[16])
    parser.add_argument("--skew", choices=["uniform", "zipf"], default="uniform")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--repeat", type=int, default=1, help="calls in a row of each alternative, of which one counts")
    parser.add_argument("--turns", type=int, default=12, help="batches that take turns")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if native.library is None:
        raise SystemExit(f"nothing to time: {native.reason}")
    if options.clock == "cpu" and options.threads != 1:
        parser.error("--clock cpu counts one thread: give --threads 1")
    torch.set_num_threads(options.threads)
    limits, facts = Limits(), machine(options.clock)
    records: list[dict[str, Any]] = []
    for name in options.cases:
        for slots in options.slots:
            for block in options.block:
                for batch in options.batch:
                    where = {"case": name, "batch": batch, "slots": slots, "block": block, "skew": options.skew}
                    ids = [draw_ids(batch, options.skew, i) for i in range(options.turns)]
                    for alternatives in CASES[name](Case(batch, slots, block, ids, limits)):
                        seconds = interleave(alternatives, options.rounds, options.clock, options.repeat)
                        records += summary(seconds, next(iter(alternatives)), where)
    report(records, facts, options.json)


if __name__ == "__main__":
    main()
