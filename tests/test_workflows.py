"""The example workflows as files: whole, tidy, and telling where their models come from."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "example_workflows"
NAMES = sorted(file.stem for file in FOLDER.glob("*.json"))
NOTES = {"Note", "MarkdownNote"}
TITLE_HEIGHT = 30  # a node's title bar stands above its position


@pytest.fixture(params=NAMES)
def workflow(request):
    return json.loads((FOLDER / f"{request.param}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", NAMES)
def test_each_has_its_thumbnail(name):
    assert 10_000 < (FOLDER / f"{name}.jpg").stat().st_size < 60_000


def box(node: dict) -> tuple:
    """Left, top, right, bottom."""
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - TITLE_HEIGHT, x + width, y + height


def test_links_and_slots_agree(workflow):
    nodes = {node["id"]: node for node in workflow["nodes"]}
    by_slot = []
    for link, origin, output, target, slot, kind in workflow["links"]:
        assert nodes[origin]["outputs"][output]["type"] == kind in nodes[target]["inputs"][slot]["type"].split(",")
        assert link in nodes[origin]["outputs"][output]["links"] and nodes[target]["inputs"][slot]["link"] == link
        by_slot.append(link)
    used = [entry["link"] for node in nodes.values() for entry in node["inputs"] if entry["link"] is not None]
    offered = [link for node in nodes.values() for entry in node["outputs"] for link in entry["links"]]
    assert sorted(by_slot) == sorted(used) == sorted(offered)
    assert workflow["version"] == 0.4
    assert workflow["last_node_id"] == max(nodes) and workflow["last_link_id"] == max(by_slot)
    assert len(nodes) == len(workflow["nodes"]) and sorted(node["order"] for node in nodes.values()) == list(range(len(nodes)))


def test_loaders_name_a_source_for_each_file(workflow):
    for node in workflow["nodes"]:
        files = [value for value in node["widgets_values"] if str(value).endswith(".safetensors")]
        models = node["properties"].get("models", [])
        assert [model["name"] for model in models] == files
        for model in models:
            assert model["url"].startswith("https://huggingface.co/Comfy-Org/")
            assert model["url"].endswith(f"/{model['directory']}/{model['name']}")


def test_nodes_do_not_overlap_and_stand_in_a_group(workflow):
    for one, other in combinations(workflow["nodes"], 2):
        a, b = box(one), box(other)
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], (one["type"], other["type"])
    for node in workflow["nodes"]:
        left, top, right, bottom = box(node)
        around = [
            group["title"]
            for group in workflow["groups"]
            for x, y, width, height in [group["bounding"]]
            if x <= left and y <= top and right <= x + width and bottom <= y + height
        ]
        assert len(around) == 1 or node["type"] in NOTES
