"""The example workflows in a real ComfyUI: accepted as they stand, rendered with tiny stand-ins for their downloads."""

from __future__ import annotations

import json

import pytest
from comfy_host import PromptError, latent
from real_host import METHODS, reports
from workflow_render import BYPASSED, NAMES, WORKFLOWS, tiny_version, to_prompt

FILES = {"unet_name", "clip_name", "clip_name1", "clip_name2", "vae_name"}


@pytest.fixture(scope="module")
def info(host):
    return host.server.object_info()


@pytest.fixture(params=NAMES)
def workflow(request):
    return json.loads((WORKFLOWS / f"{request.param}.json").read_text())


def sparse_nodes(prompt: dict) -> dict:
    return {node_id: node for node_id, node in prompt.items() if node["class_type"] in METHODS}


def test_the_server_misses_the_model_files_and_nothing_else(host, info, workflow):
    """The server checks every node, required input, range, choice and type of link before it runs anything."""
    prompt = to_prompt(workflow, info)
    with pytest.raises(PromptError) as refusal:
        host.server.submit(prompt)
    missed = [
        (node_id, error["type"], error["extra_info"]["input_name"])
        for node_id, node in refusal.value.details["node_errors"].items()
        for error in node["errors"]
    ]
    files = [(node_id, name) for node_id, node in prompt.items() for name in node["inputs"] if name in FILES]
    assert sorted(missed) == sorted((node_id, "value_not_in_list", name) for node_id, name in files)


def test_the_sparse_nodes_hold_every_widget(info, workflow):
    nodes = [node for node in workflow["nodes"] if node["type"] in METHODS]
    assert nodes
    for node in nodes:
        widgets = info[node["type"]]["input"]["optional"]
        values = dict(zip(widgets, node["widgets_values"], strict=True))
        # The page would show the preset's numbers in any case.
        assert widgets["preset"][1]["presets"].get(values["preset"], {}).items() <= values.items()


def test_it_renders(host, info, workflow):
    prompt = tiny_version(to_prompt(workflow, info))
    result = host.server.queue(prompt)
    assert latent(result).isfinite().all() and latent(result).shape == (1, 16, 5, 16, 24)
    assert {report["node"] for report in reports(result)} == sparse_nodes(prompt).keys()
    for report in reports(result):
        assert report["sparse_calls"] > 0 and report["dense_reasons"].keys() <= {"start_percent", "dense_blocks"}


def test_the_warm_up_falls_in_the_high_noise_expert(host, info):
    prompt = tiny_version(to_prompt(json.loads((WORKFLOWS / "wan2.2_t2v_a14b_svg2.json").read_text()), info))
    for node in sparse_nodes(prompt).values():
        node["inputs"]["start_percent"] = 0.2
    high, low = reports(host.server.queue(prompt))
    assert high["dense_reasons"].keys() == {"start_percent", "dense_blocks"}
    assert low["dense_reasons"].keys() == {"dense_blocks"}


def test_every_sparse_node_is_replaced(host, info, workflow, method):
    prompt = to_prompt(workflow, info)
    for node in sparse_nodes(prompt).values():
        if node["class_type"] != method:
            defaults = {name: spec[1]["default"] for name, spec in info[method]["input"]["optional"].items()}
            node |= {"class_type": method, "inputs": {"model": node["inputs"]["model"], **defaults}}
    result = host.server.queue(tiny_version(prompt))
    assert {report["method"] for report in reports(result)} == {METHODS[method]}


def test_without_sparse_nodes_the_model_runs_dense(host, info, workflow):
    for node in workflow["nodes"]:
        if node["type"] in METHODS:
            node["mode"] = BYPASSED
    prompt = to_prompt(workflow, info)
    assert not sparse_nodes(prompt)
    assert not reports(host.server.queue(tiny_version(prompt)))
