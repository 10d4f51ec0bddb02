"""Locales and help pages against the nodes as a real ComfyUI has them, and that it serves both."""

from __future__ import annotations

import json
import urllib.request

import words
from real_host import our_nodes


def test_what_is_written_from_the_nodes_is_up_to_date(host):
    for path, text in words.made(our_nodes(host)).items():
        assert path.read_text(encoding="utf-8") == text, f"{path.relative_to(words.ROOT)}: run python locales/words.py"


def test_the_host_serves_every_language_and_help_page(host):
    def get(route: str) -> str:
        with urllib.request.urlopen(host.server.url + route, timeout=60) as reply:
            return reply.read().decode()

    served = json.loads(get("/i18n"))
    for path in words.LOCALES.glob("*/*.json"):
        there = served[path.parent.name] if path.stem == "main" else served[path.parent.name].get(path.stem, {})
        content = json.loads(path.read_text(encoding="utf-8"))
        assert (there.items() >= content.items()) == (path.name in words.FILES)  # what a translation was made from stays here
    nodes = our_nodes(host)
    assert len(nodes) == 6
    for node in nodes:
        page = (words.PAGES / f"{node}.md").read_text(encoding="utf-8")
        assert get(f"/extensions/{host.server.packs[0].name}/docs/{node}.md") == page
