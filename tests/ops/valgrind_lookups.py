"""Not a test of its own: every kernel once, on small and odd shapes, for ``make valgrind``."""

import torch

import robe
from robe.ops import native

torch.set_num_threads(1)
assert native.library is not None, native.reason
for dim, z in ((16, 16), (16, 4), (7, 3), (16, 1), (4, 16)):
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        tables = [robe.Table("a", 50, dim), robe.Table("b", None, dim)]
        coll = robe.RobeEmbeddingCollection(tables, num_slots=333, block_size=z, dtype=dtype, use_sign=dim == 7)
        ids = torch.randint(0, 50, (9, 2))
        for mode in ("sum", "mean", "max"):
            coll.mode = mode
            coll(ids).sum().backward()
            coll(robe.Jagged.from_lists([[[1, 2, 3], []], [[], [-5]]])).sum().backward()
        if dtype == torch.float32:
            coll.dot(ids, torch.rand(9, dim)).sum().backward()
            for make in (robe.optim.SGD, robe.optim.Adagrad, robe.optim.Adam):
                optimizer = make(coll, 0.1)
                for rows in (9, 200):  # fewer elements than slots, and many more
                    coll(torch.randint(0, 50, (rows, 2))).sum().backward()
                    optimizer.step()
table = torch.nn.EmbeddingBag(70, 5, mode="sum", sparse=True)
optimizer = robe.optim.SparseAdam(table.parameters())
for rows in (9, 200):
    table(torch.randint(0, 70, (rows, 2))).sum().backward()
    optimizer.step()
for count, heads, size in ((26, 2, 8), (10, 2, 32), (7, 3, 5), (1, 1, 1)):
    parts = torch.rand(3, count, 4 * heads * size, requires_grad=True)
    torch.ops.robe.attention(parts, heads, True).sum().backward()
