"""What the nodes that patch a model have in common."""

from __future__ import annotations

from comfy_api.latest import io

from .inputs import (
    advanced,
    dense_attention_input,
    execution_inputs,
    exemption_inputs,
    model_input,
    preset_input,
    schedule_inputs,
    schema,
    with_defaults,
)
from .patch import patch_model
from .presets import resolve
from .settings import Settings

CATEGORY = "model/patch"


class PatchNode(io.ComfyNode):
    """A node whose widgets are the settings of one method.

    Attributes:
        CONFIG: the method's config in the core, its fields named as the widgets.
        PRESETS: name -> widget -> value.
        ABOUT: node_id, display_name and aliases of the schema.
        HOW: what it does, as a part of a sentence.
        START: default and tooltip of start_percent.
        WHERE: where to put it.
    """

    CONFIG: type
    PRESETS: dict[str, dict]
    ABOUT: dict
    HOW: str
    START: tuple[float, str]
    WHERE = "Place it between the model loader and the sampler."

    @classmethod
    def subject(cls) -> tuple:
        """Input and output: what is patched."""
        return model_input(), io.Model.Output(display_name="MODEL")

    @classmethod
    def main_inputs(cls) -> list:
        """The inputs that say how much is computed."""
        raise NotImplementedError

    @classmethod
    def method_inputs(cls) -> list:
        """The advanced inputs that this method alone has."""
        raise NotImplementedError

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs, in the order in which one decides, and output.

        Ids are forever, since prompts carry them; so is the order, since workflows hold their values by position.
        """
        subject, output = cls.subject()
        rest = [*cls.method_inputs(), *exemption_inputs(), dense_attention_input(), *execution_inputs()]
        first = [preset_input(cls.PRESETS), *cls.main_inputs(), *schedule_inputs(*cls.START)]
        inputs = [subject, *first, *map(advanced, rest)]
        about = cls.ABOUT | {"aliases": ["sparse attention", "sparse videogen", "faster video", *cls.ABOUT["aliases"]]}
        text = f"Sparse attention for video: {cls.HOW}. {cls.WHERE}"
        hidden = [io.Hidden.unique_id]  # comes with execute
        return schema(category=CATEGORY, description=text, inputs=inputs, outputs=[output], hidden=hidden, **about)

    @classmethod
    def resolved(cls, values: dict) -> dict:
        """The widgets' values, with defaults where the prompt names none and the numbers of the preset."""
        values = with_defaults(cls, values)
        return resolve(cls.PRESETS, values.pop("preset"), values)

    @classmethod
    def execute(cls, model, **values) -> io.NodeOutput:
        """The model, patched."""
        settings = Settings.of(cls.CONFIG, cls.resolved(values), cls.hidden.unique_id)
        return io.NodeOutput(patch_model(model, settings))
