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
    number,
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
            description="Sparse attention for video: each head follows one of two patterns, spatial or temporal (arXiv "
            "2502.01776). Place it between the model loader and the sampler.",
            inputs=[
                model_input(),
                number(
                    *("sparsity", 0.70, 0.0, 0.95),
                    "Share of the attention that is skipped (0-0.95). Higher is faster, but further from the dense result; 0 "
                    "computes everything.",
                ),
                *schedule_inputs(),
                *exemption_inputs(),
                advanced(
                    number(
                        *("sampled_rows", 64, 1, 1024),
                        "Query rows that decide the pattern of each head in each call (1-1024). More rows decide more surely, "
                        "but take longer; 64 cost about 0.1 % of dense attention.",
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
