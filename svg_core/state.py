"""What lives across the steps of one sampling run."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from .pinned import PinnedMemory, tensor_bytes


class SparseState:
    """Values by key, from the first call of a run to its end.

    Planners keep their centroids here under the caller's key, which must tell apart whatever must not share
    them: layer, conditioning, context window, device. Not for several runs: call `clear` or drop it.

    Calls come in the same order in every step, so the value used longest ago is the next one wanted, and moving
    that one out would move every one. Instead what found room stays, and what did not lives in host memory and
    is brought one call ahead.

    Args:
        budget_bytes: GPU memory for values that are `put`; those beyond it live in host memory. None: no limit.
        host: where these go; None is pinned memory.
    """

    def __init__(self, budget_bytes: int | None = None, host: PinnedMemory | None = None):
        self.budget_bytes = budget_bytes
        self._host = PinnedMemory() if host is None else host
        self._values: dict[Hashable, object] = {}
        self._bytes: dict[Hashable, int] = {}  # of the values put that stay on their device
        self._following: dict[Hashable, Hashable] = {}
        self._last: Hashable = None

    def get(self, key: Hashable):
        """The value under `key`, on the device that it was put from, or None."""
        value = self._values[key] if key in self._values else self._host.get(key)
        self._following[self._last], self._last = key, key
        self._host.prefetch(self._following.get(key))
        return value

    def put(self, key: Hashable, value) -> None:
        """Replaces the value under `key`, which a call of each step gets and puts: a dataclass of tensors."""
        self._values.pop(key, None)
        self._bytes.pop(key, None)
        self._host.pop(key)
        size = tensor_bytes(value)
        if self.budget_bytes is not None and self.device_bytes + size > self.budget_bytes and self._host.serves(value):
            self._host.put(key, value)
            return
        self._bytes[key] = size
        self._values[key] = value

    def once(self, key: Hashable, make: Callable[[], object]):
        """The value under `key`, made by the run's first call that wants it; it stays on its device."""
        if key not in self._values:
            self._values[key] = make()
        return self._values[key]

    @property
    def device_bytes(self) -> int:
        """Bytes that the values put take on their device."""
        return sum(self._bytes.values())

    def clear(self) -> None:
        """Frees everything."""
        self._values.clear()
        self._bytes.clear()
        self._following.clear()
        self._last = None
        self._host.clear()

    def __len__(self) -> int:
        return len(self._values) + len(self._host)
