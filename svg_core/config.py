"""Settings of the two methods; fields are named as the nodes' widgets."""

from __future__ import annotations

from dataclasses import dataclass, replace

CHOICES = ("density", "target_error", "top_p")
TAILS = ("second_order", "zero_order", "off")
TILE_CUTS = ("full", "cluster")


@dataclass(frozen=True)
class SVGConfig:
    """Sparse VideoGen (arXiv 2502.01776).

    Attributes:
        sparsity: share of attention that is skipped, in [0, 1).
        sampled_rows: query rows that profile a head's pattern, >= 1.
        first_frame: every query also reads the first frame (on for Wan and Cosmos, off for HunyuanVideo and CogVideoX in
            the authors' code).
    """

    sparsity: float = 0.70
    sampled_rows: int = 64
    first_frame: bool = True

    def __post_init__(self):
        _check("sparsity", self.sparsity, 0 <= self.sparsity < 1, "at least 0 and below 1")
        _check("sampled_rows", self.sampled_rows, self.sampled_rows >= 1, "at least 1")

    def at(self, place: float) -> SVGConfig:
        """The settings at a place in the schedule: the same everywhere."""
        return self


@dataclass(frozen=True)
class SVG2Config:
    """Sparse VideoGen2 (arXiv 2505.18875) with clusters chosen by expected error, full tiles and a tail.

    With choose_by="top_p", tile_cut="cluster" and tail="off" it is the paper's.

    Attributes:
        choose_by: what decides how much is computed: "density" and "target_error" take the clusters that would hurt most to
            leave out, "top_p" those that hold the most attention, as the paper does.
        density: share of all pairs that a head computes, the mean of a run, in (0, 1]; with "target_error" that of a run's
            first sparse call.
        density_start: density at the start of the schedule, in multiples of `density`; it falls in a line to as far below
            at the end, in [1, 2].
        target_error: relative error of a head's result that its density is steered to, in (0, 1].
        top_p: share of the estimated attention mass to compute exactly, in (0, 1].
        min_keep: with "top_p", least share of key clusters to compute exactly, in [0, 1].
        q_clusters, k_clusters: clusters of queries and of keys, >= 1; clamped to the number of tokens.
        tail: how keys that are not computed count: "second_order", "zero_order" or "off" (not at all).
        tile_cut: "full" cuts the sorted queries every M rows, "cluster" at each cluster's border too.
        kmeans_init_iters: k-means iterations until the first sparse call is ready, those of warm-up included.
        kmeans_step_iters: iterations a call from then on, starting at the last centroids.
        recluster_every: calls for which labels are kept.
        score_every: every so many of a tile's rows say what a cluster would cost it, >= 1; not with "top_p".
    """

    choose_by: str = "density"
    density: float = 0.25
    density_start: float = 1.5
    target_error: float = 0.05
    top_p: float = 0.90
    min_keep: float = 0.10
    q_clusters: int = 300
    k_clusters: int = 1000
    tail: str = "second_order"
    tile_cut: str = "full"
    kmeans_init_iters: int = 10
    kmeans_step_iters: int = 1
    recluster_every: int = 1
    score_every: int = 2

    def __post_init__(self):
        _check("choose_by", self.choose_by, self.choose_by in CHOICES, f"one of {', '.join(CHOICES)}")
        _check("density", self.density, 0 < self.density <= 1, "above 0 and at most 1")
        _check("density_start", self.density_start, 1 <= self.density_start <= 2, "between 1 and 2")
        _check("target_error", self.target_error, 0 < self.target_error <= 1, "above 0 and at most 1")
        _check("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1")
        _check("min_keep", self.min_keep, 0 <= self.min_keep <= 1, "between 0 and 1")
        _check("tail", self.tail, self.tail in TAILS, f"one of {', '.join(TAILS)}")
        _check("tile_cut", self.tile_cut, self.tile_cut in TILE_CUTS, f"one of {', '.join(TILE_CUTS)}")
        counts = ("q_clusters", "k_clusters", "kmeans_init_iters", "kmeans_step_iters", "recluster_every", "score_every")
        for name in counts:
            _check(name, getattr(self, name), getattr(self, name) >= 1, "at least 1")

    @property
    def by_error(self) -> bool:
        """Whether clusters are chosen by what it would cost to leave them out."""
        return self.choose_by != "top_p"

    def at(self, place: float) -> SVG2Config:
        """The settings at a place in the schedule, 0 its start and 1 its end: with the density that it has there.

        Where the line would begin above 1 it begins at 1, and falls less.
        """
        if self.choose_by != "density":
            return self
        fall = min(self.density_start, 1 / self.density) - 1
        return replace(self, density=min(1.0, max(1e-3, self.density * (1 + fall * (1 - 2 * place)))))


Config = SVGConfig | SVG2Config


def _check(name: str, value, ok: bool, allowed: str) -> None:
    if not ok:
        raise ValueError(f"{name}={value!r}: must be {allowed}")
