"""The pack's nodes, as the host asks for them."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension

from .fidelity import SVGVideoFidelity
from .host import has_raylight
from .ray import SVG2AttentionRay, SVGAttentionRay
from .report import SVGReport
from .svg import SVGAttention
from .svg2 import SVG2Attention


class SparseVideoGenExtension(ComfyExtension):
    """Hands the host the node classes."""

    async def get_node_list(self) -> list:
        """All nodes of the pack; those for raylight where that is installed."""
        nodes = [SVGAttention, SVG2Attention, SVGReport, SVGVideoFidelity]
        return nodes + [SVGAttentionRay, SVG2AttentionRay] if has_raylight() else nodes
