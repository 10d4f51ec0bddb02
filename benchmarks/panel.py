"""What does the live panel cost? Whole renders of the tiny model with it on and off in turns, and what is sent for it.

    python benchmarks/panel.py --json benchmarks/results/panel.jsonl

Needs a ComfyUI, Playwright and a Chromium; the page is open and draws its panel on the machine that samples.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from measure import Rows  # loads the pack, puts demo/ and tests/harness/ on the path

# isort: split
import comfy_render
from comfy_page import newest_page
from render import METHODS, Scene

COLUMNS = ("provider", "ms", "ms_min", "ms_max", "renders", "messages", "bytes")
SCENE = Scene(frames=13, pixels=80, steps=50)
# Seconds by the server's clock, and what came for the panel meanwhile.
TIMED_RUN = """async () => {
    const times = {}, messages = [];
    const note = ({ type, detail }) => (times[type] = detail.timestamp);
    const keep = ({ detail }) => messages.push(detail);
    const listeners = { execution_start: note, execution_success: note,
        "sparse_videogen.step": keep, "sparse_videogen.run": keep };
    for (const [kind, listener] of Object.entries(listeners)) app.api.addEventListener(kind, listener);
    const result = await tests.run();
    for (const [kind, listener] of Object.entries(listeners)) app.api.removeEventListener(kind, listener);
    return { kind: result.kind, ms: times.execution_success - times.execution_start, messages };
}"""


def main() -> None:
    """A row with the panel on and one with it off."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--renders", type=int, default=8, help="of each")
    parser.add_argument("--json", type=Path, default=None, help="file to append the rows to")
    arguments = parser.parse_args()
    times, messages = {True: [], False: []}, []
    with newest_page() as comfy:
        comfy_render.install_checkpoint(comfy.host.server.base_dir)
        comfy.open()
        comfy.clear()
        comfy("build", comfy_render.prompt_of(SCENE, METHODS[-1]))
        for i in range(2 * arguments.renders + 1):  # the first warms up
            shown = i % 4 in (1, 2)  # on, off, off, on: neither is always the one after
            comfy.evaluate("on => app.extensionManager.setting.set('SparseVideoGen.ShowPanel', on)", shown)
            result = comfy.evaluate(TIMED_RUN)
            if result["kind"] != "execution_success":
                raise RuntimeError(f"the render ended in {result['kind']}")
            messages = [json.dumps(message, separators=(",", ":")) for message in result["messages"]]
            if i:
                times[shown].append(result["ms"])
    table = Rows(COLUMNS, arguments.json, "cpu")
    for shown, values in times.items():
        row = {"op": "panel", "provider": "panel on" if shown else "panel off", "renders": len(values)}
        row |= {"ms": statistics.median(values), "ms_min": min(values), "ms_max": max(values)}
        table.add(row | {"messages": len(messages), "bytes": sum(map(len, messages))})


if __name__ == "__main__":
    main()
