"""The nodes under a person's hands: found, set, undone, copied, kept."""

from __future__ import annotations

import json
import re

import pytest
from real_host import METHODS, RAY
from workflow_render import NAMES, WORKFLOWS

MISSING = re.compile("missing node|nodes are missing", re.IGNORECASE)
UNKNOWN_NODES = "() => app.graph.nodes.map(node => node.type).filter(type => !(type in LiteGraph.registered_node_types))"


def presets_of(comfy, kind: str) -> dict:
    """The table that the server gave the page: preset -> widget -> value."""
    return comfy.host.server.object_info()[kind]["input"]["optional"]["preset"][1]["presets"]


def numbers(comfy, node: str, preset: dict) -> dict:
    """The node's values of a preset's widgets."""
    values = comfy("values", node)
    return {name: values[name] for name in preset}


def test_the_search_finds_it(comfy):
    has_aliases = not comfy.host.version.startswith("0.3.")
    comfy.evaluate("() => app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
    comfy.page.locator("input[role=combobox]:focus").wait_for()
    comfy.page.keyboard.type("semantic clusters" if has_aliases else "Sparse VideoGen 2")
    comfy.page.get_by_text("Sparse VideoGen 2 (SVG2)").first.wait_for()
    comfy.page.keyboard.press("Enter")
    comfy.page.wait_for_function("() => app.graph.nodes.length === 1 && app.graph.nodes[0].type === 'SVG2Attention'")


def test_its_help_opens(comfy, node):
    comfy.select(node)
    comfy.page.locator("[data-testid=info-button]").first.click()
    comfy.page.get_by_role("heading", name="Where to put it").wait_for()  # the pack's own page, not what the host makes up
    comfy.page.get_by_text("kmeans_step_iters").first.wait_for(state="attached")


@pytest.mark.parametrize("kind", [*METHODS, *RAY])
def test_a_new_node_shows_every_widget_with_its_default(comfy, kind):
    """In the order in which workflows keep their values, and all of them in the prompt."""
    node = comfy.add(kind)
    inputs = comfy.host.server.object_info()[kind]["input"]["optional"]
    assert list(comfy("values", node).items()) == [(name, spec[1]["default"]) for name, spec in inputs.items()]
    shown = "id => tests.node(id).widgets.filter(widget => widget.serialize !== false && widget.isVisible?.() !== false)"
    assert comfy.evaluate(f"{shown}.map(widget => widget.name)", node) == list(inputs)
    prompt = comfy.evaluate("async () => (await app.graphToPrompt()).output")
    assert prompt[node]["inputs"] == comfy("values", node)


@pytest.mark.parametrize("kind", [*METHODS, *RAY])
def test_a_preset_shows_its_numbers_and_a_change_makes_it_custom(comfy, kind):
    node = comfy.add(kind)
    presets, before = presets_of(comfy, kind), comfy("values", node)
    name, preset = next((name, preset) for name, preset in presets.items() if numbers(comfy, node, preset) != preset)
    comfy.choose(node, "preset", name)
    assert numbers(comfy, node, preset) == preset
    rest = before.keys() - preset.keys() - {"preset"}
    assert {name: comfy("values", node)[name] for name in rest} == {name: before[name] for name in rest}

    comfy.enter(node, "start_percent", preset["start_percent"])  # the same number: still the preset
    assert comfy("values", node)["preset"] == name
    comfy.enter(node, "end_percent", 0.9)  # no preset says anything of it
    assert comfy("values", node)["preset"] == name
    comfy.enter(node, "start_percent", 0.45)
    assert comfy("values", node) == {**before, **preset, "end_percent": 0.9, "start_percent": 0.45, "preset": "Custom"}


def test_every_preset_fits_the_widgets(comfy):
    for kind in METHODS:
        node = comfy.add(kind)
        for name, preset in presets_of(comfy, kind).items():
            comfy.evaluate(
                """([id, name]) => {
                    const { widgets } = tests.node(id);
                    const combo = widgets.find(widget => widget.name === "preset");
                    combo.value = name;
                    combo.callback(name);
                    // Some pages call back when an input loses the focus, with the value as it was.
                    for (const widget of widgets) if (widget !== combo) widget.callback?.(widget.value);
                }""",
                [node, name],
            )
            assert numbers(comfy, node, preset) == preset and comfy("values", node)["preset"] == name


def test_a_preset_is_undone_in_one_step(comfy, node):
    comfy.load(comfy.saved())  # where undo begins
    before = comfy("values", node)
    name, preset = next((name, p) for name, p in presets_of(comfy, "SVG2Attention").items() if p["q_clusters"] != 300)
    comfy.choose(node, "preset", name)
    assert comfy("values", node) == {**before, **preset, "preset": name}
    undo = "([id, cell, value]) => tests.values(id)[cell] === value"
    comfy.page.mouse.click(60, 900)
    comfy.page.keyboard.press("Control+z")
    comfy.page.wait_for_function(undo, arg=[node, "preset", "Custom"])
    assert comfy("values", node) == before
    comfy.page.keyboard.press("Control+y")
    comfy.page.wait_for_function(undo, arg=[node, "preset", name])
    assert comfy("values", node) == {**before, **preset, "preset": name}


def test_a_workflow_shows_the_numbers_of_its_preset(comfy, node):
    """Also where it was saved with others beside it, which the server would not use, and before the last input came."""
    name, preset = next((name, p) for name, p in presets_of(comfy, "SVG2Attention").items() if p["density"] != 0.25)
    workflow = comfy.saved()
    saved = workflow["nodes"][0]["widgets_values"]
    assert (saved[0], saved.pop()) == ("Custom", "16 bit")
    saved[0] = name
    comfy.load(workflow)
    values = comfy("values", node)
    assert numbers(comfy, node, preset) == preset and (values["preset"], values["precision"]) == (name, "16 bit")


def test_a_copy_has_the_settings_and_a_life_of_its_own(comfy, node):
    name, preset = next(iter(presets_of(comfy, "SVG2Attention").items()))
    comfy.choose(node, "preset", name)
    comfy.select(node)
    comfy.page.keyboard.press("Control+c")
    comfy.page.keyboard.press("Control+v")
    comfy.page.wait_for_function("() => app.graph.nodes.length === 2")
    (copy,) = comfy.evaluate("id => app.graph.nodes.map(node => String(node.id)).filter(other => other !== id)", node)
    assert comfy("values", copy) == comfy("values", node)
    comfy.enter(copy, "start_percent", 0.45)
    assert comfy("values", copy)["preset"] == "Custom" and comfy("values", node)["preset"] == name


def test_the_settings_are_there_after_a_reload(comfy, node):
    name = next(iter(presets_of(comfy, "SVG2Attention")))
    comfy.choose(node, "preset", name)
    comfy.enter(node, "end_percent", 0.85)
    values = comfy("values", node)
    comfy.page.wait_for_function("() => Object.values({ ...localStorage, ...sessionStorage }).some(v => v.includes('0.85'))")
    comfy.reload()
    comfy.page.wait_for_function("() => app.graph.nodes.some(node => node.type === 'SVG2Attention')")
    assert comfy("values", node) == values


@pytest.mark.parametrize("name", NAMES)
def test_the_example_workflow_opens_whole(comfy, name):
    workflow = json.loads((WORKFLOWS / f"{name}.json").read_text())
    comfy.load(workflow)
    assert comfy.evaluate(UNKNOWN_NODES) == [] and comfy.evaluate("() => app.graph.nodes.length") == len(workflow["nodes"])
    assert not comfy.page.get_by_text(MISSING).count()
    for saved in workflow["nodes"]:
        if saved["type"] in METHODS:
            assert list(comfy("values", saved["id"]).values()) == saved["widgets_values"]


def test_a_node_that_is_missing_would_be_seen(comfy):
    """That the test above can fail."""
    comfy.add("SVG2Attention")
    workflow = comfy.saved()
    workflow["nodes"][0]["type"] = "NoSuchNode"
    comfy.load(workflow)
    comfy.page.get_by_text(MISSING).first.wait_for()
    assert comfy.evaluate(UNKNOWN_NODES) == ["NoSuchNode"]
