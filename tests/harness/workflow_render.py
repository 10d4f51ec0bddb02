"""An example workflow as it stands, less its downloads: tiny random models, few steps, a small video."""

from __future__ import annotations

import copy

from load_pack import ROOT
from tiny_prompts import RECIPES

WORKFLOWS = ROOT / "example_workflows"
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


def with_method(prompt: dict, method: str | None, object_info: dict) -> dict:
    """A copy of a prompt whose sparse attention nodes are of another kind, or gone.

    Args:
        method: "SVGAttention" or "SVG2Attention": nodes of the other kind are replaced by it, set to its defaults;
            None: they are taken out, so that the model runs dense.
        object_info: the server's /object_info.
    """
    prompt = copy.deepcopy(prompt)
    ours = {node_id: node for node_id, node in prompt.items() if node["class_type"] in METHODS.values()}
    for node_id, node in ours.items():
        model = node["inputs"]["model"]
        if method is None:
            del prompt[node_id]
            for other in prompt.values():
                other["inputs"] = {name: model if value == [node_id, 0] else value for name, value in other["inputs"].items()}
        elif node["class_type"] != method:
            defaults = {name: spec[1]["default"] for name, spec in object_info[method]["input"]["optional"].items()}
            prompt[node_id] = {"class_type": method, "inputs": {"model": model, **defaults}}
    return prompt


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
        node["inputs"] = {"tokens": TEXT_TOKENS, "seed": 1000 + index, **RECIPES[family].conditioning}


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
