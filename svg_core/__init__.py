"""Sparse VideoGen: training-free sparse attention for video diffusion transformers. Torch only, host-agnostic."""

from .attention import plans, sparse_attention, warm_up
from .call import WORKSPACE_BYTES, Call
from .config import SVG2Config, SVGConfig
from .layout import VideoLayout
from .methods import METHODS
from .schedule import places
from .state import SparseState
from .stats import AttentionStats

__all__ = [
    "METHODS",
    "WORKSPACE_BYTES",
    "AttentionStats",
    "Call",
    "SVG2Config",
    "SVGConfig",
    "SparseState",
    "VideoLayout",
    "places",
    "plans",
    "sparse_attention",
    "warm_up",
]
