"""The public surface in fresh processes."""

import subprocess
import sys

import pytest


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_everything_works_with_triton_blocked():
    run(
        "import sys; sys.modules['triton'] = None\n"
        "import torch, robe\n"
        "for name in robe.__all__: getattr(robe, name)\n"
        "emb = robe.RobeEmbedding(100, 8, compression=10)\n"
        "emb(torch.arange(100)).sum().backward()\n"
        "assert emb.array.grad is not None\n"
    )


def test_import_is_light():
    """`robe --help` must not wait for torch."""
    assert (
        run("import robe, robe.cli, sys; print([m for m in ('torch', 'polars', 'pyarrow') if m in sys.modules])")
        == "[]\n"
    )


def test_unknown_name():
    import robe

    with pytest.raises(AttributeError, match="module 'robe' has no attribute 'RobeEmbeding'"):
        robe.RobeEmbeding  # noqa: B018
    assert "RobeEmbedding" in dir(robe)
