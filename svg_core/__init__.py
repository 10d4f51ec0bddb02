"""Sparse VideoGen: training-free sparse attention for video diffusion transformers. Torch only, host-agnostic."""

from .attention import plans, sparse_attention, warm_up
from .audit import AttentionStats
from .call import WORKSPACE_BYTES, Call
from .config import SVG2Config, SVGConfig
from .layout import VideoLayout
from .methods import METHODS
from .state import SparseState

__all__ = [
    "METHODS",
    "WORKSPACE_BYTES",
    "AttentionStats",
    "Call",
    "SVG2Config",
    "SVGConfig",
    "SparseState",
    "VideoLayout",
    "plans",
    "sparse_attention",
    "warm_up",
]
