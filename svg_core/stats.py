"""What an attention call tells of itself."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class AttentionStats:
    """What a call did, per batch and head, on the tensors' device.

    Attributes:
        density: [B, H], computed (query, key) pairs / all pairs.
        computed: [B, H], density plus padding that was computed.
        pattern: [B, H] int32, 0 spatial and 1 temporal, or None (SVG2).
        kept_fraction: [B, H], share of the key clusters that a tile reads, mean over its tiles, or None (SVG).
        alike: [B, H], cosine of the angle between this batch element's keys and those of the video's first conditioning, whose
            clusters it shares, their means taken off; or None (it shares none).
        finite: [B, H] bool, False where one of `ERROR_ROWS` rows spread over the video holds NaN or infinity.
        exact_finite: [B, H] bool, the same of dense attention for these rows, or None (no error was asked for): where it
            is False, q, k or v brought what is not finite.
        error: [B, H], |out - exact| / |exact| over the same rows, or None (not asked for); 0 where `dense`.
        dense: [B, H] bool, the sparse error was above `max_error`, or no number, so all pairs were computed after all.
            There `density` is 1 and `computed` holds both.
    """

    density: Tensor
    computed: Tensor
    pattern: Tensor | None
    kept_fraction: Tensor | None
    alike: Tensor | None
    finite: Tensor
    exact_finite: Tensor | None
    error: Tensor | None
    dense: Tensor
