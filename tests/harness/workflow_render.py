"""Example workflows as prompts: as the page would send them, and less their downloads: tiny models, few steps, small videos."""

from __future__ import annotations

import copy

from load_pack import ROOT
from tiny_checkpoints import FAMILIES
from tiny_prompts import node

WORKFLOWS = ROOT / "example_workflows"
FILES = sorted(file.stem for file in WORKFLOWS.glob("*.json"))
FOR_RAYLIGHT = [name for name in FILES if name.endswith("_raylight")]  # whose nodes come from there
NAMES = [name for name in FILES if name not in FOR_RAYLIGHT]
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
TEXT_TOKENS, STEPS = 12, 4
SIZE = {"width": 192, "height": 128, "length": 17, "batch_size": 1}
STEP_INPUTS = ("steps", "start_at_step", "end_at_step")
SEED_INPUTS = ("seed", "noise_seed")
CLUSTER_INPUTS = ("q_clusters", "k_clusters")


def to_prompt(workflow: dict, object_info: dict) -> dict:
    """API prompt `{id: {"class_type", "inputs"}}` of a workflow as the page saves it (version 0.4, no subgraphs).

    A bypassed node hands on its first input of the output's type.

    Args:
        object_info: the server's /object_info, for the names and the order of the widgets.
    """
    nodes = {saved["id"]: saved for saved in workflow["nodes"] if saved["type"] not in NOTES}
    origins = {link: origin for link, *origin in workflow["links"]}

    def source(link: int) -> list:
        node_id, slot, *_ = origins[link]
        if nodes[node_id]["mode"] != BYPASSED:
            return [str(node_id), slot]
        kind = nodes[node_id]["outputs"][slot]["type"]
        return source(next(entry["link"] for entry in nodes[node_id]["inputs"] if entry["type"] == kind))

    prompt = {}
    for saved in (saved for saved in nodes.values() if saved["mode"] != BYPASSED):
        links = {entry["name"]: source(entry["link"]) for entry in saved["inputs"] if entry["link"] is not None}
        values = _widget_values(saved, object_info[saved["type"]]["input"])
        prompt[str(saved["id"])] = node(saved["type"], **values | links)
    return prompt


def _widget_values(saved_node: dict, schema: dict) -> dict:
    """Widget name -> value, in the page's order."""
    saved, values = iter(saved_node["widgets_values"]), {}
    for name, (kind, *options) in (schema.get("required", {}) | schema.get("optional", {})).items():
        if (isinstance(kind, list) or kind in WIDGET_TYPES) and not (options and options[0].get("forceInput")):
            if (value := next(saved, None)) is not None:
                values[name] = value
            if name in SEED_INPUTS:
                next(saved, None)  # the page keeps what it does with a seed after each run
    return values


def tiny_version(prompt: dict) -> dict:
    """A copy of an example workflow's API prompt that runs without downloads.

    Tiny checkpoints stand in for the models and random embeddings for the text; node "save" (SaveLatent) takes
    the place of the VAE decoder and all behind it. Of the sparse attention nodes only what depends on the
    sequence length changes: min_tokens becomes 0 and the clusters shrink with the number of tokens, for which the preset
    becomes "Custom". The slices of KSamplerAdvanced shrink with the steps.
    """
    prompt = {name: each for name, each in copy.deepcopy(prompt).items() if each["class_type"] != "SaveVideo"}

    def of(*kinds: str) -> list[dict]:
        return [each for each in prompt.values() if each["class_type"] in kinds]

    loaders = [each["inputs"] for each in of("UNETLoader")]
    families = [STAND_INS[inputs["unet_name"]] for inputs in loaders]
    for inputs, family in zip(loaders, families, strict=True):
        inputs |= {"unet_name": f"{family}.safetensors", "weight_dtype": "default"}
    for index, text in enumerate(of("CLIPTextEncode")):
        text |= node("SVGDemoConditioning", tokens=TEXT_TOKENS, seed=1000 + index, **FAMILIES[families[0]].conditioning)
    size = of("EmptyHunyuanLatentVideo")[0]["inputs"]
    before, after = (each["width"] * each["height"] * (each["length"] + 3) for each in (size, SIZE))
    fewer_tokens = after / before
    size |= SIZE
    fewer_steps = STEPS / max(each["inputs"].get("steps", 0) for each in prompt.values())
    for inputs in (each["inputs"] for each in prompt.values()):
        inputs |= {name: round(inputs[name] * fewer_steps) for name in STEP_INPUTS if name in inputs}
        inputs |= {name: max(1, round(inputs[name] * fewer_tokens)) for name in CLUSTER_INPUTS if name in inputs}
        if "min_tokens" in inputs:
            inputs |= {"min_tokens": 0, "preset": "Custom"}
    (decoder,) = of("VAEDecode", "VAEDecodeTiled")
    return prompt | {"save": node("SaveLatent", samples=decoder["inputs"]["samples"], filename_prefix="latents/workflow")}
