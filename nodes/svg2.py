"""The SVG2 node."""

from __future__ import annotations

from comfy_api.latest import io

from ..svg_core import SVG2Config
from ..svg_core.config import TAILS
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
from .presets import SVG2_PRESETS, resolve
from .settings import Settings


class SVG2Attention(io.ComfyNode):
    """Sparse VideoGen 2: tokens are grouped by k-means, and each query tile computes the key clusters that matter."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and output; ids are forever, workflows carry them."""
        return patch_schema(
            aliases=["sparse attention", "sparse videogen", "SVG2", "faster video", "semantic clusters"],
            node_id="SVG2Attention",
            display_name="Sparse VideoGen 2 (SVG2)",
            description="Sparse attention for video: over the key clusters that hold most of the attention, with a tail for "
            "the rest (arXiv 2505.18875). Between model and sampler.",
            inputs=[
                model_input(),
                io.Float.Input(
                    "top_p",
                    default=0.90,
                    min=0.1,
                    max=1.0,
                    step=0.01,
                    tooltip="Share of the attention to compute exactly (0.1-1). Lower is faster and further from the dense "
                    "result; 0.9 is the paper's, 0.7 its turbo setting; 1 computes everything.",
                ),
                *schedule_inputs(),
                _integer(
                    "q_clusters",
                    300,
                    1,
                    4096,
                    "Clusters of queries a head (1-4096). More are finer and cost more.",
                ),
                _integer("k_clusters", 1000, 1, 8192, "Clusters of keys a head (1-8192). More are finer and cost more."),
                advanced(
                    io.Float.Input(
                        "min_keep",
                        default=0.10,
                        min=0.0,
                        max=1.0,
                        step=0.01,
                        tooltip="Least share of the key clusters to compute exactly, whatever top_p says (0-1).",
                    )
                ),
                advanced(
                    io.Combo.Input(
                        "tail",
                        options=list(TAILS),
                        default="second_order",
                        tooltip="How skipped keys still count: second_order is closest to dense, zero_order cheaper, "
                        "off leaves them out as the paper does.",
                    )
                ),
                _integer(
                    "kmeans_init_iters", 50, 1, 200, "k-means iterations until the first sparse step, warm-up included (1-200)."
                ),
                _integer("kmeans_step_iters", 2, 1, 50, "k-means iterations a call from then on (1-50)."),
                _integer(
                    "recluster_every", 1, 1, 50, "Steps for which the clusters are kept (1-50). More is faster, less fresh."
                ),
                *exemption_inputs(),
                *execution_inputs(),
                preset_input(SVG2_PRESETS),
                dense_attention_input(),
            ],
        )

    @classmethod
    def execute(cls, model, **values) -> io.NodeOutput:
        """The model, patched."""
        values = with_defaults(cls, values)
        values = resolve(SVG2_PRESETS, values.pop("preset"), values)
        settings = Settings.of(SVG2Config, values, cls.hidden.unique_id)
        return io.NodeOutput(patch_model(model, settings))


def _integer(name: str, default: int, low: int, high: int, tooltip: str):
    return advanced(io.Int.Input(name, default=default, min=low, max=high, tooltip=tooltip))
