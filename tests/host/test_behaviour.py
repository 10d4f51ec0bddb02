"""How the nodes behave in a real ComfyUI: bad input, doubled nodes, interrupts, what stays dense and why."""

from __future__ import annotations

import re

import pytest
import torch
from comfy_host import PromptError, latent
from real_host import EVERYTHING, METHODS, RAY, SMALL, our_nodes, reports

# In the order in which stored workflows hold their values.
WIDGETS = {
    "SVGAttention": "preset sparsity start_percent end_percent "
    "sampled_rows dense_blocks min_tokens max_error dense_attention backend verbose precision",
    "SVG2Attention": "preset choose_by density target_error top_p start_percent end_percent "
    "density_start q_clusters k_clusters min_keep tail kmeans_init_iters kmeans_step_iters recluster_every score_every "
    "dense_blocks min_tokens max_error dense_attention backend verbose precision",
}
# What a prompt must name; an input that is required is missing in every prompt that was stored before it came.
SOCKETS = dict.fromkeys(METHODS, ["model"])
SOCKETS |= dict.fromkeys(RAY, ["ray_actors"])
SOCKETS |= {"SVGReport": ["model", "samples"], "SVGVideoFidelity": ["reference", "images"]}
BAD_INPUTS = {
    "blocks": ({"dense_blocks": "1-x"}, "dense_blocks='1-x'.*must be a block number or a range"),
    "schedule": ({"start_percent": 0.8, "end_percent": 0.5}, "start_percent=0.8, end_percent=0.5.*must be below"),
    "start": ({"start_percent": -0.5}, "start_percent"),
    "tokens": ({"min_tokens": -1}, "min_tokens"),
    "backend": ({"backend": "cuda"}, "backend"),
    "precision": ({"precision": "4 bit"}, "precision"),
}
CASES = [(method, *case) for case in BAD_INPUTS.values() for method in METHODS]
CASES += [("SVGAttention", {"sparsity": 0.99}, "sparsity")]
OUT_OF_RANGE = {"choose_by": "mass", "density": 0.01, "target_error": 0.6, "top_p": 0.0, "density_start": 2.5, "score_every": 0}
CASES += [("SVG2Attention", {name: value}, name) for name, value in OUT_OF_RANGE.items()]


@pytest.mark.parametrize("method, inputs, message", CASES)
def test_bad_input_is_refused_before_sampling(host, method, inputs, message):
    with pytest.raises(PromptError, match=f"(?s){message}") as refusal:
        host.render("wan21_t2v", method, **inputs)
    if refusal.value.result is not None:  # refused by the node, not by the host's own check
        assert "it/s" not in refusal.value.result.log


@pytest.mark.parametrize("last", METHODS)
@pytest.mark.parametrize("first", METHODS)
def test_the_last_node_wins(host, first, last):
    alone, _ = host.render("wan21_t2v", last)
    out, result = host.render("wan21_t2v", last, before=[(first, {**SMALL[first], "start_percent": 0.5})])
    assert torch.equal(out, alone)
    (report,) = reports(result)
    assert report["node"] == "svg_model"
    assert "takes the place of an earlier Sparse VideoGen node" in result.log


def test_masked_text_is_left_out(host, method):
    """With everything else chosen the render is the unpatched one under the same mask, and not the one without."""

    def render(method, masked):
        inputs = {"start_percent": 0.0, "dense_blocks": "", **EVERYTHING[method]} if method else {}
        prompt = host.prompt("hunyuan_t2v", method, prompt_options={"cfg": 1.0}, **inputs)
        prompt["positive"]["inputs"]["masked"] = masked
        result = host.server.queue(prompt)
        return latent(result), reports(result)

    out, (report,) = render(method, True)
    assert report["sparse_calls"] == report["calls"] > 0
    torch.testing.assert_close(out, render(None, True)[0], atol=1e-4, rtol=1e-4)
    assert (out - render(None, False)[0]).abs().max() > 1e-2


def test_a_reason_is_said_once_a_run(host):
    _, result = host.render("wan21_t2v", "SVGAttention", start_percent=0.0, min_tokens=500)
    assert len(re.findall(r"stays dense, min_tokens: 480 tokens are fewer than 500", result.log)) == 1


def test_more_clusters_than_tokens_is_said_once(host):
    out, result = host.render("wan21_t2v", "SVG2Attention", q_clusters=4096, k_clusters=8192)
    assert out.isfinite().all() and reports(result)[0]["sparse_calls"] > 0
    assert len(re.findall("this video has only 480 tokens", result.log)) == 1


def test_verbose_logs_each_sparse_call(host, method):
    _, result = host.render("wan21_t2v", method, verbose=True)
    lines = re.findall(r"layer (\d+): density (\d\.\d+), error (\d\.\d+)", result.log)
    assert len(lines) == reports(result)[0]["sparse_calls"]
    assert {int(layer) for layer, _, _ in lines} == {1, 2}
    assert all(0 < float(error) < 1 for _, _, error in lines)


@pytest.mark.parametrize("precision", ["int8", "8 bit"])
def test_few_bits_change_little_and_the_line_names_them(host, method, precision):
    sixteen, plain = host.render("wan21_t2v", method)
    out, result = host.render("wan21_t2v", method, precision=precision)
    assert 0 < (out - sixteen).norm() < 0.02 * sixteen.norm()
    (report,) = reports(result)
    assert report["precision"] == precision and f" calls sparse in {precision}, density" in report["line"]
    assert report["precision_reason"] is None and "calls sparse, density" in reports(plain)[0]["line"]


def test_triton_on_a_cpu_finishes_dense_and_says_the_remedy(host, control):
    out, result = host.render("wan21_t2v", "SVG2Attention", backend="triton", start_percent=0.0)
    assert torch.equal(out, control("wan21_t2v"))
    assert reports(result)[0]["dense_reasons"].keys() == {"backend", "dense_blocks"}
    assert "Triton needs an NVIDIA or AMD GPU; move the model to one" in result.log


def test_an_interrupt_leaves_nothing_behind(host, method):
    before, _ = host.render("wan21_t2v", method)
    long = host.prompt("wan21_t2v", method, prompt_options={"steps": 400, "width": 256, "height": 256})
    with pytest.raises(PromptError, match="interrupt"):
        host.server.interrupt_when(long, "it/s")
    after, result = host.render("wan21_t2v", method)
    assert torch.equal(before, after)
    assert reports(result)[0]["calls"] == 12


def test_inputs_have_tooltips_and_keep_their_order(host):
    info = host.server.object_info()
    for method, order in (WIDGETS | {node: WIDGETS[sister] for node, sister in RAY.items()}).items():
        inputs = info[method]["input"]["required"] | info[method]["input"]["optional"]
        assert list(inputs) == [*SOCKETS[method], *order.split()]
        assert all(options[1].get("tooltip") for options in inputs.values())
        assert info[method]["output_name"] == ["RAY_ACTORS" if method in RAY else "MODEL"]


def test_only_sockets_are_required(host):
    inputs = {name: info["input"] for name, info in our_nodes(host).items()}
    assert {name: list(groups["required"]) for name, groups in inputs.items()} == SOCKETS
    optional = [spec for groups in inputs.values() for spec in groups.get("optional", {}).values()]
    assert optional and all("default" in spec[1] for spec in optional)


@pytest.mark.parametrize(
    "method, named",
    [("SVGAttention", {"sparsity": 0.5}), ("SVG2Attention", {"choose_by": "top_p", "top_p": 0.7})],
    ids=METHODS,
)
def test_a_prompt_that_does_not_name_every_input_gets_the_defaults(host, method, named):
    defaults = {name: spec[1]["default"] for name, spec in our_nodes(host)[method]["input"]["optional"].items()}

    def render(inputs):
        prompt = host.prompt("wan21_t2v", method)
        prompt["svg_model"]["inputs"] = {"model": ["model", 0], **inputs}
        result = host.server.queue(prompt)
        (report,) = reports(result)
        return latent(result), report["settings"], report["sparse_calls"]

    for inputs in ({}, named, {"min_tokens": 0}, {"min_tokens": 0, **named}):
        full = defaults | inputs
        out, settings, sparse_calls = render(inputs)
        expected = {name: value for name, value in full.items() if name != "preset"} | {"dense_blocks": [0]}
        assert {name: settings[name] for name in expected} == expected
        assert (sparse_calls > 0) == ("min_tokens" in inputs)
        assert torch.equal(out, render(full)[0])


def test_only_nodes_that_patch_know_their_number(host):
    """To the host's cache a node that knows it is a new one under every other number, and is computed again."""
    hidden = {name: info["input"].get("hidden", {}) for name, info in our_nodes(host).items()}
    assert {name for name, entries in hidden.items() if "unique_id" in entries} == METHODS.keys() | RAY.keys()
