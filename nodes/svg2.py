"""The SVG2 node."""

from __future__ import annotations

from comfy_api.latest import io

from ..svg_core import SVG2Config
from ..svg_core.config import CHOICES, TAILS
from .inputs import number
from .patch_node import PatchNode
from .presets import SVG2_PRESETS, UNUSED


class SVG2Attention(PatchNode):
    """Sparse VideoGen 2: tokens are clustered by k-means, and each query tile computes the key clusters that matter."""

    CONFIG, PRESETS = SVG2Config, SVG2_PRESETS
    ABOUT = {"node_id": "SVG2Attention", "display_name": "Sparse VideoGen 2 (SVG2)", "aliases": ["SVG2", "semantic clusters"]}
    HOW = "computes the key clusters that matter most to the result, and adds a tail for the rest (after arXiv 2505.18875)"
    START = (
        0.0,
        "Attention stays dense before this part of the schedule (0-1). Less is faster: 0 is usual with density and "
        "target_error; with top_p, 0.2 keeps the composition close to the dense result. Must be below end_percent.",
    )

    @classmethod
    def main_inputs(cls) -> list:
        """choose_by to top_p."""
        return [
            _choose_by_input(),
            number(
                *("density", 0.25, 0.02, 1.0),
                "Counts where choose_by is density: the share of all query-key pairs that each head computes, as the mean "
                "of the run (0.02-1). Lower is faster, but further from the dense result; 1 computes everything. With "
                "target_error it is where each head starts.",
            ),
            number(
                *("target_error", 0.05, 0.005, 0.5),
                "Counts where choose_by is target_error: the error that is aimed at in each head, relative to the size of its "
                "result (0.005-0.5). From step to step, each head's density follows its own measured error, between 0.05 "
                "and 0.60, starting at density. Higher is faster, but further from the dense result.",
                step=0.005,
            ),
            number(
                *("top_p", 0.90, 0.1, 1.0),
                "Counts where choose_by is top_p: the share of the attention that is computed exactly (0.1-1). Lower is "
                "faster, but further from the dense result; 0.9 is the paper's value, 0.7 its turbo setting; 1 computes "
                "everything.",
            ),
        ]

    @classmethod
    def method_inputs(cls) -> list:
        """density_start to score_every."""
        return [
            number(
                *("density_start", 1.5, 1.0, 2.0),
                "Counts where choose_by is density: the density of the first step, in multiples of density (1-2). From there "
                "it falls in a line, so that the mean of the run stays the same, and with it the time. Higher keeps the "
                "composition closer to the dense result; at 1, every step computes the same share.",
            ),
            number("q_clusters", 300, 1, 4096, "Query clusters per head (1-4096). Fewer are faster, more are finer."),
            number("k_clusters", 1000, 1, 8192, "Key clusters per head (1-8192). Fewer are faster, more are finer."),
            number(
                *("min_keep", 0.10, 0.0, 1.0),
                "Counts where choose_by is top_p: the smallest share of the key clusters to compute exactly, whatever top_p "
                "says (0-1). Lower is faster.",
            ),
            io.Combo.Input(
                "tail",
                options=list(TAILS),
                default="second_order",
                tooltip="How skipped keys still count: second_order is closest to the dense result, zero_order is a little "
                "faster, and off leaves them out, as the paper does, which is the fastest.",
            ),
            number(
                *("kmeans_init_iters", 10, 1, 200),
                "k-means iterations up to the first sparse step, counting those made during the dense steps (1-200). Fewer "
                "are faster, but the clusters fit less well.",
            ),
            number(
                *("kmeans_step_iters", 1, 1, 50),
                "k-means iterations per call after that (1-50). Fewer are faster, but the clusters fit less well.",
            ),
            number(
                *("recluster_every", 1, 1, 50),
                "Steps for which the clusters are kept (1-50). Higher is faster, but the clusters fit the current step less "
                "well.",
            ),
            number(
                *("score_every", 2, 1, 16),
                "Counts unless choose_by is top_p: one query in this many decides how much each key cluster matters (1-16). "
                "Higher is faster, but the clusters are chosen less well.",
            ),
        ]


def _choose_by_input():
    """What decides; which inputs then count for nothing goes to the page as an extra option of the widget."""
    widget = io.Combo.Input(
        "choose_by",
        options=list(CHOICES),
        default="density",
        tooltip="What decides how much each head computes. density: the same share in all heads, so the time is known "
        "beforehand. target_error: as much as each head needs for a given error. top_p: the clusters that hold a given share "
        "of the attention, as in the paper; slower at the same error.",
    )
    widget.extra_dict["unused"] = UNUSED
    return widget
