"""Compiles every kernel for GPUs, on a machine without one: python compile_kernels.py 80

The ops run on CPU tensors, but where a kernel would be launched it is compiled instead, for an NVIDIA GPU of the given
compute capability and with exactly the types and switches of that launch. This finds what the interpreter does not:
types that differ between branches, shapes that do not broadcast, instructions that a GPU does not have.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

import robe
from robe.functional import Fields
from robe.layout import Layout, Table
from robe.ops.triton import ops, update
from robe.quantization import num_scales

F32, F64, BF16, F16 = torch.float32, torch.float64, torch.bfloat16, torch.float16
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


class Compiler:
    """Takes the place of launching: compiles each variant once, and keeps what it needs of the GPU."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)
        self.backend = make_backend(self.target)
        self.made: dict[str, str] = {}

    def run(self, function: JITFunction, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        binder = create_function_from_signature(function.signature, function.params, self.backend)
        bound, specialization, options = binder(*arguments, **options)
        options, signature, constants, attributes = function._pack_args(
            self.backend, options, bound, specialization, options
        )
        key = f"{function.__name__} {signature} {constants} {attributes} {options}"
        if key not in self.made:
            source = ASTSource(function, signature, constants, attributes)
            made = triton.compile(source, target=self.target, options=options.__dict__)
            by_name = {function.arg_names[place[0]]: value for place, value in constants.items()}
            shape = " ".join(f"{k}={v}" for k, v in by_name.items() if k.isupper() and v is not False)
            types = " -> ".join(v for k, v in signature.items() if k in ("array", "grad", "values", "out"))
            self.made[key] = f"{function.__name__:24} {resources(made.asm['cubin'])} {types} {shape}"


def resources(cubin: bytes) -> str:
    """Registers, stack and shared memory of a compiled kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    return " ".join(re.findall(r"(?:REG|STACK|SHARED|LOCAL):\d+", text))


def layouts() -> Iterator[tuple[Layout, list[int | None]]]:
    """One layout and padding for every switch of the kernels, in shapes that benchmarks and tests use."""

    def make(dims: list[int], z: int, padding: int | None = None, rows: int | None = None, **options: Any):
        direct = options.pop("direct", False)
        tables = [Table(str(i), rows, d, direct=direct and i == 0) for i, d in enumerate(dims)]
        return Layout(tuple(tables), 100_003, z, **options), [padding] * len(dims)

    for z in (1, 8, 32, 128):
        yield make([128] * 26, z, rows=100)
    yield make([16] * 26, 16, rows=100)
    yield make([16] * 3, 4)
    yield make([16] * 3, 64, padding=0, rows=100)
    yield make([200] * 2, 200, use_sign=True)
    yield make([12] * 2, 3, rows=10, direct=True, use_sign=True)
    yield make([16, 8, 33], 1, rows=10, direct=True, padding=0)
    yield make([16, 8], 4, hash=robe.MixedHash(1), use_sign=True)
    yield make([16] * 2, 8, rows=10, hash=robe.ReleasedHash(1))
    yield make([16] * 60, 16)


def call(layout: Layout, padding: list[int | None], dtype: torch.dtype, samples: int, dot: bool, bags: bool) -> None:
    """Runs the ops on one layout; the interaction and bags in all their modes only where asked for."""
    fields = Fields.of(layout, padding=padding)
    array, count = torch.zeros(layout.num_slots, dtype=dtype), fields.num_fields
    ids = torch.zeros(samples, count, dtype=torch.int64)
    grad = torch.zeros(samples, fields.width, dtype=dtype)
    tail = (fields.specs, fields.hash_spec)
    ops.lookup(array, ids, None, None, *tail, fields.width, 0)
    for deterministic in (False, True):
        torch.use_deterministic_algorithms(deterministic)
        ops.lookup_backward_array(grad, array, ids, None, None, *tail, 0)
    torch.use_deterministic_algorithms(False)
    if dot:
        dense = None if layout.use_sign else grad[:, : layout.tables[0].embedding_dim]
        for fast in (False, True) if dtype == F32 and layout.block_size == 128 else (False,):
            torch.backends.cuda.matmul.allow_tf32 = fast
            out = ops.lookup_dot(array, dense, ids, *tail, fields.width)
            ops.lookup_dot_backward(out, array, dense, ids, *tail, fields.width)
        torch.backends.cuda.matmul.allow_tf32 = False
    if not bags:
        return
    values, offsets = torch.zeros(7, dtype=torch.int64), torch.zeros(count * samples + 1, dtype=torch.int64)
    weights = torch.zeros(7, dtype=dtype)
    for mode, chosen in ((0, weights), (0, None), (1, None), (2, None)):
        ops.lookup(array, values, offsets, chosen, *tail, fields.width, mode)
        ops.lookup_backward_array(grad, array, values, offsets, chosen, *tail, mode)
    torch.use_deterministic_algorithms(True)
    ops.lookup_backward_array(grad, array, values, offsets, None, *tail, 2)
    torch.use_deterministic_algorithms(False)
    ops.lookup_backward_weights(grad, array, values, offsets, weights, *tail)


def call_int8(layout: Layout, padding: list[int | None], dtype: torch.dtype, samples: int, bags: bool) -> None:
    """Runs the lookups of an int8 array."""
    fields = Fields.of(layout, padding=padding)
    array, scales = torch.zeros(layout.num_slots, dtype=torch.int8), torch.zeros(num_scales(layout.num_slots))
    tail = (fields.specs, fields.hash_spec, fields.width)
    ids = torch.zeros(samples, fields.num_fields, dtype=torch.int64)
    ops.lookup_quantized(array, scales, ids, None, None, *tail, 0, dtype)
    if not bags:
        return
    values, offsets = torch.zeros(7, dtype=torch.int64), torch.zeros(ids.numel() + 1, dtype=torch.int64)
    for mode, weights in ((0, torch.zeros(7, dtype=dtype)), (0, None), (1, None), (2, None)):
        ops.lookup_quantized(array, scales, values, offsets, weights, *tail, mode, dtype)


def step(dtype: torch.dtype) -> None:
    """Runs the optimizers' steps."""
    layout = Layout((Table("a", None, 16),), 1000, 16)
    fields = Fields.of(layout)
    array, state = torch.zeros(1000, dtype=dtype), torch.zeros(1000, dtype=dtype)
    record = SimpleNamespace(
        grad=torch.zeros(5, 16, dtype=dtype), ids=torch.zeros(5, 1, dtype=torch.int64), offsets=None, weights=None,
        fields=fields.specs, spec=fields.hash_spec, mode=0,
    )  # fmt: skip
    sgd: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "dampening": 0.0, "weight_decay": 0.1, "maximize": False}
    for nesterov, first in ((False, True), (True, False)):
        update.sgd(array, [record], state, nesterov=nesterov, first=first, **sgd)
    for lr, maximize in ((0.1, True), (torch.tensor(0.1), False)):
        common: dict[str, Any] = {"lr": lr, "weight_decay": 0.0, "maximize": maximize}
        update.sgd(array, [record], None, nesterov=False, first=False, **{**sgd, **common})
        update.adagrad(array, [record], state, eps=1e-10, **common)
        update.adam(array, [record], state, state, torch.tensor(1.0), betas=(0.9, 0.999), eps=1e-8, **common)


def main() -> None:
    compiler = Compiler(int(sys.argv[1]))
    JITFunction.run = lambda function, *arguments, **options: compiler.run(function, *arguments, **options)
    for number, (layout, padding) in enumerate(layouts()):
        samples = 1 if number == 5 else 100_000 if number == 3 else 3  # 1 is a size that Triton likes to build in
        call(layout, padding, F32, samples, dot=number in (1, 3, 4, 8, 12), bags=number in (3, 9))
        if number in (3, 4):
            call(layout, padding, BF16, samples, dot=True, bags=number == 4)
        if number == 3:
            call(layout, padding, F16, 3, dot=True, bags=False)
            call(layout, padding, F64, 3, dot=False, bags=True)
        if number in (0, 3, 4, 8, 9):
            for dtype in (F32, BF16, F16):
                call_int8(layout, padding, dtype, samples, bags=number in (4, 9) and dtype == BF16)
    for dtype in (F32, F64):
        step(dtype)
    print("\n".join(sorted(set(compiler.made.values()))))
    print(f"{len(compiler.made)} variants")


if __name__ == "__main__":
    main()
