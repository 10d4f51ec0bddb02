"""Everything that knows ComfyUI: the nodes, the model patch, the layout of each model family."""

from .extension import SparseVideoGenExtension

__all__ = ["SparseVideoGenExtension"]
