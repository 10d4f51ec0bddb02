"""The scripts of benchmarks/, run as a user runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
# What the tests set for the pack in their own process.
OWN = ("TRITON_INTERPRET", "SPARSE_VIDEOGEN_DEBUG")


def _run(*command, **environment) -> subprocess.CompletedProcess:
    env = {name: value for name, value in os.environ.items() if name not in OWN}
    return subprocess.run([*map(str, command)], env=env | environment, capture_output=True, text=True)


@pytest.fixture(scope="session")
def run() -> Callable[..., subprocess.CompletedProcess]:
    """Runs a command without what the tests set in the environment."""
    return _run


@pytest.fixture(scope="session")
def rows_of(tmp_path_factory) -> Callable[..., list[dict]]:
    """Runs a script on the CPU, which must succeed, and returns its rows."""

    def rows_of(script: str, *arguments, **environment) -> list[dict]:
        file = tmp_path_factory.mktemp(script) / "rows.jsonl"
        command = (sys.executable, FOLDER / f"{script}.py", "--device", "cpu", "--json", file, *arguments)
        result = _run(*command, **environment)
        assert result.returncode == 0, result.stderr[-3000:]
        return [json.loads(line) for line in file.read_text().splitlines()]

    return rows_of
