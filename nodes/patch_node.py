"""What the nodes that patch a model have in common."""

from __future__ import annotations

from comfy_api.latest import io

from .inputs import with_defaults
from .patch import patch_model
from .presets import resolve
from .settings import Settings


class PatchNode(io.ComfyNode):
    """A node whose widgets are the settings of one method.

    Attributes:
        CONFIG: the method's config in the core, its fields named as the widgets.
        PRESETS: name -> widget -> value.
    """

    CONFIG: type
    PRESETS: dict[str, dict]

    @classmethod
    def execute(cls, model, **values) -> io.NodeOutput:
        """The model, patched."""
        values = with_defaults(cls, values)
        values = resolve(cls.PRESETS, values.pop("preset"), values)
        return io.NodeOutput(patch_model(model, Settings.of(cls.CONFIG, values, cls.hidden.unique_id)))
