"""score: what leaving a key cluster to the tail is expected to cost a query tile."""

from __future__ import annotations

from torch import Tensor

from ..backend import run


def score(
    q: Tensor,
    rows: Tensor,
    k_mean: Tensor,
    k_variance: Tensor | None,
    log_size: Tensor,
    v_spread: Tensor | None,
    *,
    sm_scale: float,
    backend: str = "torch",
) -> Tensor:
    """The expected squared error that computing a cluster's keys saves a tile, for each key computed.

    With the scaled rows q_i = sm_scale * q[row], for cluster c of n_c keys:

        s2 = sum_d q_i,d^2 k_variance_c,d, at most 2 SECOND_ORDER_CAP    variance of the logit inside the cluster
        L = q_i . k_mean_c + log n_c + min(s2 / 2, SECOND_ORDER_CAP)
        p = softmax of L over all clusters
        score[t, c] = mean over the tile's rows i of p^2 s2 v_spread_c / n_c

    The second-order tail has the cluster's mass right, and its values as far as they do not vary: what it gets wrong goes
    with how much logits and values vary within. Without `k_variance` and `v_spread` there is no tail: L has no third term,
    and score is the mean of p^2 / n_c.

    Args:
        q: [B, H, N, D], fp16, bf16 or fp32, any strides.
        rows: [B, H, T, R] int32 (may be expanded), token numbers of the rows that stand for a tile, -1 where there is none.
        k_mean: [B, H, C, D] float32.
        k_variance: [B, H, C, D] float32, or None.
        log_size: [B, H, C] float32, natural logarithm of the keys in a cluster; -inf for an empty one.
        v_spread: [B, H, C] float32, variance of the values inside a cluster, summed over D; None without `k_variance`.
        sm_scale: softmax scale, > 0.
        backend: "torch" or "triton".

    Returns:
        [B, H, T, C] float32; 0 for an empty cluster, and for a tile without rows.

    Raises:
        ValueError: shapes do not fit together.
    """
    b, h, _, d = q.shape
    clusters = k_mean.shape[2]
    if rows.ndim != 4 or rows.shape[:2] != (b, h) or tuple(k_mean.shape) != (b, h, clusters, d):
        raise ValueError(
            f"score: q {tuple(q.shape)}, rows {tuple(rows.shape)} and k_mean {tuple(k_mean.shape)} must be "
            "[B, H, N, D], [B, H, T, R] and [B, H, C, D]"
        )
    if tuple(log_size.shape) != (b, h, clusters) or (k_variance is None) != (v_spread is None):
        raise ValueError(
            f"score: log_size {tuple(log_size.shape)} must be {(b, h, clusters)}, and k_variance and v_spread come together"
        )
    if k_variance is not None and (k_variance.shape != k_mean.shape or v_spread.shape != log_size.shape):
        raise ValueError(
            f"score: k_variance {tuple(k_variance.shape)} and v_spread {tuple(v_spread.shape)} must be "
            f"{tuple(k_mean.shape)} and {tuple(log_size.shape)}"
        )
    return run("score", "score", backend, q, rows, k_mean, k_variance, log_size, v_spread, sm_scale)
