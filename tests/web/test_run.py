"""Real runs of tiny models, started from the page: what the panel shows is what the server did."""

from __future__ import annotations

import pytest
import torch
from comfy_host import latent
from real_host import METHODS

STEPS = 6
OURS = "svg_model"
# Keeps every message with what the panel shows of it; the pack's own listeners come first.
WATCH = """() => {
    window.seen = [];
    if (window.watching) return;
    window.watching = true;
    ["step", "run"].forEach((kind) => app.api.addEventListener(`sparse_videogen.${kind}`, ({ detail }) => {
        window.seen.push([kind, detail, tests.lines(tests.panelElement(detail.node))]);
    }));
}"""


@pytest.fixture
def build(comfy):
    """build(kind, **inputs) -> names' node ids of a workflow with a tiny model, and with a node of ours if `kind`."""

    def make(kind: str | None, **inputs) -> dict:
        ids = comfy("build", comfy.host.prompt("wan21_t2v", kind, prompt_options={"steps": STEPS}, **inputs))
        if kind:
            comfy("centre", ids[OURS])
        return ids

    return make


def run(comfy) -> tuple[dict, list]:
    """Outputs by node id, and the [kind, message, panel's lines] of the run."""
    comfy.evaluate(WATCH)
    result = comfy("run")
    assert result["kind"] == "execution_success", result["detail"]
    return result["outputs"], comfy.evaluate("() => window.seen")


def picture_of(comfy, outputs: dict, ids: dict) -> torch.Tensor:
    """The latent that a run saved."""
    (entry,) = outputs[ids["save"]]["latents"]
    return latent(comfy.host.server.base_dir / "output" / entry["subfolder"] / entry["filename"])


@pytest.mark.parametrize("kind", METHODS)
def test_the_panel_follows_a_run_to_its_end(comfy, build, kind):
    ids = build(kind)
    _, seen = run(comfy)
    *steps, (last_kind, report, final) = seen
    assert [kind for kind, *_ in seen] == ["step"] * STEPS + ["run"] == ["step"] * len(steps) + [last_kind]
    for number, (_, message, shown) in enumerate(steps):
        sparse = any(value is not None for value in message["density"])
        assert message["line"].startswith(f"Step {number + 1} of {STEPS}, {'sparse, density 0.' if sparse else 'dense'}")
        assert shown[0].startswith(message["line"])  # in one line with the rest until the page has drawn the panel
    assert not any(value is not None for value in steps[0][1]["density"])
    assert any(value is not None for value in steps[-1][1]["density"])
    assert final[:2] == [report["line"], report["heads"]] and report["heads"]
    assert final[-len(report["notes"]) :] == report["notes"]
    assert comfy.evaluate(
        "() => (({ width, height }) => [width, height])(document.querySelector('.sparse-videogen-panel canvas'))"
    ) == [STEPS, len(report["steps"][0]["density"])]
    for label, count in report["dense_reasons"].items():
        assert any(line.startswith(f"{label}: ") and line.endswith(f"({count} calls)") for line in final)
    assert comfy.panel(ids[OURS]) == final


def test_the_reason_for_staying_dense_stands_on_the_node(comfy, build):
    build("SVG2Attention", min_tokens=8192)
    _, seen = run(comfy)
    _, report, final = seen[-1]
    assert final[0] == f"All {report['calls']} calls dense"
    assert f"min_tokens: 480 tokens are fewer than 8192 ({report['calls']} calls)" in final


def test_bypassed_it_changes_nothing(comfy, build):
    plain = build(None)
    outputs, seen = run(comfy)
    dense = picture_of(comfy, outputs, plain)
    assert seen == []

    comfy.clear()
    ids = build("SVG2Attention")
    outputs, _ = run(comfy)
    assert not torch.equal(picture_of(comfy, outputs, ids), dense)

    comfy.select(ids[OURS])
    comfy.page.keyboard.press("Control+b")
    comfy.page.wait_for_function("id => tests.node(id).mode === 4", arg=ids[OURS])
    outputs, seen = run(comfy)
    assert torch.equal(picture_of(comfy, outputs, ids), dense) and seen == []


def test_in_a_subgraph_it_has_its_panel_too(comfy, build):
    ids = build("SVG2Attention")
    (outer, inner) = comfy.evaluate(
        """id => {
            const { node, subgraph } = app.graph.convertToSubgraph(new Set([tests.node(id)]));
            return [String(node.id), String(subgraph.nodes[0].id)];
        }""",
        ids[OURS],
    )
    comfy.settle()
    _, seen = run(comfy)
    _, report, final = seen[-1]
    assert report["node"] == f"{outer}:{inner}" and "calls sparse" in final[0]
    comfy.evaluate("id => app.canvas.openSubgraph(tests.node(id).subgraph, tests.node(id))", outer)
    comfy.page.locator(".sparse-videogen-panel", has_text="calls sparse").wait_for()


def test_a_preset_beside_other_numbers_runs_as_the_preset(comfy, build):
    """The page shows the preset's numbers, and the server uses them."""
    ids = build("SVG2Attention")
    presets = comfy.host.server.object_info()["SVG2Attention"]["input"]["optional"]["preset"][1]["presets"]
    name, preset = next(iter(presets.items()))
    comfy.choose(ids[OURS], "preset", name)
    _, seen = run(comfy)
    _, report, _ = seen[-1]
    used = {**report["settings"], "dense_blocks": ", ".join(map(str, report["settings"]["dense_blocks"]))}
    assert {key: used[key] for key in preset} == preset


def test_a_second_run_takes_the_place_of_the_first(comfy, build):
    ids = build("SVGAttention")
    run(comfy)
    comfy.evaluate("id => (tests.node(id).widgets.find(widget => widget.name === 'start_percent').value = 0.6)", ids[OURS])
    _, seen = run(comfy)
    assert seen[0][2][0] == f"Step 1 of {STEPS}, dense"
    assert comfy.panel(ids[OURS]) == seen[-1][2]


def test_undo_passes_over_the_panel(comfy, build):
    """A run is nothing that one undoes; and what it showed stays when the graph is made anew by an undo."""
    ids = build("SVG2Attention")
    node = ids[OURS]
    comfy.load(comfy.saved())  # where undo begins
    comfy.enter(node, "density", 0.75)
    run(comfy)
    shown = comfy.panel(node)
    comfy.page.mouse.click(60, 900)
    assert comfy("values", node)["density"] == 0.75
    comfy.page.keyboard.press("Control+z")
    comfy.page.wait_for_function("id => tests.values(id).density === 0.4", arg=node)
    comfy.wait_for_panel(node, shown)


def test_the_report_node_shows_its_picture(comfy):
    prompt = comfy.host.prompt("wan21_t2v", "SVGAttention", prompt_options={"steps": STEPS})
    prompt["report"] = {"class_type": "SVGReport", "inputs": {"model": [OURS, 0], "samples": ["sampler", 0]}}
    ids = comfy("build", prompt)
    comfy("centre", ids["report"])
    run(comfy)
    if comfy.vue:
        comfy.page.locator(f'[data-node-id="{ids["report"]}"] img').wait_for()
    else:
        comfy.page.wait_for_function("id => tests.node(id).imgs?.[0].naturalWidth > 0", arg=ids["report"])
