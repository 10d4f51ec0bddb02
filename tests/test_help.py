"""Help pages: one a node, with an entry for every input and output of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "web" / "docs"
# Equal to the nodes' schemas, which tests/host/test_words.py sees to.
NODES = json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))


def entries(page: str, heading: str) -> list[str]:
    """The names, in code, with which the entries of a section's list begin."""
    section = page.split(f"\n## {heading}\n", 1)[1].split("\n## ")[0]
    return re.findall(r"^- `(\w+)`: \S", section, re.MULTILINE)


def test_every_node_has_a_page_and_every_page_a_node():
    assert {path.stem for path in PAGES.iterdir()} == set(NODES)


@pytest.mark.parametrize("name", NODES)
def test_the_page_has_an_entry_for_every_input_and_output(name):
    page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    node = NODES[name]
    assert page.startswith(f"# {node['display_name']}\n")
    assert entries(page, "Inputs") == list(node["inputs"])
    outputs = [output["name"] for output in node["outputs"].values()]
    assert outputs == (entries(page, "Outputs") if "\n## Outputs\n" in page else re.findall(r"`(\w+)` out", page))


def test_pages_fit_the_narrow_pane_that_shows_them():
    """A table of more than two columns is cut off at its right there."""
    assert not any("|" in path.read_text(encoding="utf-8") for path in PAGES.iterdir())
