"""The SVGReport node: what a sampling run did, as a picture and as JSON."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator

from comfy_api.latest import io, ui
from comfy_execution.graph_utils import is_link
from torch import Tensor

from . import ray
from .host import executing_node, has_raylight
from .inputs import schema
from .lines import time_lines
from .patch import reports_of
from .plots import Canvas

WIDTH, HEIGHT = 1280, 1000
MARGIN, MIDDLE = 40, WIDTH // 2
NOTHING = (
    "Nothing to report: this MODEL was not sampled with a Sparse VideoGen node on it.",
    "Connect the MODEL output of the SVG or SVG2 node (not bypassed) to this node, and the LATENT of the sampler that used it.",
)
ANOTHER = (
    "Nothing to report: samplers used this MODEL, but these samples come from none of them.",
    "Connect the LATENT of the sampler whose run you want to see, as it is or after other latent nodes. If it is "
    "connected, run the sampler again: ComfyUI kept its result from another copy of the workflow.",
)


class SVGReport(io.ComfyNode):
    """Passes the latent on, and shows what the run that made it did."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs; ids are forever, workflows carry them."""
        return schema(
            aliases=["sparse attention report", "density", "sparse videogen report"],
            node_id="SVGReport",
            display_name="Sparse VideoGen Report",
            category="model/patch/report",
            description="Shows what the sampling run that made these samples did with a Sparse VideoGen model: density and "
            "measured error by layer and step, head types, time in attention, and why calls stayed dense.",
            is_output_node=True,
            hidden=[io.Hidden.dynprompt],
            inputs=[
                sampled_input(),
                io.Latent.Input("samples", tooltip="The LATENT that the sampler made, so that the report comes after the run."),
            ],
            outputs=[
                io.Latent.Output(display_name="LATENT", tooltip="The samples, unchanged."),
                io.Image.Output(display_name="IMAGE", tooltip="The report as a picture."),
                io.String.Output(display_name="JSON", tooltip="The figures of the report."),
            ],
        )

    @classmethod
    def execute(cls, model, samples) -> io.NodeOutput:
        """The latent, the picture and the JSON; without a run that made the samples a picture that says so, and null."""
        reports = ray.reports_of(model) if isinstance(model, dict) else reports_of(model)
        report = report_of(reports, cls.hidden.dynprompt, executing_node())
        picture, text = draw_report(report, NOTHING if not reports else ANOTHER), json.dumps(report)
        shown = ui.PreviewImage(picture, cls=cls).as_dict() | {"report": (text,)}
        return io.NodeOutput(samples, picture, text, ui=shown)


def sampled_input():
    """The model; where raylight is installed its workers as well."""
    tooltip = "The model that was sampled: the MODEL output of the SVG or SVG2 node, or the RAY_ACTORS of one for Ray."
    model = io.Model.Input("model", tooltip=tooltip)
    return io.MultiType.Input(model, [io.Custom("RAY_ACTORS")]) if has_raylight() else model


def report_of(reports: dict[str | None, dict], prompt, node: str | None) -> dict | None:
    """The report of the sampler nearest before the report node's `samples` link, by the links of the prompt.

    The sampler must come after the node that patched its model, as the prompt has them now. One that is in no prompt at
    hand, since the host took its result from a cached copy of its node, is found if it is the only one.

    Args:
        reports: by the sampler's node, the latest last.
        prompt: the host's DynamicPrompt.
        node: the report node's own id.
    """
    for nearest in _upstream(prompt, prompt.get_node(node)["inputs"]["samples"][0]):
        for sampler in reversed(reports):
            if _within(sampler, nearest) and any(_within(reports[sampler]["node"], one) for one in _upstream(prompt, nearest)):
                return reports[sampler]
    known = any(_within(sampler, one) for sampler in reports for one in prompt.all_node_ids())
    return next(iter(reports.values())) if len(reports) == 1 and not known else None


def _upstream(prompt, node: str) -> Iterator[str]:
    """A node and all that its inputs come from, nearest first."""
    nodes, seen = deque([node]), {node}
    while nodes:
        yield nodes[0]
        before = [value[0] for value in prompt.get_node(nodes.popleft())["inputs"].values() if is_link(value)]
        nodes.extend(dict.fromkeys(one for one in before if one not in seen))
        seen.update(before)


def _within(inner: str | None, node: str) -> bool:
    """Whether `inner` is the node, or one of those that it was expanded to: the host's GraphBuilder names these so."""
    return inner is not None and (inner == node or inner.startswith(f"{node}."))


def draw_report(report: dict | None, otherwise: Iterable[str] = NOTHING) -> Tensor:
    """A picture of a report, [1, H, W, 3] in [0, 1]; of the lines `otherwise` without one."""
    canvas = Canvas(WIDTH, HEIGHT)
    if report is None or not report["calls"]:
        canvas.paragraph((MARGIN, MARGIN, WIDTH - MARGIN, HEIGHT), otherwise, size=24)
        return canvas.tensor()
    canvas.text(MARGIN, 20, f"{report['method']}: {report['line']}", size=26)
    canvas.text(MARGIN, 56, report["heads"], size=18)
    left, right = (MARGIN, MIDDLE - 20), (MIDDLE + 20, WIDTH - MARGIN)
    upper, lower = (90, 540), (580, HEIGHT - 20)
    for (x0, x1), name, title, form in ((left, "density", "Density", "{:.2f}"), (right, "error", "Measured error", "{:.1%}")):
        matrix = list(zip(*(step[name] for step in report["steps"]), strict=True))  # by layer, then step
        canvas.heat_map((x0, upper[0], x1, upper[1]), matrix or [[None]], title=title, form=form)
    if report["method"] == "SVG":
        bars = {"title": "Head types", "unit": "temporal", "rest": "spatial"}
        canvas.bars((left[0], lower[0], left[1], lower[1]), report["layers"]["temporal"], **bars)
    else:
        bars = {"title": "Key clusters computed", "unit": "clusters"}
        canvas.bars((left[0], lower[0], left[1], lower[1]), report["layers"]["kept_fraction"], **bars)
    canvas.text(right[0], lower[0], "Time in attention", size=22)
    canvas.paragraph((right[0], lower[0] + 38, right[1], lower[0] + 150), time_lines(report), size=18)
    canvas.text(right[0], lower[0] + 170, "Dense calls", size=22)
    told = report["warnings"] + report["notes"]  # what does not fit is cut off
    canvas.paragraph((right[0], lower[0] + 208, right[1], lower[1]), told or ["none"], size=18)
    return canvas.tensor()
