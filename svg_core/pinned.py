"""Tensors that wait in pinned host memory, copied both ways on a stream of their own."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import fields, replace

import torch
from torch import Tensor


def tensors(value) -> Iterator[Tensor]:
    """The tensors among a dataclass's fields."""
    return (x for x in (getattr(value, field.name) for field in fields(value)) if isinstance(x, Tensor))


def tensor_bytes(value) -> int:
    """Bytes of a dataclass's tensors."""
    return sum(x.numel() * x.element_size() for x in tensors(value))


class PinnedMemory:
    """Dataclasses of tensors by key; serves CUDA and ROCm, where host and GPU memory are apart."""

    def __init__(self):
        self._values: dict[Hashable, tuple[torch.device, object]] = {}
        self._coming: dict[Hashable, tuple[object, torch.cuda.Event]] = {}
        self._streams: dict[torch.device, torch.cuda.Stream] = {}

    def serves(self, value) -> bool:
        """Whether moving the value frees anything."""
        return next(tensors(value)).device.type == "cuda"

    def put(self, key: Hashable, value) -> None:
        """Copies the value away, once the current stream has made it."""
        device = next(tensors(value)).device
        stream = self._stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            self._values[key] = device, _each(value, _pinned)
        for x in tensors(value):
            x.record_stream(stream)
        self._coming.pop(key, None)

    def prefetch(self, key: Hashable) -> None:
        """Starts to bring the value under `key` back, if there is one."""
        if key not in self._values or key in self._coming:
            return
        device, value = self._values[key]
        stream = self._stream(device)
        with torch.cuda.stream(stream):
            self._coming[key] = _each(value, lambda x: x.to(device, non_blocking=True)), stream.record_event()

    def get(self, key: Hashable):
        """The value under `key` on its device, for the current stream; None if there is none."""
        if key not in self._values:
            return None
        self.prefetch(key)
        value, arrived = self._coming.pop(key)
        current = torch.cuda.current_stream(next(tensors(value)).device)
        current.wait_event(arrived)
        for x in tensors(value):
            x.record_stream(current)
        return value

    def pop(self, key: Hashable) -> None:
        """Forgets the value under `key`."""
        self._values.pop(key, None)
        self._coming.pop(key, None)

    def clear(self) -> None:
        """Frees everything."""
        self._values.clear()
        self._coming.clear()

    def __len__(self) -> int:
        return len(self._values)

    def _stream(self, device: torch.device) -> torch.cuda.Stream:
        return self._streams.setdefault(device, torch.cuda.Stream(device))


def _pinned(x: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True)


def _each(value, function: Callable[[Tensor], Tensor]):
    """The dataclass with the function applied to its tensors."""
    changed = {field.name: getattr(value, field.name) for field in fields(value)}
    return replace(value, **{name: function(x) for name, x in changed.items() if isinstance(x, Tensor)})
