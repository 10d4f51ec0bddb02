"""Sparse VideoGen for ComfyUI: sparse attention (SVG, SVG2) for loaded video models."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """The host's entry point; nothing of the pack is imported before the host asks for it."""
    from .nodes.extension import SparseVideoGenExtension

    return SparseVideoGenExtension()
