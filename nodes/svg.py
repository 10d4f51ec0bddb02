"""The SVG node."""

from __future__ import annotations

from comfy_api.latest import io

from ..svg_core import SVGConfig
from .inputs import (
    advanced,
    dense_attention_input,
    execution_inputs,
    exemption_inputs,
    model_input,
    patch_schema,
    preset_input,
    schedule_inputs,
    with_defaults,
)
from .patch import patch_model
from .presets import SVG_PRESETS, resolve
from .settings import Settings


class SVGAttention(io.ComfyNode):
    """Sparse VideoGen: each attention head runs spatial or temporal, found by online profiling."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and output; ids are forever, workflows carry them."""
        return patch_schema(
            aliases=["sparse attention", "sparse videogen", "SVG", "faster video", "radial attention"],
            node_id="SVGAttention",
            display_name="Sparse VideoGen (SVG)",
            description="Sparse attention for video: one of two patterns a head, spatial or temporal (arXiv 2502.01776). "
            "Between model and sampler.",
            inputs=[
                model_input(),
                io.Float.Input(
                    "sparsity",
                    default=0.70,
                    min=0.0,
                    max=0.95,
                    step=0.01,
                    tooltip="Share of attention that is skipped (0-0.95). Higher is faster and further from the dense result; "
                    "0 computes everything.",
                ),
                *schedule_inputs(),
                *exemption_inputs(),
                advanced(
                    io.Int.Input(
                        "sampled_rows",
                        default=64,
                        min=1,
                        max=1024,
                        tooltip="Query rows that profile each head in each call (1-1024). More is surer and slower; 64 costs "
                        "about 0.1 % of dense attention.",
                    )
                ),
                *execution_inputs(),
                preset_input(SVG_PRESETS),
                dense_attention_input(),
            ],
        )

    @classmethod
    def execute(cls, model, **values) -> io.NodeOutput:
        """The model, patched."""
        values = with_defaults(cls, values)
        values = resolve(SVG_PRESETS, values.pop("preset"), values)
        settings = Settings.of(SVGConfig, values, cls.hidden.unique_id)
        return io.NodeOutput(patch_model(model, settings))
