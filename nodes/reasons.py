"""Why attention stays dense."""

from __future__ import annotations

from typing import NamedTuple


class Reason(NamedTuple):
    """A word to count by, and a sentence; docs/troubleshooting.md has all of them."""

    label: str
    text: str


class StayDense(Exception):
    """A call of the video's self-attention cannot be sparse, because of its `reason`; the override catches it."""

    def __init__(self, label: str, text: str):
        super().__init__(f"{label}: {text}")
        self.reason = Reason(label, text)
