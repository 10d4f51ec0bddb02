"""Example workflows as prompts: as the page would send them, and less their downloads: tiny models, few steps, small videos."""

from __future__ import annotations

import copy

from load_pack import ROOT
from tiny_checkpoints import FAMILIES

WORKFLOWS = ROOT / "example_workflows"
WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3"}
NOTES = {"Note", "MarkdownNote"}
BYPASSED = 4
# Which tiny checkpoint stands in for a file that the example workflows load.
STAND_INS = {
    "wan2.1_t2v_14B_fp8_scaled.safetensors": "wan21_t2v",
    "wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors": "wan22_t2v_high",
    "wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors": "wan22_t2v_low",
    "hunyuan_video_t2v_720p_bf16.safetensors": "hunyuan_t2v",
}
TEXT_TOKENS = 12
STEP_INPUTS = ("steps", "start_at_step", "end_at_step")
SEED_INPUTS = ("seed", "noise_seed")
CLUSTER_INPUTS = ("q_clusters", "k_clusters")


def to_prompt(workflow: dict, object_info: dict) -> dict:
    """API prompt `{id: {"class_type", "inputs"}}` of a workflow as the page saves it (version 0.4, no subgraphs).

    A bypassed node hands on its first input of the output's type. What a workflow does not hold gets its default.

    Args:
        object_info: the server's /object_info, for the names and the order of the widgets.
    """
    nodes = {node["id"]: node for node in workflow["nodes"] if node["type"] not in NOTES}
    origins = {link: origin for link, *origin in workflow["links"]}

    def source(link: int) -> list:
        node_id, slot, *_ = origins[link]
        node = nodes[node_id]
        if node["mode"] != BYPASSED:
            return [str(node_id), slot]
        kind = node["outputs"][slot]["type"]
        return source(next(entry["link"] for entry in node["inputs"] if entry["type"] == kind))

    prompt = {}
    for node in (node for node in nodes.values() if node["mode"] != BYPASSED):
        links = {entry["name"]: source(entry["link"]) for entry in node["inputs"] if entry["link"] is not None}
        values = _widget_values(node, object_info[node["type"]]["input"])
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": values | links}
    return prompt


def _widget_values(node: dict, schema: dict) -> dict:
    """Widget name -> value, in the page's order."""
    saved, values = iter(node["widgets_values"]), {}
    for name, (kind, *rest) in (schema.get("required", {}) | schema.get("optional", {})).items():
        options = rest[0] if rest else {}
        if (isinstance(kind, list) or kind in WIDGET_TYPES) and not options.get("forceInput"):
            value = next(saved, options.get("default"))
            values |= {} if value is None else {name: value}
            if name in SEED_INPUTS:
                next(saved, None)  # the page keeps what it does with a seed after each run
    return values


def tiny_version(prompt: dict, *, steps: int, width: int, height: int, frames: int, seed: int = 0) -> dict:
    """A copy of an example workflow's API prompt that runs without downloads.

    Tiny checkpoints stand in for the models and random embeddings for the text; node "save" (SaveLatent) takes
    the place of the VAE decoder and all behind it. Of the sparse attention nodes only what depends on the
    sequence length changes: min_tokens becomes 0 and the clusters shrink with the number of tokens.

    Args:
        steps: of the whole schedule; the slices of KSamplerAdvanced shrink with it.
        width, height: pixels, multiples of 16.
        frames: of the video, 4n + 1.
        seed: of every sampler.
    """
    prompt = copy.deepcopy(prompt)
    families = _load_stand_ins(prompt)
    _stand_in_for_text(prompt, families[0])
    (size,) = _inputs_of(prompt, "EmptyHunyuanLatentVideo")
    fewer_tokens = (width * height * (frames + 3)) / (size["width"] * size["height"] * (size["length"] + 3))
    fewer_steps = steps / max(node["inputs"].get("steps", 0) for node in prompt.values())
    size |= {"width": width, "height": height, "length": frames, "batch_size": 1}
    for inputs in (node["inputs"] for node in prompt.values()):
        inputs |= {name: round(inputs[name] * fewer_steps) for name in STEP_INPUTS if name in inputs}
        inputs |= {name: max(1, round(inputs[name] * fewer_tokens)) for name in CLUSTER_INPUTS if name in inputs}
        inputs |= {name: seed for name in SEED_INPUTS if name in inputs}
        if "min_tokens" in inputs:
            inputs["min_tokens"] = 0
    (decoder,) = _inputs_of(prompt, "VAEDecode", "VAEDecodeTiled")
    prompt["save"] = {
        "class_type": "SaveLatent",
        "inputs": {"samples": decoder["samples"], "filename_prefix": "latents/workflow"},
    }
    return _needed_for("save", prompt)


def _load_stand_ins(prompt: dict) -> list[str]:
    """Points the model loaders at tiny checkpoints; returns the families of these."""
    loaders = _inputs_of(prompt, "UNETLoader")
    families = [STAND_INS[inputs["unet_name"]] for inputs in loaders]
    for inputs, family in zip(loaders, families, strict=True):
        inputs |= {"unet_name": f"{family}.safetensors", "weight_dtype": "default"}
    return families


def _stand_in_for_text(prompt: dict, family: str) -> None:
    """Replaces the text encoding nodes by random embeddings, each its own."""
    for index, node in enumerate(node for node in prompt.values() if node["class_type"] == "CLIPTextEncode"):
        node["class_type"] = "SVGDemoConditioning"
        node["inputs"] = {"tokens": TEXT_TOKENS, "seed": 1000 + index, **FAMILIES[family].conditioning}


def _inputs_of(prompt: dict, *class_types: str) -> list[dict]:
    """Inputs of every node of these kinds."""
    return [node["inputs"] for node in prompt.values() if node["class_type"] in class_types]


def _needed_for(node_id: str, prompt: dict) -> dict:
    """The part of a prompt that ends in a node."""
    needed, open_ends = {}, [node_id]
    while open_ends:
        current = open_ends.pop()
        if current not in needed:
            needed[current] = prompt[current]
            open_ends += [value[0] for value in prompt[current]["inputs"].values() if isinstance(value, list)]
    return needed
