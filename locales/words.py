"""Writes what follows from the nodes' schemas and the page's settings: `python locales/words.py`.

- locales/en/*.json and docs/settings.md, whole.
- web/docs/<NodeId>.md: the title, and under "Inputs" and "Outputs" the line of each entry; the indented lines below it are
  written by hand. SVG2Attention.md is the home of what both attention nodes share, and SVG2AttentionRay.md of what those for
  raylight do: SVG's pages get the sections named in `SHARED` from them. What stands below an input that several nodes have
  is the same on all their pages, as in `ALSO`.

After a translation was brought up to its English, `python locales/words.py --translated es fr` notes in
locales/<language>/source.json which English that was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCALES, PAGES = Path(__file__).parent, ROOT / "web" / "docs"
FILES = ("main.json", "nodeDefs.json", "settings.json")
HEAD = """# Settings and presets

Written by `python locales/words.py` from the nodes themselves. [tuning.md](tuning.md) says which setting to change first,
what that costs, and where the numbers of the presets come from. A prompt that leaves a setting out gets its default.
"""
HOMES = {"SVGAttention": "SVG2Attention", "SVGAttentionRay": "SVG2AttentionRay"}
ALSO = HOMES | {"SVG2AttentionRay": "SVG2Attention", "SVGAttentionRay": "SVGAttention"}
SHARED = ("Where to put it", "What the panel shows", "When it stays dense")


def node_words(info: dict) -> dict:
    """What an entry of the host's object_info says, as nodeDefs.json has it; texts that the node does not have are left out."""
    inputs = {name: spec for group in ("required", "optional") for name, spec in info["input"].get(group, {}).items()}
    options = {name: spec[1] if len(spec) > 1 else {} for name, spec in inputs.items()}
    outputs = enumerate(zip(info["output_name"], info["output_tooltips"], strict=True))
    return {
        "display_name": info["display_name"],
        "description": info["description"],
        "inputs": {name: {"name": name, "tooltip": option["tooltip"]} for name, option in options.items()},
        "outputs": {str(i): {"name": name} | ({"tooltip": text} if text else {}) for i, (name, text) in outputs},
    }


def setting_words() -> dict[str, dict]:
    """main.json and settings.json, from the settings in web/sparse_videogen.js."""
    page = (ROOT / "web" / "sparse_videogen.js").read_text(encoding="utf-8")
    settings = re.findall(r'id: "(.+)",\s+name: "(.+)",\s+category: \["(.+?)", "(.+?)",[^}]+tooltip: "(.+)"', page)
    categories = dict.fromkeys(label for setting in settings for label in setting[2:4])
    return {
        "main.json": {"settingsCategories": {label: label for label in categories}},
        "settings.json": {id_.replace(".", "_"): {"name": name, "tooltip": text} for id_, name, *_, text in settings},
    }


def settings_page(nodes: dict[str, dict]) -> str:
    """docs/settings.md: the widgets of both attention nodes and their presets, by the nodes' entries of object_info."""
    page = HEAD
    for node in ("SVG2Attention", "SVGAttention"):
        widgets = {name: options for name, (_, options) in nodes[node]["input"]["optional"].items()}
        rows = [f"| `{name}` | {json.dumps(options['default'])} | {options['tooltip']} |" for name, options in widgets.items()]
        presets = widgets["preset"]["presets"]
        names = [name for name in widgets if any(name in preset for preset in presets.values())]
        head, line = f"| preset | {' | '.join(f'`{name}`' for name in names)} |", "|---" * (len(names) + 1) + "|"
        rows_of = {title: [str(preset.get(name, "")) for name in names] for title, preset in presets.items()}
        numbers = [f"| {title} | {' | '.join(values)} |" for title, values in rows_of.items()]
        lines = ["| input | default | what it does |", "|---|---|---|", *rows, "", head, line, *numbers]
        page += f"\n## {nodes[node]['display_name']}\n\n" + "\n".join(lines) + "\n"
    return page


def help_pages(nodes: dict[str, dict]) -> dict[str, str]:
    """Node -> its help page, from what nodeDefs.json says of the nodes and what the pages have by hand."""
    pages = {node: (PAGES / f"{node}.md").read_text(encoding="utf-8") for node in nodes}
    for node, words in nodes.items():
        sections = _sections(pages[node])
        if node in HOMES:
            home = _sections(pages[HOMES[node]])
            sections |= {heading: home[heading] for heading in SHARED}
        for heading, entries in (("Inputs", words["inputs"]), ("Outputs", words["outputs"])):
            if heading in sections:
                by_hand, other = _by_hand(sections[heading]), node
                while other in ALSO:
                    other = ALSO[other]
                    by_hand |= _by_hand(_sections(pages[other])[heading])
                lines = [f"- `{one['name']}`: {one['tooltip']}\n{by_hand.get(one['name'], '')}" for one in entries.values()]
                sections[heading] = f"\n{''.join(lines)}\n"
        sections[""] = re.sub("^# .*", f"# {words['display_name']}", sections[""])
        text = "".join(f"## {heading}\n{body}" if heading else body for heading, body in sections.items())
        pages[node] = text.rstrip("\n") + "\n"
    return pages


def _sections(page: str) -> dict[str, str]:
    """Heading -> what stands below it; what stands before the first under ""."""
    first, *others = re.split("^## ", page, flags=re.MULTILINE)
    return {"": first} | dict(section.split("\n", 1) for section in others)


def _by_hand(section: str) -> dict[str, str]:
    """Entry of a list -> the indented lines below its first."""
    return dict(re.findall(r"^- `(\w+)`.*\n((?:  .*\n)*)", section, re.MULTILINE))


def made(nodes: dict[str, dict]) -> dict[Path, str]:
    """Every file that follows from the nodes, by their entries of object_info."""
    words = {name: node_words(info) for name, info in nodes.items()}
    files = {LOCALES / "en" / name: _json(content) for name, content in (setting_words() | {"nodeDefs.json": words}).items()}
    files |= {PAGES / f"{node}.md": page for node, page in help_pages(words).items()}
    return files | {ROOT / "docs" / "settings.md": settings_page(nodes)}


def texts(language: str) -> dict[str, str]:
    """Path of keys -> text, of all files of a language."""
    found = {}

    def walk(value, path: str):
        if isinstance(value, dict):
            for key, part in value.items():
                walk(part, f"{path}/{key}")
        else:
            found[path] = value

    for name in FILES:
        walk(json.loads((LOCALES / language / name).read_text(encoding="utf-8")), name)
    return found


def sources() -> dict[str, str]:
    """Path of keys -> a short hash of the English text that stands there now."""
    return {path: hashlib.sha256(text.encode()).hexdigest()[:8] for path, text in texts("en").items()}


def translated_from(language: str) -> dict[str, str]:
    """Path of keys -> hash of the English text that the translation was made from; ComfyUI does not read this file."""
    return json.loads((LOCALES / language / "source.json").read_text(encoding="utf-8"))


def _json(content: dict) -> str:
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"


def main() -> None:
    """Writes the files, or what a translation was made from."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--translated", nargs="+", metavar="LANGUAGE", help="languages whose texts say what the English says now"
    )
    languages = parser.parse_args().translated
    if languages:
        files = {LOCALES / language / "source.json": _json(sources()) for language in languages}
    else:
        sys.path[:0] = [str(ROOT / "tests" / "harness")]
        from comfy_host import find_hosts
        from real_host import Host, our_nodes

        with tempfile.TemporaryDirectory(prefix="sparse_videogen_") as folder:
            host = Host(find_hosts()[-1], Path(folder), [])
            with host.server:
                files = made(our_nodes(host))
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
