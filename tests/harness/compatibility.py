"""Write docs/compatibility.md from the test that renders every model family: `python tests/harness/compatibility.py`.

Runs against the same ComfyUIs as the tests do; takes some minutes.
"""

from __future__ import annotations

import sys

import pytest
from load_pack import ROOT
from real_host import METHODS
from tiny_checkpoints import FAMILIES, parts

REASONS = {
    "not_reached": "dense: this ComfyUI hands the model's attention no options",
    "layout": "dense: attention in parts",
    "mask": "dense: a mask that weighs keys",
}
HEAD = """# Models and ComfyUI versions

Written by `python tests/harness/compatibility.py`: each cell is a render of a tiny model with random weights in that
ComfyUI, sparse from the first step on, and tells the density that it reached outside of block 0. What is compared here is
whether a model's tokens are understood; how sparse a real model can be is another question. "from" names the
first ComfyUI that loads the model.

"""


class Cells:
    """Pytest plugin that keeps what the renders recorded: (host, family, method) -> text."""

    def __init__(self):
        self.text: dict[tuple[str, str, str], str] = {}

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.skipped:
            method, version, family = report.nodeid.split("[")[1].rstrip("]").split("-")
            reports = dict(report.user_properties).get("reports")
            self.text[version, family, method] = _cell(reports) if reports else f"from {FAMILIES[family].since}"


def _cell(reports: list[dict]) -> str:
    if all(report["sparse_calls"] for report in reports):
        return " / ".join(f"{report['density']:.2f}" for report in reports)
    return REASONS.get(next(iter(reports[0]["dense_reasons"])), f"dense: {', '.join(reports[0]['dense_reasons'])}")


def main() -> int:
    """Runs the renders and writes the table; 1 if a render failed or a cell is empty."""
    cells = Cells()
    failed = pytest.main(["-q", str(ROOT / "tests/host/test_render.py"), "-k", "test_every_family_samples"], plugins=[cells])
    versions = sorted({version for version, _, _ in cells.text}, key=parts)
    if not versions:
        print("no render to tell of: set COMFYUI_PATH to a ComfyUI")
        return 1
    columns = [(version, method) for version in versions for method in METHODS]
    lines = ["| model | " + " | ".join(f"{version} {METHODS[method]}" for version, method in columns) + " |"]
    lines.append("|---|" + "---|" * len(columns))
    for name, family in FAMILIES.items():
        if family.title:
            found = [cells.text.get((version, name, method), "") for version, method in columns]
            lines.append(f"| {family.title} | " + " | ".join(found) + " |")
    (ROOT / "docs" / "compatibility.md").write_text(HEAD + "\n".join(lines) + "\n")
    empty = any(line.count("|  |") for line in lines)
    return int(bool(failed) or empty)


if __name__ == "__main__":
    sys.exit(main())
