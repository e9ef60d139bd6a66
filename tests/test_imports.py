"""The public surface in fresh processes."""

import subprocess
import sys
from pathlib import Path

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


def test_a_checkout_needs_torch_and_numpy_only():
    """As `make gpu` runs it: not installed, without what data, runs and the command line need."""
    source = Path(__file__).parents[1] / "src"
    run(
        "import sys\n"
        f"sys.path = [{str(source)!r}] + [p for p in sys.path if not p.endswith('src')]\n"
        "absent = ('polars', 'pyarrow', 'pydantic', 'typer', 'rich', 'yaml', 'safetensors')\n"
        "sys.modules.update(dict.fromkeys(absent))\n"
        "import importlib.metadata as metadata\n"
        "def missing(name): raise metadata.PackageNotFoundError(name)\n"
        "metadata.version = missing\n"
        "import torch, robe\n"
        "assert robe.__version__ == '0+checkout'\n"
        "tables = [robe.Table('a', 9, 4), robe.Table('b', 9, 4)]\n"
        "model = robe.models.DLRM(robe.RobeEmbeddingCollection(tables, num_slots=9))\n"
        "robe.optim.SGD(model)\n"
        "model(torch.rand(2, 13), torch.zeros(2, 2, dtype=torch.int64)).sum().backward()\n"
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
