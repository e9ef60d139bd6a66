"""Working memory that cannot be had is an error, and nothing has changed then."""

import os
import subprocess
import sys

import pytest

from robe.ops import native

pytestmark = [
    pytest.mark.skipif(native.library is None, reason=f"compiled kernels are not there: {native.reason}"),
    pytest.mark.skipif(sys.platform != "linux", reason="limits the address space as Linux does"),
    pytest.mark.skipif("ASAN_OPTIONS" in os.environ, reason="the address sanitizer needs the address space itself"),
]

SCRIPT = """
import resource, torch, robe
from robe.functional import Fields
from robe.layout import Layout, Table
from robe.ops import native

torch.set_num_threads(1)
layout = Layout((Table("a", None, 16), Table("b", 3, 8, direct=True)), 50_000_000, 16)
fields, array = Fields.of(layout), torch.ones(50_000_000)
ids = torch.stack([torch.arange(400_000), torch.arange(400_000) % 3], 1)
grad, out = torch.ones(400_000, 24), torch.full((50_000_000,), 7.0)
call = native.Call(array, ids, None, None, fields.specs, fields.hash_spec, 24, 0, grad)
update = native.CUpdate(rule=0, lr=1.0)

class Record:
    pass
record = Record()
record.__dict__.update(ids=ids, offsets=None, weights=None, mode=0, grad=grad)
record.fields, record.spec = fields.specs, fields.hash_spec

size = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmSize"))
resource.setrlimit(resource.RLIMIT_AS, (size + (4 << 20), -1))
for name, run in {
    "backward": lambda: call.run("robe_lookup_backward_array", out.data_ptr()),
    "step": lambda: native.step(array, [record], update),
}.items():
    try:
        run()
    except MemoryError as error:
        print(name, "MemoryError", error)
resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
print("unchanged", bool(array.eq(1).all()))
native.step(array, [record], update)
print("works again", bool(array.ne(1).any()))
"""


def test_a_failed_allocation_raises_and_changes_nothing():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    message = "MemoryError robe: the kernel's working memory could not be allocated"
    assert done.stdout.splitlines() == [
        f"backward {message}",
        f"step {message}",
        "unchanged True",
        "works again True",
    ]
