"""What a call starts on a GPU: each operation waits for its turn, so their number is a cost of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "launches.py"
MOST = {"svg": 60, "svg2": 200}


def test_a_call_starts_few_operations(tmp_path):
    """At the shapes of real models, all heads, key lists and attention by groups included."""
    pytest.importorskip("triton")
    file = tmp_path / "rows.jsonl"
    shapes = ("wan14b_720p", "wan1.3b_480p", "cogvideox15")
    env = {name: value for name, value in os.environ.items() if name != "SPARSE_VIDEOGEN_DEBUG"}
    command = [sys.executable, SCRIPT, "--device", "cpu", "--shapes", *shapes, "--json", file]
    subprocess.run(command, check=True, capture_output=True, env=env)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    found = {(row["shape"], row["provider"]): row["launches"] for row in rows}
    assert found.keys() == {(shape, provider) for shape in shapes for provider in MOST}
    assert all(20 < found["wan14b_720p", provider] <= most for provider, most in MOST.items()), found
    # The text's own plan is the one thing that a call with text does beside.
    assert all(launches <= MOST[provider] + 30 for (_, provider), launches in found.items()), found
