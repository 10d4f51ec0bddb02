"""exact_rows: exact attention of a few query rows, for SVG's profiling and for the measured error."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ..backend import run


class Windows(NamedTuple):
    """Which keys S rows read under P patterns, the same for every head; each row must read one.

    Key n is read where `rank[p, n] < prefix[p]` or `begin[p, s] <= rank[p, n] < end[p, s]`.

    Attributes:
        rank: [P, N] int32, a key's place in the pattern's order; keys that nobody reads have one beyond all windows.
        prefix: [P] int32, how many at the front all rows read.
        begin, end: [P, S] int32.
    """

    rank: Tensor
    prefix: Tensor
    begin: Tensor
    end: Tensor

    def masks(self) -> Tensor:
        """The same as [P, S, N] bool."""
        rank, begin, end = self.rank.unsqueeze(1), self.begin.unsqueeze(2), self.end.unsqueeze(2)
        return (rank < self.prefix.view(-1, 1, 1)) | ((rank >= begin) & (rank < end))


def exact_rows(
    q: Tensor, k: Tensor, v: Tensor, rows: Tensor, *, sm_scale: float, windows: Windows | None = None, backend: str = "torch"
) -> Tensor:
    """softmax(sm_scale * q[rows] k^T) v over all keys, and again over the keys that each pattern reads.

    Args:
        q, k, v: [B, H, N, D], fp16, bf16 or fp32, any strides.
        rows: [S] int32 or int64, query rows, the same for every head.
        sm_scale: softmax scale.
        windows: the patterns.
        backend: "torch" or "triton".

    Returns:
        [B, H, 1 + P, S, D] float32: all keys first, then pattern by pattern.

    Raises:
        ValueError: shapes do not fit together.
    """
    if q.ndim != 4 or k.shape != v.shape or q.shape[:2] != k.shape[:2] or q.shape[3] != k.shape[3]:
        raise ValueError(f"exact_rows: q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)} must be [B, H, N, D]")
    if windows is not None:
        patterns = windows.rank.shape[0]
        expected = (patterns, k.shape[2]), (patterns,), *((patterns, rows.shape[0]),) * 2
        if tuple(tuple(x.shape) for x in windows) != expected:
            raise ValueError(f"exact_rows: windows {[tuple(x.shape) for x in windows]} must be {list(expected)}")
    return run("exact_rows", "exact_rows", backend, q, k, v, rows, sm_scale, windows)
