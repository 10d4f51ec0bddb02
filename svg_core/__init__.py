"""Sparse VideoGen: training-free sparse attention for video diffusion transformers. Torch only, host-agnostic."""

from .attention import AttentionStats, plans, sparse_attention, warm_up
from .config import SVG2Config, SVGConfig
from .layout import VideoLayout
from .state import SparseState

__all__ = [
    "AttentionStats",
    "SVG2Config",
    "SVGConfig",
    "SparseState",
    "VideoLayout",
    "plans",
    "sparse_attention",
    "warm_up",
]
