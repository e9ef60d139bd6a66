"""The work on pieces over the machines of a Ray cluster; needs ``pip install 'robe[ray]'``."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

Result = TypeVar("Result")

_WAITING = 4  # calls that wait in the cluster, per processor


class Ray:
    """Runs calls as Ray tasks of one processor each.

    Args:
        address: of a running cluster; ``"local"`` starts one on this machine.

    Raises:
        ModuleNotFoundError: ray is not installed.
    """

    def __init__(self, address: str) -> None:
        try:
            import ray
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("ray is not installed; `pip install 'robe[ray]'`") from error
        self._ray = ray
        self._address = address

    def map(
        self, function: Callable[..., Result], arguments: Sequence[tuple[Any, ...]]
    ) -> Generator[Result, None, None]:
        """The results in order."""
        ray = self._ray
        started = not ray.is_initialized()
        if started:
            ray.init(address=self._address, log_to_driver=False, logging_level="warning")
        waiting: deque[Any] = deque()
        try:
            call = ray.remote(num_cpus=1, max_retries=3)(function)
            most = max(1, int(ray.cluster_resources().get("CPU", 1))) * _WAITING
            for values in arguments:
                if len(waiting) >= most:
                    yield self._get(waiting)
                waiting.append(call.remote(*values))
            while waiting:
                yield self._get(waiting)
        finally:
            for left in waiting:
                ray.cancel(left)
            if started:
                ray.shutdown()

    def _get(self, waiting: deque[Any]) -> Any:
        try:
            return self._ray.get(waiting.popleft())
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from error  # as it would be without Ray
