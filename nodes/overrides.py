"""Other packs' attention overrides: whose one is, and whether it computes all that it is asked for."""

from __future__ import annotations

import re

# Words in the module names of overrides that are sparse themselves: core's Model Sparse Attention
# (comfy_extras.nodes_sparse_attention), Sol-Attn, RadialAttn, SpargeAttn.
SPARSE = re.compile(r"sparse|sol_?attn|radial|sparge", re.IGNORECASE)


def override_name(override) -> str:
    """The module that an override's function was defined in; a custom node's begins with its folder, without the path."""
    function = getattr(override, "__func__", override)
    module = getattr(function, "__module__", None) or type(override).__module__
    return re.split(r"[/\\]", module)[-1]


def is_sparse(name: str) -> bool:
    """Whether an override of this name looks as if it did not compute attention in full."""
    return SPARSE.search(name) is not None
