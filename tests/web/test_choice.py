"""Which inputs of SVG2 are greyed, and that they keep their values."""

from __future__ import annotations

import json

import pytest
from real_host import METHODS
from workflow_render import NAMES, WORKFLOWS

OF_OTHER_CHOICES = {
    "density": {"target_error", "top_p", "min_keep"},
    "target_error": {"top_p", "density_start", "min_keep"},
    "top_p": {"density", "target_error", "density_start", "score_every"},
}
SHOW_ADVANCED = "on => app.extensionManager.setting.set('Comfy.Node.AlwaysShowAdvancedWidgets', on)"


@pytest.fixture
def node(comfy):
    """Id of an SVG2 node with its defaults, in view, unfolded."""
    if comfy.vue:
        comfy.evaluate(SHOW_ADVANCED, True)
    yield comfy.add("SVG2Attention")
    if comfy.vue:
        comfy.evaluate(SHOW_ADVANCED, False)


def greyed(comfy, node: str) -> set[str]:
    """What a person cannot change."""
    comfy.settle()
    return set(comfy("greyed", node))


def in_prompt(comfy, node: str) -> dict:
    """The inputs that would be sent."""
    return comfy.evaluate("async () => (await app.graphToPrompt()).output")[node]["inputs"]


def test_what_the_choice_does_not_use_is_greyed_and_keeps_its_value(comfy, node):
    assert greyed(comfy, node) == OF_OTHER_CHOICES["density"]
    own = {"density": 0.4, "density_start": 1.2, "target_error": 0.035, "top_p": 0.8, "min_keep": 0.05, "score_every": 4}
    for choice in ("top_p", "target_error", "density", "top_p"):
        if comfy("values", node)["choose_by"] != choice:
            comfy.choose(node, "choose_by", choice)
        assert greyed(comfy, node) == OF_OTHER_CHOICES[choice]
        for name, value in own.items():
            if name not in OF_OTHER_CHOICES[choice]:
                comfy.enter(node, name, value)
    assert own.items() <= comfy("values", node).items() and in_prompt(comfy, node) == comfy("values", node)


def test_a_preset_that_chooses_otherwise_greys_others(comfy, node):
    presets = comfy.host.server.object_info()["SVG2Attention"]["input"]["optional"]["preset"][1]["presets"]
    of_choice = {preset["choose_by"]: name for name, preset in presets.items()}
    assert of_choice.keys() == OF_OTHER_CHOICES.keys()
    for choice in ("top_p", "target_error", "density"):
        comfy.choose(node, "preset", of_choice[choice])
        assert greyed(comfy, node) == OF_OTHER_CHOICES[choice]
        assert comfy("values", node)["choose_by"] == choice
    comfy.choose(node, "choose_by", "top_p")
    assert greyed(comfy, node) == OF_OTHER_CHOICES["top_p"] and comfy("values", node)["preset"] == "Custom"


def test_saving_and_loading_keep_all(comfy, node):
    comfy.enter(node, "density", 0.31)
    comfy.choose(node, "choose_by", "top_p")
    comfy.enter(node, "top_p", 0.8)
    values, workflow = comfy("values", node), comfy.saved()
    comfy.clear()
    comfy.load(workflow)
    assert comfy("values", node) == values and greyed(comfy, node) == OF_OTHER_CHOICES["top_p"]
    assert in_prompt(comfy, node) == values


def test_a_workflow_whose_preset_chooses_otherwise_greys_by_the_preset(comfy, node):
    workflow = comfy.saved()
    workflow["nodes"][0]["widgets_values"][0] = "Turbo (paper)"
    comfy.load(workflow)
    assert comfy("values", node)["choose_by"] == "top_p" and greyed(comfy, node) == OF_OTHER_CHOICES["top_p"]


def test_a_copy_keeps_all(comfy, node):
    comfy.enter(node, "density", 0.31)
    comfy.choose(node, "choose_by", "top_p")
    comfy.select(node)
    comfy.page.keyboard.press("Control+c")
    comfy.page.keyboard.press("Control+v")
    comfy.page.wait_for_function("() => app.graph.nodes.length === 2")
    (copy,) = comfy.evaluate("id => app.graph.nodes.map(node => String(node.id)).filter(other => other !== id)", node)
    assert comfy("values", copy) == comfy("values", node) and greyed(comfy, copy) == OF_OTHER_CHOICES["top_p"]
    comfy.evaluate("id => { const { pos } = tests.node(id); tests.node(id).pos = [pos[0] + 900, pos[1]]; }", copy)
    comfy.choose(copy, "choose_by", "density")
    assert greyed(comfy, copy) == OF_OTHER_CHOICES["density"] and greyed(comfy, node) == OF_OTHER_CHOICES["top_p"]


def test_undo_and_redo_keep_all(comfy, node):
    comfy.enter(node, "density", 0.31)
    comfy.load(comfy.saved())  # where undo begins
    before = comfy("values", node)
    comfy.choose(node, "choose_by", "top_p")
    after = comfy("values", node)
    chosen = "([id, choice]) => tests.values(id).choose_by === choice"
    comfy.page.mouse.click(60, 900)
    comfy.page.keyboard.press("Control+z")
    comfy.page.wait_for_function(chosen, arg=[node, "density"])
    assert comfy("values", node) == before and greyed(comfy, node) == OF_OTHER_CHOICES["density"]
    comfy.page.keyboard.press("Control+y")
    comfy.page.wait_for_function(chosen, arg=[node, "top_p"])
    assert comfy("values", node) == after and greyed(comfy, node) == OF_OTHER_CHOICES["top_p"]


def test_a_choice_that_comes_by_a_link_greys_nothing_else(comfy, node):
    """What it will be is not known before the run."""
    slot = comfy.evaluate("id => tests.node(id).inputs.findIndex(input => input.name === 'choose_by')", node)
    comfy.evaluate(
        """([id, slot]) => {
            const source = LiteGraph.createNode("PrimitiveNode");
            app.graph.add(source);
            source.connect(0, tests.node(id), slot);
        }""",
        [node, slot],
    )
    assert greyed(comfy, node) <= {"choose_by"}
    comfy.evaluate("([id, slot]) => tests.node(id).disconnectInput(slot)", [node, slot])
    assert greyed(comfy, node) == OF_OTHER_CHOICES[comfy("values", node)["choose_by"]]


def test_on_the_outside_of_a_subgraph_all_can_be_set(comfy, node):
    """The page does not call a node back whose choice is set outside."""
    outside = comfy.evaluate(
        """id => {
            const { node, subgraph } = app.graph.convertToSubgraph(new Set([tests.node(id)]));
            const [inner] = subgraph.nodes;
            for (const name of ["target_error", "choose_by"]) {
                const slot = inner.inputs.find((input) => input.name === name);
                subgraph.addInput(name, slot.type).connect(slot, inner);
            }
            return String(node.id);
        }""",
        node,
    )
    comfy.load(comfy.saved())
    assert greyed(comfy, outside) == set()
    comfy.choose(outside, "choose_by", "target_error")
    comfy.enter(outside, "target_error", 0.035)
    (sent,) = comfy.evaluate("async () => Object.values((await app.graphToPrompt()).output)")
    assert (sent["inputs"]["choose_by"], sent["inputs"]["target_error"]) == ("target_error", 0.035)


def test_of_svg_nothing_is_greyed(comfy):
    assert greyed(comfy, comfy.add("SVGAttention")) == set()


@pytest.mark.parametrize("name", NAMES)
def test_the_example_workflows_grey_by_their_presets(comfy, name):
    comfy.load(json.loads((WORKFLOWS / f"{name}.json").read_text()))
    for each in comfy.saved()["nodes"]:
        if each["type"] in METHODS:
            marked = comfy.evaluate("id => tests.node(id).widgets.filter(w => w.disabled).map(w => w.name)", each["id"])
            choice = comfy("values", each["id"]).get("choose_by")
            assert set(marked) == OF_OTHER_CHOICES.get(choice, set())
