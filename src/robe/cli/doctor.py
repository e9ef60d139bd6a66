"""``robe doctor``."""

import importlib.util
import json as json_module
import os
import platform
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

EXTRAS = {"matplotlib": "plots", "jinja2": "plots", "tensorboard": "tensorboard"}
MIN_FREE_GB = 1.0


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Tell what is installed, which kernels are active, and what is missing.

    Exits with 1 when a check fails, such as a kernel that gives a wrong result.

    For example:

        robe doctor

        robe doctor --json
    """
    findings = examine()
    if json:
        typer.echo(json_module.dumps(findings, indent=2))
    else:
        _print(findings)
    if findings["problems"]:
        raise typer.Exit(1)


def examine() -> dict[str, Any]:
    """Versions, devices, kernels, extras, disk and memory; ``problems`` lists what does not work."""
    import torch

    import robe.ops
    from robe.train.environment import PACKAGES, cpu_name, version

    extras = {
        module: {
            "present": importlib.util.find_spec(module) is not None,
            "extra": extra,
            "remedy": f"pip install 'robe[{extra}]'",
        }
        for module, extra in EXTRAS.items()
    }
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    problems = []
    if free < MIN_FREE_GB:
        problems.append(f"disk: {free:.2f} GB free in {Path.cwd()}; checkpoints and data sets need room")
    problem = _lookup_works()
    if problem:
        problems.append(problem)
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "packages": {name: version(name) for name in PACKAGES},
        "torch_threads": torch.get_num_threads(),
        "cuda": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "kernels": robe.ops.status(),
        "extras": extras,
        "disk_free_gb": round(free, 2),
        "memory_available_gb": _memory_available_gb(),
        "problems": problems,
    }


def _lookup_works() -> str | None:
    """Looks one embedding up through the active kernel and by hand; None where they agree."""
    import torch

    import robe

    table = robe.Table("doctor", num_embeddings=None, embedding_dim=4)
    collection = robe.RobeEmbeddingCollection([table], num_slots=64, block_size=2)
    ids = torch.tensor([[-1], [0], [2**63 - 1]])
    found, expected = collection(ids)[:, 0], collection.array[collection.slots(0, ids[:, 0])]
    return None if torch.equal(found, expected) else "kernel: a looked-up embedding differs from its slots"


def _memory_available_gb() -> float | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((round(int(x.split()[1]) * 1024 / 1e9, 2) for x in lines if x.startswith("MemAvailable")), None)


def _kernels(kernels: list[dict[str, str]], device: str) -> str:
    """The ops of a device, those with the same kind of kernel together."""
    groups: dict[str, list[str]] = {}
    for kernel in kernels:
        if kernel["device"] == device:
            groups.setdefault(f"{kernel['kernel']} ({kernel['reason']})", []).append(
                kernel["op"].removeprefix("robe::")
            )
    return "; ".join(f"{', '.join(ops)}: {kind}" for kind, ops in groups.items())


def _print(findings: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("python", f"{findings['python']}, {findings['platform']}")
    table.add_row("packages", ", ".join(f"{name} {version}" for name, version in findings["packages"].items()))
    table.add_row("cpu", f"{findings['cpu']}, {findings['cores']} cores, {findings['torch_threads']} torch threads")
    table.add_row("cuda", ", ".join(findings["cuda"]) or "no device")
    memory = findings["memory_available_gb"]
    table.add_row("memory", "unknown" if memory is None else f"{memory} GB available")
    table.add_row("disk", f"{findings['disk_free_gb']} GB free here")
    for device in ("cpu", "cuda") if findings["cuda"] else ("cpu",):
        table.add_row("kernels", f"{device}: {_kernels(findings['kernels'], device)}")
    for module, extra in findings["extras"].items():
        table.add_row("extra", f"{module}: " + ("present" if extra["present"] else f"absent; {extra['remedy']}"))
    for problem in findings["problems"]:
        table.add_row("[bold red]problem[/]", problem)
    if not findings["problems"]:
        table.add_row("[bold green]ok[/]", "no problem found")
    console.print(table, highlight=False)
