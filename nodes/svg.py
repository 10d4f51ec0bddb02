"""The SVG node."""

from __future__ import annotations

from ..svg_core import SVGConfig
from .inputs import number
from .patch_node import PatchNode
from .presets import SVG_PRESETS


class SVGAttention(PatchNode):
    """Sparse VideoGen: each attention head runs spatial or temporal, found by online profiling."""

    CONFIG, PRESETS = SVGConfig, SVG_PRESETS
    ABOUT = {"node_id": "SVGAttention", "display_name": "Sparse VideoGen (SVG)", "aliases": ["SVG", "radial attention"]}
    HOW = "each head follows one of two patterns, spatial or temporal (arXiv 2502.01776)"
    START = (
        0.20,
        "Attention stays dense before this part of the schedule (0-1). The first steps decide the composition: 0.2 keeps "
        "it close to the dense result. Less is faster, but drifts further from it. Must be below end_percent.",
    )

    @classmethod
    def main_inputs(cls) -> list:
        """sparsity."""
        return [
            number(
                *("sparsity", 0.70, 0.0, 0.95),
                "Share of the attention that is skipped (0-0.95). Higher is faster, but further from the dense result; 0 "
                "computes everything.",
            )
        ]

    @classmethod
    def method_inputs(cls) -> list:
        """sampled_rows."""
        return [
            number(
                *("sampled_rows", 64, 1, 1024),
                "Query rows that decide the pattern of each head in each call (1-1024). More rows decide more surely, but "
                "take longer; 64 cost about 0.1 % of dense attention.",
            )
        ]
