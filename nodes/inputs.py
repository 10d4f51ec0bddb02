"""Inputs that both nodes have, and what older hosts need of any input."""

from __future__ import annotations

from comfy_api.latest import io

from ..kernels import BACKENDS, PRECISIONS
from .host import HAS_SEARCH_ALIASES
from .presets import CUSTOM
from .settings import DENSE_ATTENTION


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


def number(name: str, default: float, low: float, high: float, tooltip: str, step: float = 0.01):
    """An input of a number: in steps of `step` where the default is a float, else whole."""
    kind, steps = (io.Float, {"step": step}) if isinstance(default, float) else (io.Int, {})
    return kind.Input(name, default=default, min=low, max=high, tooltip=tooltip, **steps)


def model_input():
    """The model to patch."""
    return io.Model.Input(
        "model",
        tooltip="A video model: Wan, HunyuanVideo, MiniMax-H3, LTX-2, CogVideoX, Cosmos, Kandinsky 5, Mochi, or another whose "
        "tokens are the patches of a video. Image models pass through unchanged.",
    )


def schedule_inputs(start: float, start_tooltip: str) -> list:
    """start_percent, with its default and what a method says of it, and end_percent."""
    return [
        number("start_percent", start, 0.0, 1.0, start_tooltip),
        number(
            *("end_percent", 1.0, 0.0, 1.0),
            "Attention is dense again after this part of the schedule (0-1). At 1 it stays sparse to the end, which is the "
            "fastest.",
        ),
    ]


def exemption_inputs() -> list:
    """dense_blocks, min_tokens and max_error: what stays dense whatever the schedule says."""
    return [
        io.String.Input(
            "dense_blocks",
            default="0",
            tooltip='Transformer blocks that stay dense, such as "0, 1, 38-39" (0-999); leave it empty for none. In many '
            "models the attention of the first block is nearly uniform and gains little from sparsity.",
        ),
        number(
            *("min_tokens", 8192, 0, 10_000_000),
            "Sequences with fewer tokens than this stay dense (0 or more). On short ones, sparse attention costs more than "
            "it saves.",
        ),
        number(
            *("max_error", 0.0, 0.0, 1.0),
            "A head whose measured error is above this limit is computed in full for that call, in addition to the sparse "
            "work; 0 turns the limit off. The panel shows the measured error: set the limit a little above that of most "
            "layers.",
        ),
    ]


def preset_input(presets: dict[str, dict]):
    """The preset; its numbers go to the page as an extra option of the widget."""
    widget = io.Combo.Input(
        "preset",
        options=[CUSTOM, *presets],
        default=CUSTOM,
        tooltip="Settings for a model or a purpose. The numbers of a preset take the place of what the widgets say; Custom "
        "uses the widgets.",
    )
    widget.extra_dict["presets"] = presets
    return widget


def dense_attention_input():
    """Who computes what stays dense."""
    return io.Combo.Input(
        "dense_attention",
        options=list(DENSE_ATTENTION),
        default="previous",
        tooltip="Who computes the calls that stay dense. previous: another node's attention on this model, if there is "
        "one; it may itself be sparse. host: ComfyUI's own attention, which computes them in full.",
    )


def execution_inputs() -> list:
    """backend, verbose and precision."""
    return [
        io.Combo.Input(
            "backend",
            options=list(BACKENDS),
            default="auto",
            tooltip="auto uses the Triton kernels on a GPU and torch on a CPU; a GPU on which the kernels do not run stays "
            "dense. torch insists on torch, which is slow on a GPU; triton insists on the kernels.",
        ),
        io.Boolean.Input(
            "verbose",
            default=False,
            tooltip="Logs the density and the measured error of every sparse call. It waits for the GPU in each of them, "
            "so it is slower.",
        ),
        io.Combo.Input(
            "precision",
            options=list(PRECISIONS),
            default=PRECISIONS[0],
            tooltip="Precision of the multiplications in sparse attention. 16 bit is the most exact. int8 multiplies queries "
            "and keys in INT8; it should be the fastest on GeForce cards. 8 bit also multiplies the values in FP8 (RTX 40 "
            "series, H100 and newer). A GPU without the one you choose uses the next more exact one, and the report says so.",
        ),
    ]
