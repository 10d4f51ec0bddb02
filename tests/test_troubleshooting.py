"""docs/troubleshooting.md has every message of the pack: found in the sources, by the calls that print and raise."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
SOURCES = [*sorted((ROOT / "nodes").glob("*.py")), *sorted((ROOT / "kernels").glob("*.py"))]
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}
# Position of the message among the arguments.
SPEAKERS = {"say": 1} | dict.fromkeys(
    ("say_once", "warn", "info", "warning", "append", "ValueError", "RuntimeError", "NoTileConfig"), 0
)


def pieces(node: ast.expr) -> list[str]:
    """What stands literally in a string, between the values that are put in."""
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    literal = [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    return [piece for text in literal for piece in re.split(r"%[\d.]*[a-z]", text)]


def messages() -> dict[str, str]:
    """The longest literal piece of each message -> where it stands."""
    found = {}
    for path, tree in TREES.items():
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", None)
            if name in SPEAKERS and len(call.args) > SPEAKERS[name]:
                longest = max(pieces(call.args[SPEAKERS[name]]), key=len, default="").strip(" ;,.:()'")
                if len(longest) > 3:  # shorter ones are lines put together elsewhere
                    found[longest] = f"{path.name}:{call.lineno}"
    return found


def reasons() -> dict[str, list[str]]:
    """Labels of the reasons to stay dense -> longest literal pieces of their explanations."""
    found = {"error": [], "out_of_memory": []}  # of `Run.fail`, where the explanation is the error
    for call in (node for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.Call)):
        if getattr(call.func, "id", None) in ("Reason", "StayDense") and isinstance(call.args[0], ast.Constant):
            longest = max(pieces(call.args[1]), key=len, default="").strip(" ;,.:()")
            found.setdefault(call.args[0].value, []).append(longest)
    return found


def test_every_message_is_explained():
    found = messages()
    assert len(found) >= 20 and "takes the place of an earlier Sparse VideoGen node on this model" in found
    assert not {where: message for message, where in found.items() if message not in PAGE}


def test_every_reason_is_explained():
    found = reasons()
    assert {"start_percent", "min_tokens", "layout", "mask", "head_dim", "not_reached", "dense_blocks"} < set(found)
    for label, explanations in found.items():
        lines = [line for line in PAGE.splitlines() if line.startswith(f"| `{label}` |")]
        assert lines, label
        assert not [explanation for explanation in explanations if not any(explanation in line for line in lines)], label
