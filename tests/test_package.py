"""What holds for the package as a whole: who may import what, and what importing it costs."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("kernels", "svg_core", "nodes")  # each may import those before it
HOST = {"comfy", "comfy_api", "comfy_extras", "folder_paths", "server", "execution"}
NEEDED = {*LAYERS, "__init__.py", "web", "locales", "example_workflows"}
NEEDED |= {"requirements.txt", "pyproject.toml", "README.md", "LICENSE"}
SOURCES = [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]


def imports_of(path: Path):
    """(level, module) of every import in the file, at whatever depth."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or ""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    parts = path.relative_to(ROOT).parts
    layer = LAYERS.index(parts[0])
    for level, module in imports_of(path):
        top = module.split(".")[0]
        if level == 0:
            assert top not in LAYERS and top != "sparse_videogen", f"{module}: the pack imports itself relatively only"
            assert top not in HOST or parts[0] == "nodes", f"{module}: only nodes/ knows the host"
            assert top != "triton" or parts[0] == "kernels", f"{module}: only kernels/ knows Triton"
        elif level >= len(parts):
            assert LAYERS.index(top) <= layer, f"{module}: {parts[0]} must not import {top}"


def test_requirements_never_name_what_the_host_brings():
    names = {line.split("=")[0].split(">")[0].strip().lower() for line in (ROOT / "requirements.txt").read_text().splitlines()}
    assert not names & {"torch", "torchvision", "torchaudio", "triton", "triton-windows"}


def test_the_registry_ships_what_the_node_needs():
    """All that it imports, serves and loads, and besides what a reader of the README opens."""
    listed = ["git", "-C", str(ROOT), "ls-files", "--cached"]
    kept_back = ["--ignored", f"--exclude-from={ROOT / '.comfyignore'}"]
    tracked, ignored = (
        set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines())
        for command in (listed, listed + kept_back)
    )
    assert {path for path in tracked if path.split("/")[0] in NEEDED} <= tracked - ignored
    others = {path for path in tracked - ignored if path.split("/")[0] not in NEEDED}
    assert others and all(Path(path).match("docs/*.md") for path in others)


def test_importing_the_nodes_is_cheap_and_silent():
    """What the host's start pays beyond torch: under 100 ms of processor time, no Triton or plotting, no socket, no output."""
    code = f"""
import sys, time, json, socket
sys.path.insert(0, {str(ROOT / "tests" / "harness")!r})
import torch
before = set(sys.modules)
def refuse(*args, **kwargs): raise AssertionError("a connection was opened")
socket.socket.connect = refuse
begin = time.process_time()
from load_pack import load_pack
load_pack()
import sparse_videogen.nodes.settings, sparse_videogen.nodes.forward, sparse_videogen.svg_core
took = time.process_time() - begin
print(json.dumps([took, [m for m in ("triton", "matplotlib", "PIL") if m in sys.modules and m not in before]]))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    took_s, heavy = json.loads(result.stdout)
    assert result.stdout.count("\n") == 1 and result.stderr == ""
    assert heavy == [] and took_s < 0.1
