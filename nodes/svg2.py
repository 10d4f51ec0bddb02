"""The SVG2 node."""

from __future__ import annotations

from comfy_api.latest import io

from ..svg_core import SVG2Config
from ..svg_core.config import TAILS
from .inputs import advanced, exemption_inputs, number, schedule_inputs
from .patch_node import PatchNode
from .presets import SVG2_PRESETS

TOP_P = (
    "Share of the attention that is computed exactly (0.1-1). Lower is faster, but further from the dense result; 0.9 is the "
    "paper's value, 0.7 its turbo setting; 1 computes everything."
)


class SVG2Attention(PatchNode):
    """Sparse VideoGen 2: tokens are clustered by k-means, and each query tile computes the key clusters that matter."""

    CONFIG, PRESETS = SVG2Config, SVG2_PRESETS
    ABOUT = {"node_id": "SVG2Attention", "display_name": "Sparse VideoGen 2 (SVG2)", "aliases": ["SVG2", "semantic clusters"]}
    HOW = "computes the key clusters that hold most of the attention, and adds a tail for the rest (arXiv 2505.18875)"

    @classmethod
    def own_inputs(cls) -> list:
        """top_p to max_error."""
        return [
            number("top_p", 0.90, 0.1, 1.0, TOP_P),
            *schedule_inputs(),
            *map(advanced, _cluster_inputs()),
            *exemption_inputs(),
        ]


def _cluster_inputs() -> list:
    """What becomes of the clusters, q_clusters to recluster_every."""
    return [
        number("q_clusters", 300, 1, 4096, "Query clusters per head (1-4096). More clusters are finer and cost more."),
        number("k_clusters", 1000, 1, 8192, "Key clusters per head (1-8192). More clusters are finer and cost more."),
        number(
            *("min_keep", 0.10, 0.0, 1.0), "Smallest share of the key clusters to compute exactly, whatever top_p says (0-1)."
        ),
        io.Combo.Input(
            "tail",
            options=list(TAILS),
            default="second_order",
            tooltip="How skipped keys still count: second_order is closest to the dense result, zero_order is cheaper, and off "
            "leaves them out, as the paper does.",
        ),
        number(
            *("kmeans_init_iters", 50, 1, 200),
            "k-means iterations up to the first sparse step, counting those made during the dense steps (1-200).",
        ),
        number("kmeans_step_iters", 2, 1, 50, "k-means iterations per call after that (1-50)."),
        number(
            *("recluster_every", 1, 1, 50),
            "Steps for which the clusters are kept (1-50). Higher is faster, but the clusters fit the current step less well.",
        ),
    ]
