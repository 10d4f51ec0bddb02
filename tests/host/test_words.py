"""Locales and help pages against the nodes as a real ComfyUI has them, and that it serves both."""

from __future__ import annotations

import json
import urllib.request

import pytest
from load_pack import ROOT
from real_host import our_nodes

LANGUAGES = sorted(path.name for path in (ROOT / "locales").iterdir())


def get(host, route: str) -> str:
    with urllib.request.urlopen(host.server.url + route, timeout=60) as reply:
        return reply.read().decode()


def words_of(info: dict) -> dict:
    """What an entry of object_info shows, as nodeDefs.json has it; texts that the node does not have are left out."""
    inputs = {name: spec for group in ("required", "optional") for name, spec in info["input"].get(group, {}).items()}
    options = {name: spec[1] if len(spec) > 1 else {} for name, spec in inputs.items()}
    outputs = enumerate(zip(info["output_name"], info["output_tooltips"], strict=True))
    words = {
        "display_name": info["display_name"],
        "description": info["description"],
        "inputs": {name: {"name": o.get("display_name") or name, "tooltip": o.get("tooltip")} for name, o in options.items()},
        "outputs": {str(i): {"name": name, "tooltip": tooltip} for i, (name, tooltip) in outputs},
    }
    for group in ("inputs", "outputs"):
        words[group] = {key: {k: text for k, text in entry.items() if text} for key, entry in words[group].items()}
    return words


def test_the_english_words_are_the_nodes_own(host):
    words = {name: words_of(info) for name, info in our_nodes(host).items()}
    assert words == json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_host_serves_every_language(host, language):
    served = json.loads(get(host, "/i18n"))[language]
    for name, part in {"nodeDefs": served["nodeDefs"], "settings": served["settings"], "main": served}.items():
        ours = json.loads((ROOT / "locales" / language / f"{name}.json").read_text(encoding="utf-8"))
        assert part.items() >= ours.items()


def test_the_host_serves_a_help_page_for_every_node(host):
    nodes = our_nodes(host)
    assert len(nodes) == 4
    for name in nodes:
        page = (ROOT / "web" / "docs" / f"{name}.md").read_text(encoding="utf-8")
        assert get(host, f"/extensions/{host.server.packs[0].name}/docs/{name}.md") == page
