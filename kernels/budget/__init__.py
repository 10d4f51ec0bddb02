"""budget: which key clusters each query tile reads, those of the highest score first, until a head's budget is spent."""

from __future__ import annotations

from torch import Tensor

from ..backend import run

# The search for a head's threshold ends where at most one part in so many of its budget can be left unspent.
RESOLUTION = 256


def spend(
    scores: Tensor, rows: Tensor, cluster_sizes: Tensor, budget: Tensor, *, at_least_one: bool = False, backend: str = "torch"
) -> tuple[Tensor, Tensor]:
    """Keeps the cells (tile, cluster) of a head whose score reaches the lowest threshold that its budget allows.

    A cell costs rows[t] * cluster_sizes[c] pairs. The threshold is found by halving the range of float32 bits, without a sort
    and without waiting for the device. What is kept costs at most `budget`; the next cells would cost more than is left, or
    what is left is at most one part in RESOLUTION of it. Cells of one score are kept or left together.

    Args:
        scores: [B, H, T, C] float32, not negative; one that is no number counts as 0.
        rows: [B, H, T] int32, query rows of each tile.
        cluster_sizes: [B, H, C] int32, keys of each cluster.
        budget: [B, H] int64, pairs of rows and keys.
        at_least_one: a tile that would read nothing reads its cluster of the highest score, beyond the budget.
        backend: "torch" or "triton".

    Returns:
        cluster_mask [B, H, T, C] bool, False for a tile without rows and for an empty cluster; and the keys in them,
        [B, H, T] int32.

    Raises:
        ValueError: shapes do not fit together.
    """
    b, h, tiles, clusters = scores.shape
    expected = {"rows": (b, h, tiles), "cluster_sizes": (b, h, clusters), "budget": (b, h)}
    given = {"rows": rows, "cluster_sizes": cluster_sizes, "budget": budget}
    for name, shape in expected.items():
        if tuple(given[name].shape) != shape:
            raise ValueError(f"spend: {name} {tuple(given[name].shape)} must be {shape}, as scores are {tuple(scores.shape)}")
    return run("budget", "spend", backend, scores, rows, cluster_sizes, budget, at_least_one)
