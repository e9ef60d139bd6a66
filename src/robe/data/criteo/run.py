"""Where the work on pieces runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from robe.checks import require_positive

Result = TypeVar("Result")


class Runner(Protocol):
    """Runs independent calls."""

    def map(
        self, function: Callable[..., Result], arguments: Sequence[tuple[Any, ...]]
    ) -> Generator[Result, None, None]:
        """The results of ``function(*a)`` for all ``arguments`` in order; closing it waits for no further call."""


class Threads:
    """Threads of this process: numpy and pyarrow let go of the interpreter lock for nearly all of the work.

    Args:
        workers: number of threads. Default None: one more than processors, since one waits for the disk.
    """

    def __init__(self, workers: int | None) -> None:
        if workers is not None:
            require_positive("workers", workers)
        self.workers = workers or _processors() + 1

    def map(
        self, function: Callable[..., Result], arguments: Sequence[tuple[Any, ...]]
    ) -> Generator[Result, None, None]:
        """The results in order."""
        pool = ThreadPoolExecutor(self.workers)
        try:
            futures = [pool.submit(function, *values) for values in arguments]
            for future in futures:
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _processors() -> int:
    # Fewer than the machine has, in a container or under taskset; not known so on every system.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
