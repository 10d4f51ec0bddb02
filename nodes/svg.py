"""The SVG node."""

from __future__ import annotations

from ..svg_core import SVGConfig
from .inputs import advanced, exemption_inputs, number, schedule_inputs
from .patch_node import PatchNode
from .presets import SVG_PRESETS


class SVGAttention(PatchNode):
    """Sparse VideoGen: each attention head runs spatial or temporal, found by online profiling."""

    CONFIG, PRESETS = SVGConfig, SVG_PRESETS
    ABOUT = {"node_id": "SVGAttention", "display_name": "Sparse VideoGen (SVG)", "aliases": ["SVG", "radial attention"]}
    HOW = "each head follows one of two patterns, spatial or temporal (arXiv 2502.01776)"

    @classmethod
    def own_inputs(cls) -> list:
        """sparsity to sampled_rows."""
        return [
            number(
                *("sparsity", 0.70, 0.0, 0.95),
                "Share of the attention that is skipped (0-0.95). Higher is faster, but further from the dense result; 0 "
                "computes everything.",
            ),
            *schedule_inputs(),
            *exemption_inputs(),
            advanced(
                number(
                    *("sampled_rows", 64, 1, 1024),
                    "Query rows that decide the pattern of each head in each call (1-1024). More rows decide more surely, "
                    "but take longer; 64 cost about 0.1 % of dense attention.",
                )
            ),
        ]
