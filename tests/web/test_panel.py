"""The panel as it takes the server's messages: its words, its map, its comings and goings."""

from __future__ import annotations

import pytest
from sparse_videogen.nodes.lines import run_words, step_words

LAYERS, STEPS = 5, 10
EXPLANATION = "sparse from 20% of the schedule on"


def step(node: str, number: int, run: int = 1, **changes) -> dict:
    """A message of the server: the first two steps are dense, and so is layer 0."""
    dense = number < 2
    density = [None if dense or not layer else 0.1 * layer + 0.01 * number for layer in range(LAYERS)]
    error = [None if value is None else value / 10 for value in density]
    reasons = {"start_percent": EXPLANATION} if dense else {"dense_blocks": "block 0"}
    message = dict(node=node, run=run, method="SVG2", step=number, steps=STEPS, density=density, error=error)
    heads = dict(temporal=None, kept_fraction=None if dense else 0.2, alike=None, dense_heads=None if dense else 0)
    message |= heads | dict(reasons=reasons)
    message |= changes
    return message | step_words(message, message["steps"])


def report(node: str, run: int = 1, **changes) -> dict:
    """The message that ends a run."""
    steps = [{k: v for k, v in step(node, i).items() if k not in ("node", "run", "method")} for i in range(STEPS)]
    message = dict(node=node, run=run, method="SVG2", sparse_calls=32, calls=50, steps=steps)
    message |= dict(
        density=0.31, computed=0.33, error=0.021, temporal=None, kept_fraction=0.2, alike=None, dense_heads=0, work=0.53
    )
    message |= dict(
        gpus=1,
        not_finite_calls=0,
        broken_calls=0,
        inexact_dense=None,
        kernel_failures={},
        precision="16 bit",
        precision_reason=None,
    )
    message["dense_reasons"] = {"start_percent": 10, "dense_blocks": 8}
    message["explanations"] = {"start_percent": EXPLANATION, "dense_blocks": "block 0"}
    message |= changes
    return message | run_words(message)


@pytest.fixture
def ran(comfy, node):
    """The same after a run."""
    comfy("send", "run", report(node))
    return node


def cells(comfy) -> list:
    """The map's pixels, a row of (r, g, b, a) a layer."""
    return comfy.evaluate(
        """() => {
            const map = document.querySelector(".sparse-videogen-panel canvas");
            const { data } = map.getContext("2d").getImageData(0, 0, map.width, map.height);
            return Array.from({ length: map.height }, (_, row) => Array.from({ length: map.width },
                (_, column) => [...data.slice(4 * (row * map.width + column)).slice(0, 4)]));
        }"""
    )


def test_a_node_for_raylight_shows_a_run_that_has_ended(comfy):
    """All its workers tell then."""
    node = comfy.add("SVG2AttentionRay")
    sent = report(node, gpus=2)
    comfy("send", "run", sent)
    assert comfy.panel(node)[:2] == [sent["line"], sent["heads"]] and "on 2 GPUs" in sent["line"]
    assert len(cells(comfy)) == LAYERS


@pytest.mark.parametrize("kind", ["step", "run"])
def test_it_shows_the_words_of_the_message(comfy, node, kind):
    assert comfy.panel(node) is None
    failed = {"kernel_failures": {"assign (9.0, bfloat16)": "RuntimeError: no ptxas"}, "inexact_dense": "other_pack.nodes"}
    sent = step(node, 6) if kind == "step" else report(node, **failed)
    comfy("send", kind, sent)
    assert comfy.panel(node)[:2] == [sent["line"], sent["heads"]]
    said = sent["warnings"] + sent["notes"]
    assert said and comfy.panel(node)[-len(said) :] == said
    assert comfy.page.locator(".sparse-videogen-panel li.warning").all_inner_texts() == sent["warnings"]


def test_the_map_has_a_pixel_a_layer_and_step_and_the_report_draws_the_same(comfy, node):
    for number in range(4):
        comfy("send", "step", step(node, number))
    seen = cells(comfy)
    assert (len(seen), len(seen[0])) == (LAYERS, STEPS)
    dense, blank = seen[0][0], seen[0][9]
    assert dense[3] > 0 and blank[3] == 0
    assert all(row[column] == dense for row in seen for column in (0, 1))
    assert all(pixel == dense for pixel in seen[0][:4])
    sparse = [tuple(row[3]) for row in seen[1:]]
    assert len(set(sparse)) == LAYERS - 1 and all(pixel[3] == 255 for pixel in sparse)
    assert all(row[4:] == [blank] * 6 for row in seen)
    for number in range(4, STEPS):
        comfy("send", "step", step(node, number))
    live = cells(comfy)
    comfy("send", "run", report(node))
    assert cells(comfy) == live


def test_a_new_run_starts_over_and_a_repeated_step_replaces(comfy, ran):
    comfy("send", "step", step(ran, 0, run=2))
    assert comfy.panel(ran)[0].startswith("Step 1 of 10") and cells(comfy)[1][5][3] == 0
    comfy("send", "step", step(ran, 0, run=2, density=[0.1] * LAYERS, error=[0.01] * LAYERS))
    assert len(cells(comfy)) == LAYERS and cells(comfy)[0][0][3] == 255
    # A server that was started anew counts from 1 again.
    comfy("send", "run", report(ran, run=2))
    comfy("send", "step", step(ran, 0, run=2))
    assert comfy.panel(ran)[0].startswith("Step 1 of 10")


def test_the_pointer_reads_the_map(comfy, ran):
    comfy("centre", ran)
    chart = comfy.page.locator(".sparse-videogen-panel canvas")
    chart.hover()  # waits until the panel stands still
    box = chart.bounding_box()
    for (layer, column), text in {
        (2, 5): "layer 2, step 6: density 0.25, error 2.5%",
        (0, 9): "layer 0, step 10: dense",
    }.items():
        place = {"x": (column + 0.5) / STEPS * box["width"], "y": (layer + 0.5) / LAYERS * box["height"]}
        chart.hover(position=place)
        assert text in comfy.panel(ran)
    comfy.page.mouse.move(5, 5)
    assert not any(line.startswith("layer ") for line in comfy.panel(ran))


def test_the_canvas_zooms_and_moves_under_the_pointer_on_the_panel(comfy, ran):
    comfy("centre", ran)
    view = "() => [app.canvas.ds.scale, ...app.canvas.ds.offset]"
    scale, x, y = comfy.evaluate(view)
    chart = comfy.page.locator(".sparse-videogen-panel canvas")
    chart.hover(position={"x": 40, "y": 20})
    box = chart.bounding_box()
    comfy.page.mouse.down(button="middle")
    comfy.page.mouse.move(box["x"] + 70, box["y"] + 30, steps=3)
    comfy.page.mouse.up(button="middle")
    assert comfy.evaluate(view) == pytest.approx([scale, x + 30, y + 10], abs=0.1)
    comfy.page.mouse.wheel(0, -100)
    comfy.page.wait_for_function("scale => app.canvas.ds.scale > scale", arg=scale)


def test_the_setting_takes_the_panel_away(comfy, ran):
    shown = comfy.panel(ran)
    switch = "on => app.extensionManager.setting.set('SparseVideoGen.ShowPanel', on)"
    comfy.evaluate(switch, False)
    try:
        comfy.page.wait_for_selector(".sparse-videogen-panel", state="detached")
        comfy("send", "step", step(ran, 3, run=2))
        assert comfy.panel(ran) is None
    finally:
        comfy.evaluate(switch, True)
    comfy.page.wait_for_selector(".sparse-videogen-panel")
    assert comfy.panel(ran)[0].startswith("Step 4 of 10") and shown


def test_the_workflow_is_saved_without_it(comfy, node):
    (before,) = comfy.saved()["nodes"]
    comfy("send", "run", report(node))
    comfy.settle()
    (after,) = comfy.saved()["nodes"]
    inputs = comfy.evaluate("async id => (await app.graphToPrompt()).output[id].inputs", node)
    assert not any("panel" in name for name in inputs)
    assert after["widgets_values"] == before["widgets_values"] and after["size"] == pytest.approx(before["size"], abs=1)


def test_it_is_there_again_when_the_graph_is_made_anew(comfy, ran):
    """As undo and a change of workflow do; another workflow's node of the same id has none."""
    workflow, shown = comfy.saved(), comfy.panel(ran)
    comfy.clear()
    other = comfy.add("SVG2Attention")
    assert other == ran and comfy.panel(other) is None
    comfy.load(workflow)
    comfy.wait_for_panel(ran, shown)


def test_a_message_for_no_node_here_is_passed_over(comfy, node):
    for stranger in ("77", "5:2", f"{node}:3"):
        comfy("send", "run", report(stranger))
    assert comfy.panel(node) is None


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_it_can_be_read_in_this_theme(comfy, ran, theme):
    comfy.evaluate("theme => app.extensionManager.setting.set('Comfy.ColorPalette', theme)", theme)
    try:
        comfy.settle()
        comfy.picture(f"panel-{theme}-{comfy.host.version}-{'vue' if comfy.vue else 'classic'}", ran)
        assert contrast(comfy, ".headline") > 7 and contrast(comfy, ".heads") > 3.5
    finally:
        comfy.evaluate("() => app.extensionManager.setting.set('Comfy.ColorPalette', 'dark')")


def contrast(comfy, selector: str) -> float:
    """WCAG contrast of a text in the panel with the panel's ground."""
    colours = comfy.evaluate(
        """selector => {
            const pixel = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
            const panel = document.querySelector(".sparse-videogen-panel");
            return [getComputedStyle(panel.querySelector(selector)).color, getComputedStyle(panel).backgroundColor].map(
                (colour) => {
                    pixel.fillStyle = colour;
                    pixel.fillRect(0, 0, 1, 1);
                    return [...pixel.getImageData(0, 0, 1, 1).data].slice(0, 3);
                });
        }""",
        selector,
    )
    linear = [[v / 3294.6 if v <= 10 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in colour] for colour in colours]
    dark, light = sorted(0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in linear)
    return (light + 0.05) / (dark + 0.05)
