"""What the ComfyUI at hand can do. Features are looked for, never version numbers; all of it is here."""

from __future__ import annotations

import inspect

import comfy.ldm.modules.attention
from comfy.patcher_extension import WrappersMP
from comfy_api.latest import io
from comfy_api.torch_helpers.torch_compile import COMPILE_KEY

# Attention calls pass through transformer_options["optimized_attention_override"].
HAS_ATTENTION_OVERRIDE = hasattr(comfy.ldm.modules.attention, "wrap_attn")
FIRST_WITH_OVERRIDE = "0.3.60"

# Nodes are found by other words than their names.
HAS_SEARCH_ALIASES = "search_aliases" in inspect.signature(io.Schema).parameters


def is_compiled(options: dict) -> bool:
    """Whether torch.compile was set up for the model of a forward with these transformer_options."""
    return bool(options.get("wrappers", {}).get(WrappersMP.APPLY_MODEL, {}).get(COMPILE_KEY))


def version() -> str:
    """The host's own version, for messages alone."""
    from comfyui_version import __version__

    return __version__
