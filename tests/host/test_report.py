"""SVGReport and SVGVideoFidelity in a real ComfyUI: the same figures for the page and for /history, and pictures."""

from __future__ import annotations

import json
import math

import pytest
import torch
from comfy_host import PromptError, latent
from in_process import run_in_host
from PIL import Image
from real_host import Host, reports
from tiny_prompts import node


def with_report(host, method, report_on="svg_model", **inputs):
    prompt = host.prompt("wan21_t2v", method, **inputs)
    prompt["report"] = node("SVGReport", model=[report_on, 0], samples=["sampler", 0])
    prompt["save"]["inputs"]["samples"] = ["report", 0]
    return prompt


def picture_of(host, outputs: dict) -> Image.Image:
    (entry,) = outputs["images"]
    return Image.open(host.server.base_dir / "temp" / entry["subfolder"] / entry["filename"])


def test_history_holds_what_the_page_got(host, method, control):
    result = host.server.queue(with_report(host, method))
    (text,) = result.outputs["report"]["report"]
    (event,) = reports(result)
    report = json.loads(text)
    assert report == event and report["settings"]["start_percent"] == 0.2
    assert report["calls"] == 12 and report["sparse_calls"] == 6
    assert torch.equal(latent(result), host.render("wan21_t2v", method)[0])

    shape = [len(step["density"]) for step in report["steps"]]
    assert shape == [3, 3, 3, 3] and [step["step"] for step in report["steps"]] == [0, 1, 2, 3]
    first, *others = report["steps"]
    assert first["density"] == [None] * 3 and first["reasons"].keys() == {"start_percent", "dense_blocks"}
    for step in others:
        assert step["density"][0] is None and all(0 < density < 1 for density in step["density"][1:])
        assert all(0 < error < 1 for error in step["error"][1:])
    known = [density for step in others for density in step["density"][1:]]
    assert report["density"] == pytest.approx(sum(known) / len(known), abs=2e-4)
    assert report["work"] == pytest.approx((6 + 6 * report["computed"]) / 12, abs=2e-4)
    assert (report["temporal"] is None, report["kept_fraction"] is None) == (
        method == "SVG2Attention",
        method == "SVGAttention",
    )
    kinds = {"dense", "sparse"} | ({"warm_up"} if method == "SVG2Attention" else set())
    assert report["attention"].keys() == kinds and all(kind["seconds"] > 0 for kind in report["attention"].values())
    assert report["attention"]["sparse"]["calls"] == report["attention"]["dense"]["calls"] == 6

    picture = picture_of(host, result.outputs["report"])
    assert picture.size == (1280, 1000) and len(picture.getcolors(1 << 20)) > 100


def test_each_step_comes_when_it_is_over(host, method):
    result = host.server.queue(host.prompt("wan21_t2v", method))
    kinds = [(kind, data) for kind, data in result.events if kind.startswith("sparse_videogen.")]
    assert [kind.partition(".")[2] for kind, _ in kinds] == ["step"] * 4 + ["run"]
    steps, run = [data for _, data in kinds[:-1]], kinds[-1][1]
    labels = {"node": "svg_model", "run": run["run"], "method": run["method"]}
    for message, step in zip(steps, run["steps"], strict=True):
        assert message.items() >= {**labels, "steps": 4, **step}.items() and message["line"].startswith("Step ")
    order = [kind for kind, data in result.events if kind == "sparse_videogen.step" or (kind == "progress" and data["value"])]
    assert order.index("sparse_videogen.step") < len(order) - 2  # while it ran, not all at the end


@pytest.mark.parametrize("method", [None, "SVGAttention"])
def test_a_model_without_a_run_is_said_in_the_picture(host, method):
    """Bypassed, or connected to a model that was not the sampler's."""
    prompt = with_report(host, method, report_on="model")
    result = host.server.queue(prompt)
    assert result.outputs["report"]["report"] == ["null"]
    assert picture_of(host, result.outputs["report"]).getcolors(1 << 20)
    assert latent(result).isfinite().all()


def test_the_report_is_the_last_run_s(host):
    prompt = with_report(host, "SVGAttention")
    again = {"latent_image": ["sampler", 0], "denoise": 0.5, "steps": 2}
    prompt["second"] = node("KSampler", **prompt["sampler"]["inputs"] | again)
    prompt["report"]["inputs"]["samples"] = ["second", 0]
    result = host.server.queue(prompt)
    first, last = reports(result)
    assert last["run"] > first["run"] and json.loads(result.outputs["report"]["report"][0]) == last


def two_samplers(host, **inputs) -> dict:
    """Two samplers on one patched model."""
    prompt = host.prompt("wan21_t2v", "SVGAttention", **inputs)
    prompt["other"] = node("KSampler", **prompt["sampler"]["inputs"] | {"steps": 2, "seed": 3})
    prompt["save_other"] = node("SaveLatent", samples=["other", 0], filename_prefix="latents/other")
    return prompt


def add_reports(prompt: dict) -> dict:
    for name, samples in (("report", "sampler"), ("report_other", "later")):
        prompt[name] = node("SVGReport", model=["svg_model", 0], samples=[samples, 0])
    prompt["later"] = node("LatentMultiply", samples=["other", 0], multiplier=0.5)
    return prompt


def steps_reported(result) -> list[int]:
    return [len(json.loads(result.outputs[name]["report"][0])["steps"]) for name in ("report", "report_other")]


def test_each_report_is_of_the_sampler_that_made_its_samples(host):
    assert steps_reported(host.server.queue(add_reports(two_samplers(host)))) == [4, 2]


def test_a_report_that_comes_after_its_sampler_was_cached(host, tmp_path):
    """Two cached samplers, reports added later; then the same in a copy of a graph, whose nodes have other numbers."""
    again = Host(host.path, tmp_path, ["wan21_t2v"], cached=True)
    with again.server:
        prompt = two_samplers(again)
        again.server.queue(prompt)
        result = again.server.queue(add_reports(prompt))
        assert not reports(result) and steps_reported(result) == [4, 2]

        prompt = two_samplers(again, sparsity=0.6)
        again.server.queue(prompt)
        copy = json.dumps(add_reports(prompt)).replace('"sampler"', '"77"').replace('"other"', '"78"')
        result = again.server.queue(json.loads(copy))
        # Whose is whose cannot be told there, so neither is shown.
        assert not reports(result)
        assert [result.outputs[name]["report"] for name in ("report", "report_other")] == [["null"], ["null"]]


EXPANDED = """
from comfy_execution.graph import DynamicPrompt
from sparse_videogen.nodes.report import report_of

def graph(**nodes):
    # By node: the nodes that its inputs come from.
    inputs = {node: {name: [source, 0] for name, source in links.items()} for node, links in nodes.items()}
    return DynamicPrompt({node: {"inputs": links} for node, links in inputs.items()})

report = {"samples": "later", "model": "svg"}
chain = {"model": {}, "svg": {"model": "model"}, "later": {"samples": "sampler"}, "report": report}
runs = {"sampler.0.0.1": {"node": "svg", "steps": 1}, "sampler.0.0.2": {"node": "svg", "steps": 2}}
prompts = {
    "expanded": (runs, graph(**chain, sampler={"model": "svg"})),
    "alike": ({"sampler2": {"node": "svg"}}, graph(**chain, sampler={"model": "svg"}, sampler2={})),
    "rewired": ({"sampler": {"node": "svg"}}, graph(**chain, sampler={"model": "model"})),
    "a copy": ({"7": {"node": "6", "steps": 7}}, graph(**chain, sampler={"model": "svg"})),
}
tell("found", **{name: report_of(reports, prompt, "report") for name, (reports, prompt) in prompts.items()})
"""


def test_a_report_is_found_in_an_expanded_node_and_not_where_the_graph_says_otherwise(host, tmp_path):
    found = run_in_host(host.path, EXPANDED, tmp_path)["found"]
    assert found["expanded"]["steps"] == 2 and found["a copy"]["steps"] == 7
    assert found["alike"] is None and found["rewired"] is None


def test_samples_of_another_model_have_no_report(host):
    prompt = with_report(host, "SVGAttention")
    prompt["plain"] = node("KSampler", **prompt["sampler"]["inputs"] | {"model": ["model", 0]})
    prompt["report"]["inputs"]["samples"] = ["plain", 0]
    prompt["use"] = node("SaveLatent", samples=["sampler", 0], filename_prefix="latents/use")
    result = host.server.queue(prompt)
    assert result.outputs["report"]["report"] == ["null"]


def test_max_error_keeps_heads_dense(host, method, control):
    free = reports(host.render("wan21_t2v", method)[1])[0]
    out, result = host.render("wan21_t2v", method, max_error=1e-4)
    (report,) = reports(result)
    assert free["dense_heads"] == 0 and report["dense_heads"] == 1 and report["error"] == 0
    assert report["density"] == 1 and report["computed"] > 1 and report["work"] > 1
    torch.testing.assert_close(out, control("wan21_t2v"), atol=1e-4, rtol=1e-4)
    assert "100% of heads above max_error" in result.log


@pytest.mark.parametrize("method, preset", [("SVGAttention", "Turbo"), ("SVG2Attention", "4-step LoRA")])
def test_a_preset_wins_over_the_widgets(host, method, preset):
    _, result = host.render("wan21_t2v", method, preset=preset, start_percent=0.9, dense_blocks="1-2")
    (report,) = reports(result)
    values = host.server.object_info()[method]["input"]["optional"]["preset"][1]["presets"][preset]
    assert values["start_percent"] != 0.9
    blocks = [int(block) for block in values["dense_blocks"].split("-")]
    expected = values | {"dense_blocks": blocks, "min_tokens": 0}
    assert {name: report["settings"][name] for name in expected} == expected


def images(batch=3, width=64, height=48, color=0):
    return node("EmptyImage", width=width, height=height, batch_size=batch, color=color)


def of_shape(*shape):
    return node("SVGTestImages", shape=", ".join(map(str, shape)))


def fidelity(host, reference, compared, **inputs):
    compare = node("SVGVideoFidelity", reference=["a", 0], images=["b", 0], **inputs)
    difference = node("PreviewImage", images=["fidelity", 3])
    return host.server.queue({"a": reference, "b": compared, "fidelity": compare, "difference": difference})


@pytest.mark.parametrize("inputs, shown", [({}, 204), ({"gain": 2.0}, 102)], ids=["default", "gain"])
def test_fidelity_of_a_known_difference(host, inputs, shown):
    result = fidelity(host, images(), images(color=0x333333), **inputs)  # 51 of 255 on every pixel
    outputs = result.outputs["fidelity"]
    (text,) = outputs["fidelity"]
    # SSIM of two constants: c1 / (0.2^2 + c1), c1 = 0.01^2
    assert text == f"PSNR {-20 * math.log10(0.2):.2f} dB, SSIM {1e-4 / (0.04 + 1e-4):.4f}"
    assert picture_of(host, outputs).size == (1024, 720)
    assert len(result.outputs["difference"]["images"]) == 3
    first = host.server.base_dir / "temp" / result.outputs["difference"]["images"][0]["filename"]
    assert Image.open(first).getcolors() == [(64 * 48, (shown, shown, shown))]  # times gain


EQUAL = {
    "colour": (images(color=0x8040FF), images(color=0x8040FF)),
    "grey": (of_shape(3, 48, 64, 1), of_shape(3, 48, 64, 1)),
    "alpha": (images(), of_shape(3, 48, 64, 4)),
}


@pytest.mark.parametrize("reference, other", EQUAL.values(), ids=EQUAL.keys())
def test_fidelity_of_equal_videos(host, reference, other):
    result = fidelity(host, reference, other)
    assert result.outputs["fidelity"]["fidelity"] == ["PSNR inf dB, SSIM 1.0000"]
    assert len(result.outputs["difference"]["images"]) == 3


# What is compared -> what the node says.
NOT_COMPARED = {
    "frames": (images(), images(batch=2), "3 frames of 64 x 48, images has 2 frames of 64 x 48"),
    "width": (images(), images(width=32), "3 frames of 64 x 48, images has 3 frames of 32 x 48"),
    "window": (images(width=10), images(width=10), "10 x 48 pixels: SSIM needs at least 11"),
    "no-frames": (images(), of_shape(0, 48, 64, 3), "images has no frames: connect a video of at least one frame"),
    "neither": (of_shape(0, 48, 64, 3), of_shape(0, 48, 64, 3), "reference has no frames"),
    "grey": (
        *(images(), of_shape(3, 48, 64, 1)),
        "reference has 3 and images 1 colour channels: a grey video cannot be compared with one in colour",
    ),
    "two-channels": (
        *(images(), of_shape(3, 48, 64, 2)),
        r"images is \[3, 48, 64, 2\]: it must be \[frames, height, width, channels\] with 1, 3 or 4 channels",
    ),
    "mask": (images(), of_shape(3, 48, 64), r"images is \[3, 48, 64\]: it must be \[frames, height, width, channels\]"),
}


@pytest.mark.parametrize("reference, other, message", NOT_COMPARED.values(), ids=NOT_COMPARED.keys())
def test_fidelity_names_what_it_cannot_compare(host, reference, other, message):
    with pytest.raises(PromptError, match=message):
        fidelity(host, reference, other)
