"""Memory of large results is used again, and never while something still reads it."""

import copy
import gc
import pickle
import threading

import pytest
import torch
from torch import nn

import robe
from robe.ops import buffers, native

MIB = 1 << 20
pytestmark = pytest.mark.skipif(native.library is None, reason=f"compiled kernels are not there: {native.reason}")


@pytest.fixture(autouse=True)
def no_free_blocks(monkeypatch):
    monkeypatch.setattr(buffers._blocks, "free", [])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_a_result_that_has_gone_is_used_again(dtype):
    out = buffers.empty((1000, 1000), dtype)
    assert (out.shape, out.dtype, out.is_contiguous()) == ((1000, 1000), dtype, True)
    where = out.data_ptr()
    assert where % 64 == 0
    del out
    assert buffers.empty((999, 1000), dtype).data_ptr() == where


@pytest.mark.parametrize("hold", [lambda t: t[3:, ::2], lambda t: t.numpy(), lambda t: t.detach().t(), nn.Parameter])
def test_a_view_keeps_its_memory(hold):
    out = buffers.empty((1000, 1000), torch.float32)
    where, held = out.data_ptr(), hold(out)
    del out
    assert buffers.empty((1000, 1000), torch.float32).data_ptr() != where
    del held
    gc.collect()
    assert buffers.empty((1000, 1000), torch.float32).data_ptr() == where


def test_a_large_block_is_not_spent_on_a_small_result():
    del_me = buffers.empty((8 * MIB,), torch.float32)
    where = del_me.data_ptr()
    del del_me
    assert buffers.empty((MIB,), torch.float32).data_ptr() != where


def test_what_is_kept_is_limited(monkeypatch):
    monkeypatch.setattr(buffers, "LIMIT", 20 * MIB)
    made = [buffers.empty((MIB,), torch.float32) for _ in range(10)]
    made.clear()
    assert 0 < sum(block.nbytes for block in buffers._blocks.free) <= 20 * MIB
    large = buffers.empty((6 * MIB,), torch.float32)  # beyond the limit: an ordinary tensor
    large.resize_(7 * MIB)


def test_shared_memory_is_not_taken_back():
    out = buffers.empty((MIB,), torch.float32).fill_(3.0)
    out.share_memory_()
    other = buffers.empty((MIB,), torch.float32).fill_(5.0)
    assert out.eq(3.0).all()
    assert other.eq(5.0).all()


def test_threads_never_share_a_buffer():
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(200):
            out = buffers.empty((300_000,), torch.float32).fill_(float(number))
            if not out.eq(float(number)).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def collection() -> robe.RobeEmbeddingCollection:
    return robe.RobeEmbeddingCollection([robe.Table(str(i), 100, 16) for i in range(3)], num_slots=5000)


def test_results_of_two_lookups_differ_while_both_live():
    coll, ids = collection(), torch.randint(0, 100, (20_000, 3))
    with torch.no_grad():
        first = coll(ids)
        kept = first.clone()
        coll(ids.flip(0))
    assert torch.equal(first, kept)


def test_prepared_fields_notice_changes():
    coll, ids = collection(), torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        before = coll(ids)
        assert torch.equal(coll.double()(ids).float(), before)
        coll.float()
        coll.fields[1, robe.layout.FieldSpec._fields.index("rows")] = 2
        with pytest.raises(IndexError, match=r"expected ids in \[0, 2\), got 2"):
            coll(ids)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_modules_and_fields_are_copied_after_a_lookup(copied):
    coll, ids = collection(), torch.tensor([[1, 2, 3]])
    optimizer = robe.optim.SGD(coll, lr=0.1)
    with torch.no_grad():
        want = coll(ids)
        assert torch.equal(copied(coll)(ids), want)
        fields = copied(robe.functional.Fields.of(coll.layout))
        assert torch.equal(robe.functional.robe_lookup(ids, coll.array, copied(fields)).view(1, 3, 16), want)
    del optimizer
