"""Write docs/compatibility.md from the test that renders every model family: `python tests/harness/compatibility.py`.

Runs against the same ComfyUIs as the tests do; takes some minutes.
"""

from __future__ import annotations

import sys

import pytest
from load_pack import ROOT
from real_host import METHODS, is_old
from tiny_checkpoints import FAMILIES, FIRST_RELEASE

NAMES = {
    "wan21_t2v": "Wan 2.1 T2V",
    "wan21_i2v": "Wan 2.1 I2V",
    "wan22_t2v_high": "Wan 2.2 T2V A14B, both experts",
    "wan22_i2v_high": "Wan 2.2 I2V A14B, both experts",
    "wan22_5b": "Wan 2.2 TI2V 5B",
    "wan_vace": "Wan VACE",
    "wan_fun_control": "Wan Fun Control, with reference image",
    "wan_phantom": "Wan Phantom",
    "wan_s2v": "Wan 2.2 S2V",
    "wan_humo": "Wan HuMo",
    "wan_animate": "Wan 2.2 Animate",
    "wan_scail": "Wan SCAIL",
    "wan_bernini": "Wan Bernini",
    "hunyuan_t2v": "HunyuanVideo T2V",
    "hunyuan_i2v": "HunyuanVideo I2V",
    "hunyuan_custom": "HunyuanVideo Custom",
    "hunyuan15": "HunyuanVideo 1.5",
    "cogvideox": "CogVideoX T2V",
    "cogvideox_i2v": "CogVideoX I2V",
    "kandinsky5": "Kandinsky 5",
}
REASONS = {"unseen": "dense: this ComfyUI hands the model's attention no options"}
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
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.failed.append(report.nodeid)
        if report.when == "call" or report.skipped:
            version, family, method = report.nodeid.split("[")[1].rstrip("]").split("-")
            if is_old(version):
                return
            reports = dict(report.user_properties).get("reports")
            self.text[version, family, method] = _cell(reports) if reports else f"from {FIRST_RELEASE.get(family, '?')}"


def _cell(reports: list[dict]) -> str:
    if all(report["sparse_calls"] for report in reports):
        return " / ".join(f"{report['density']:.2f}" for report in reports)
    return REASONS.get(next(iter(reports[0]["dense_reasons"])), f"dense: {', '.join(reports[0]['dense_reasons'])}")


def main() -> int:
    """Runs the renders and writes the table; 1 if a render failed or a cell is empty."""
    cells = Cells()
    pytest.main(["-q", str(ROOT / "tests/host/test_render.py"), "-k", "test_every_family_samples"], plugins=[cells])
    versions = sorted({version for version, _, _ in cells.text}, key=lambda text: [int(part) for part in text.split(".")])
    if not versions:
        print("no render to tell of: set COMFYUI_PATH to a ComfyUI")
        return 1
    columns = [(version, method) for version in versions for method in METHODS]
    lines = ["| model | " + " | ".join(f"{version} {METHODS[method]}" for version, method in columns) + " |"]
    lines.append("|---|" + "---|" * len(columns))
    for family in (family for family in FAMILIES if not family.endswith("_low")):
        found = [cells.text.get((version, family, method), "") for version, method in columns]
        lines.append(f"| {NAMES[family]} | " + " | ".join(found) + " |")
    (ROOT / "docs" / "compatibility.md").write_text(HEAD + "\n".join(lines) + "\n")
    empty = any(line.count("|  |") for line in lines)
    print(*cells.failed, sep="\n")
    return int(bool(cells.failed) or empty)


if __name__ == "__main__":
    sys.exit(main())
