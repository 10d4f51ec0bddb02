"""A pack that shows raylight's nodes on a machine without a GPU: they can be drawn there, not run."""

import sys
from pathlib import Path
from unittest.mock import patch

sys.path.append(str(Path(__file__).resolve().parents[1]))
from processes import ENGINES  # noqa: E402
from ranks import find_raylight  # noqa: E402

sys.path += [str(find_raylight() / "src"), str(ENGINES)]
with patch("torch.cuda.is_available", return_value=True):
    from raylight.comfy_extra_dist import nodes_model_advanced
    from raylight.nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

NODE_CLASS_MAPPINGS = NODE_CLASS_MAPPINGS | nodes_model_advanced.NODE_CLASS_MAPPINGS
__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
