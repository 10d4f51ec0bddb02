"""What lives across the steps of one sampling run."""

from __future__ import annotations

from collections.abc import Hashable


class SparseState:
    """Values by key, from the first call of a run to its end.

    Planners keep their centroids here under the caller's key, which must tell apart whatever must not share
    them: layer, conditioning, context window, device. Not for several runs: call `clear` or drop it.
    """

    def __init__(self):
        self._values: dict[Hashable, object] = {}

    def get(self, key: Hashable):
        """The value under `key`, or None."""
        return self._values.get(key)

    def put(self, key: Hashable, value) -> None:
        """Replaces the value under `key`."""
        self._values[key] = value

    def clear(self) -> None:
        """Frees everything."""
        self._values.clear()

    def __len__(self) -> int:
        return len(self._values)
