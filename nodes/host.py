"""What the ComfyUI at hand can do. Features are looked for, never version numbers; all of it is here."""

from __future__ import annotations

import inspect

import comfy.ldm.modules.attention
import comfy.model_management
import comfyui_version
from comfy.patcher_extension import WrappersMP
from comfy_api.latest import io
from comfy_api.torch_helpers.torch_compile import COMPILE_KEY
from comfy_execution.utils import get_executing_context

from ..kernels import is_out_of_memory as says_out_of_memory

# Attention calls pass through transformer_options["optimized_attention_override"].
HAS_ATTENTION_OVERRIDE = hasattr(comfy.ldm.modules.attention, "wrap_attn")
FIRST_WITH_OVERRIDE = "0.3.60"

# Nodes are found by other words than their names.
HAS_SEARCH_ALIASES = "search_aliases" in inspect.signature(io.Schema).parameters


def is_compiled(options: dict) -> bool:
    """Whether torch.compile was set up for the model of a forward with these transformer_options."""
    return bool(options.get("wrappers", {}).get(WrappersMP.APPLY_MODEL, {}).get(COMPILE_KEY))


def other_devices(patcher) -> list:
    """The patchers that hold a model on further devices, where the host shares conditionings out among several."""
    if not hasattr(patcher, "get_additional_models_with_key"):
        return []
    return patcher.get_additional_models_with_key("multigpu")


def executing_node() -> str | None:
    """The node of the prompt that runs in this thread, None outside of one."""
    context = get_executing_context()
    return None if context is None else context.node_id


def is_out_of_memory(error: Exception) -> bool:
    """Whether the error says that the device's memory is short; hosts that know how are asked first."""
    asked = getattr(comfy.model_management, "is_oom", None)
    return bool(asked and asked(error)) or says_out_of_memory(error)


def version() -> str:
    """The host's own version, for messages alone."""
    return comfyui_version.__version__
