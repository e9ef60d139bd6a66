"""Every kernel compiles for GPUs, in fresh processes without the interpreter."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: the other tests compile for it")


@pytest.fixture(scope="module")
def compilers(tmp_path_factory):
    """One process for each compute capability, at the same time."""
    environment = dict(os.environ)
    environment.pop("TRITON_INTERPRET", None)
    script = Path(__file__).with_name("compile_kernels.py")
    return {
        capability: subprocess.Popen(
            [sys.executable, "-W", "error", script, str(capability)],
            env={**environment, "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("cache"))},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for capability in (80, 90)
    }


@pytest.mark.parametrize("capability", [80, 90])
def test_every_kernel_compiles(capability, compilers):
    out, error = compilers[capability].communicate(timeout=600)
    assert compilers[capability].returncode == 0, error
    kernels = {line.split()[0] for line in out.splitlines() if "REG:" in line}
    assert kernels == {
        "lookup_kernel", "lookup_bags_kernel", "backward_kernel", "backward_bags_kernel", "backward_weights_kernel",
        "sum_kernel", "dot_kernel", "dot_backward_kernel", "sgd_kernel", "adagrad_kernel", "adam_kernel",
    }  # fmt: skip
    # Kernels whose speed matters keep what they work with in registers.
    hot = ("lookup_kernel", "backward_kernel", "dot_")
    lines = [line for line in out.splitlines() if line.startswith(hot)]
    spilled = [line for line in lines if int(re.search(r"STACK:(\d+)", line)[1]) > 32]
    assert not spilled, "registers in memory:\n" + "\n".join(spilled)
