"""Batches made ready by a thread, and brought to a device on a stream of their own, while earlier ones are used."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any

import torch

from robe.checks import require_positive
from robe.data.columns import Batch
from robe.data.loader import Loader


class Prefetcher:
    """Iterates as a :class:`Loader` does, ``depth`` batches ahead.

    On a CUDA device batches pass through pinned memory and are copied on a side stream; the current stream waits for
    the batch it is given, and for nothing else. States are those of the batches handed out, not of those made ready.

    Args:
        loader: whose batches to prefetch; leave it alone meanwhile.
        device: where batches go. Default ``"cpu"``: they are only made ready.
        depth: batches that wait at most. Default 2.

    Raises:
        ValueError: ``depth`` is not positive.
        RuntimeError: the device is CUDA and there is none.
    """

    def __init__(self, loader: Loader, device: torch.device | str = "cpu", depth: int = 2) -> None:
        require_positive("depth", depth)
        self._loader = loader
        self._device = torch.device(device)
        self._depth = depth
        if self._device.type == "cuda" and not torch.cuda.is_available():
            raise RuntimeError(f"device: expected one that is there, got {device}; torch.cuda.is_available() is False")
        self._stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._state = loader.state_dict()

    @property
    def epoch(self) -> int:
        """Number of the epoch that comes next or is under way."""
        return int(self._state["epoch"])

    def __len__(self) -> int:
        """Batches of an epoch."""
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        epoch = self._loader.epoch
        ready: queue.Queue[Any] = queue.Queue(self._depth)
        stop = threading.Event()
        thread = threading.Thread(target=self._fill, args=(ready, stop), name="robe-prefetch", daemon=True)
        thread.start()
        try:
            while (item := ready.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                batch, copied, self._state = item
                if copied is not None:
                    current = torch.cuda.current_stream(self._device)
                    current.wait_event(copied)
                    for tensor in batch.tensors():  # its memory is not used again before the current stream is done
                        tensor.record_stream(current)
                yield batch
            self._state = self._loader.state_dict()
        finally:
            stop.set()
            while thread.is_alive():  # it may wait for room
                while not ready.empty():
                    ready.get_nowait()
                thread.join(0.01)
            if self._loader.epoch != self._state["epoch"]:  # left early, when all batches were already made ready
                self._loader.epoch = epoch

    def state_dict(self) -> dict[str, Any]:
        """Where the epoch stands, after the batches handed out; a state of the :class:`Loader`."""
        return dict(self._state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where ``state`` stands.

        Raises:
            DataError: the state is of another data set, split, batch size, world size, seed or shuffle.
        """
        self._loader.load_state_dict(state)
        self._state = self._loader.state_dict()

    def _fill(self, ready: queue.Queue[Any], stop: threading.Event) -> None:
        try:
            for batch in self._loader:
                ready.put((*self._moved(batch), self._loader.state_dict()))
                if stop.is_set():
                    return
            ready.put(None)
        except BaseException as error:  # noqa: BLE001 - raised again where the batches are used
            ready.put(error)

    def _moved(self, batch: Batch) -> tuple[Batch, torch.cuda.Event | None]:
        if self._stream is None:
            return batch.to(self._device), None
        with torch.cuda.stream(self._stream):
            moved = batch.pin_memory().to(self._device, non_blocking=True)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record(self._stream)
        return moved, copied
