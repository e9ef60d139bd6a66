"""Which kernels CUDA has, and why, on any machine."""

import os
import subprocess
import sys

import pytest

CODE = """
import robe
lookups = [s for s in robe.ops.status() if s["device"] == "cuda" and "lookup" in s["op"]]
print(*sorted({(s["kernel"], s["reason"]) for s in lookups}))
"""


def run(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout.strip()


def test_triton_is_used_and_not_imported_before():
    code = f"{CODE}\nimport sys; print('triton.language' in sys.modules)"
    assert run(code) == "('triton', 'Triton kernels, compiled at their first launch')\nFalse"


@pytest.mark.parametrize(
    ("code", "environment", "reason"),
    [
        (f"import sys; sys.modules['triton'] = None; {CODE}", {}, "triton is not installed"),
        (CODE, {"ROBE_KERNELS": "reference"}, "ROBE_KERNELS=reference asks for it"),
    ],
)
def test_otherwise_the_reference_says_why(code, environment, reason):
    assert run(code, **environment) == f"('reference', 'eager PyTorch: {reason}')"
