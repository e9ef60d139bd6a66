"""The kernels run on a GPU where there is one, else in Triton's interpreter."""

import os
from importlib.util import find_spec

import pytest
import torch

if find_spec("triton") is None:
    collect_ignore_glob = ["test_*.py"]  # an optional dependency; CI has it
elif os.environ.get("TRITON_INTERPRET") == "1":
    from triton_interpreter import correct

    correct()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked ``gpu`` say why they are left out."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and there is none"))
