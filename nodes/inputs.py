"""Inputs that both nodes have, and what older hosts need of any input."""

from __future__ import annotations

from comfy_api.latest import io

from ..kernels import BACKENDS
from .host import HAS_SEARCH_ALIASES
from .presets import CUSTOM
from .settings import DENSE_ATTENTION

CATEGORY = "model/patch"


def advanced(widget):
    """Marks an input as advanced: shown folded away where the front end can, as usual where it cannot.

    By the extra options, since the argument `advanced=` is younger than the oldest host supported.
    """
    widget.extra_dict["advanced"] = True
    return widget


def schema(aliases: list[str], **fields) -> io.Schema:
    """io.Schema, with search aliases where the host has them.

    Every widget is optional: the host refuses a prompt without a required input, whatever its default, and a prompt
    that was stored before the input came does not name it.
    """
    if HAS_SEARCH_ALIASES:
        fields["search_aliases"] = aliases
    for one in fields["inputs"]:
        one.optional = isinstance(one, io.WidgetInput)
    return io.Schema(**fields)


def with_defaults(node: type[io.ComfyNode], values: dict) -> dict:
    """The values of a node's widgets, with the schema's default for each that the prompt does not name."""
    return {one.id: one.default for one in node.define_schema().inputs if one.optional} | values


def patch_schema(**fields) -> io.Schema:
    """`schema` of a node that patches a model; its own id comes with every execute."""
    outputs = [io.Model.Output(display_name="MODEL")]
    return schema(category=CATEGORY, outputs=outputs, hidden=[io.Hidden.unique_id], **fields)


def model_input():
    """The model to patch."""
    return io.Model.Input(
        "model",
        tooltip="A video model: Wan, HunyuanVideo, CogVideoX, or another whose tokens are the video's patches. Image models "
        "pass unchanged.",
    )


def schedule_inputs() -> list:
    """start_percent and end_percent."""
    return [
        io.Float.Input(
            "start_percent",
            default=0.20,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Dense before this part of the schedule (0-1). The first steps decide the composition: 0.2 keeps it "
            "close to the dense result's; less is faster and drifts further. Must be below end_percent.",
        ),
        io.Float.Input(
            "end_percent",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Dense again after this part of the schedule (0-1). 1 stays sparse to the end.",
        ),
    ]


def exemption_inputs() -> list:
    """dense_blocks, min_tokens and max_error: what stays dense whatever the schedule says."""
    return [
        advanced(
            io.String.Input(
                "dense_blocks",
                default="0",
                tooltip='Transformer blocks that stay dense, like "0, 1, 38-39" (0-999); empty for none. The first block\'s '
                "attention is nearly uniform in many models and gains little from sparsity.",
            )
        ),
        advanced(
            io.Int.Input(
                "min_tokens",
                default=8192,
                min=0,
                max=10_000_000,
                tooltip="Sequences with fewer tokens stay dense (0 or more): there sparse attention costs more than it saves.",
            )
        ),
        advanced(
            io.Float.Input(
                "max_error",
                default=0.0,
                min=0.0,
                max=1.0,
                step=0.01,
                tooltip="A head whose measured error is above this is computed in full for that call, on top of the sparse "
                "work; 0 turns it off. The measured error is shown on the node: set it a little above what most layers show.",
            )
        ),
    ]


def preset_input(presets: dict[str, dict]):
    """The preset; its numbers go to the page as an extra option of the widget."""
    widget = io.Combo.Input(
        "preset",
        options=[CUSTOM, *presets],
        default=CUSTOM,
        tooltip="Settings for a model or purpose. A preset's numbers win over the widgets; Custom uses the widgets.",
    )
    widget.extra_dict["presets"] = presets
    return widget


def execution_inputs() -> list:
    """backend and verbose."""
    return [
        advanced(
            io.Combo.Input(
                "backend",
                options=list(BACKENDS),
                default="auto",
                tooltip="auto: Triton kernels where they run, else torch. triton or torch: insist on one.",
            )
        ),
        advanced(
            io.Boolean.Input(
                "verbose",
                default=False,
                tooltip="Log density and measured error of every sparse call. Waits for the GPU at each, so it is slower.",
            )
        ),
    ]


def dense_attention_input():
    """dense_attention; after the preset, since stored workflows hold their values by position."""
    return advanced(
        io.Combo.Input(
            "dense_attention",
            options=list(DENSE_ATTENTION),
            default="previous",
            tooltip="Who computes the calls that stay dense. previous: another node's attention on this model, if there is "
            "one, which may be sparse itself. host: ComfyUI's own attention, in full.",
        )
    )
