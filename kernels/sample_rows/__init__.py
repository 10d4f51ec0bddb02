"""sample_rows: exact attention of a few query rows, for SVG's profiling and for the measured error."""

from __future__ import annotations

from torch import Tensor

from ..backend import run


def sample_rows(
    q: Tensor, k: Tensor, v: Tensor, rows: Tensor, *, sm_scale: float, masks: Tensor | None = None, backend: str = "torch"
) -> Tensor:
    """softmax(sm_scale * q[rows] k^T) v over all keys, and again over the keys that each mask allows.

    Args:
        q, k, v: [B, H, N, D], fp16, bf16 or fp32, any strides.
        rows: [S] int32 or int64, query rows, the same for every head.
        sm_scale: softmax scale.
        masks: [P, S, N] bool, True where row s may read key n under pattern p, the same for every head; each row
            must allow a key.
        backend: "torch" or "triton".

    Returns:
        [B, H, 1 + P, S, D] float32: all keys first, then one per mask.

    Raises:
        ValueError: shapes do not fit together.
    """
    if q.ndim != 4 or k.shape != v.shape or q.shape[:2] != k.shape[:2] or q.shape[3] != k.shape[3]:
        raise ValueError(f"sample_rows: q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)} must be [B, H, N, D]")
    if masks is not None and masks.shape[1:] != (rows.shape[0], k.shape[2]):
        raise ValueError(f"sample_rows: masks {tuple(masks.shape)} must be [P, {rows.shape[0]}, {k.shape[2]}]")
    return run("sample_rows", "sample_rows", backend, q, k, v, rows, sm_scale, masks)
