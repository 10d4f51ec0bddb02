"""Why attention stays dense."""

from __future__ import annotations

from typing import NamedTuple


class Reason(NamedTuple):
    """One word to count by, and a sentence; docs/troubleshooting.md has all of them."""

    label: str
    text: str


class StayDense(Exception):
    """Raised wherever a call of the video's self-attention turns out to be none for this node; the override catches it.

    Attributes:
        reason: why.
        layer: position among the model's attention blocks, where it is known.
    """

    def __init__(self, reason: Reason, layer: int | None = None):
        super().__init__(f"{reason.label}: {reason.text}")
        self.reason, self.layer = reason, layer
