"""API prompts that sample a tiny checkpoint with core nodes and the SVGDemo helper nodes: no VAE, no text encoder."""

import json
from collections.abc import Callable

from tiny_checkpoints import FAMILIES, LISTS, Family


def tiny_prompt(
    family: str,
    *,
    steps: int = 4,
    cfg: float = 5.0,
    width: int | None = None,
    height: int | None = None,
    frames: int = 17,
    batch: int = 1,
    text_tokens: int = 12,
    negative_tokens: int | None = None,
    model_patch: Callable | None = None,
) -> dict:
    """API prompt: loader "model", sampler "sampler" (KSampler), "save" (SaveLatent), and what these need.

    Args:
        family: a name in FAMILIES, whose checkpoint is in the models/diffusion_models folder. Of a high-noise expert the
            low-noise one takes over for the later half of the steps, by the loader "model_low"; then "sampler_high" and
            "sampler" are KSamplerAdvanced.
        cfg: 1 runs the positive conditioning alone.
        width, height: pixels; multiples of the family's `downscale`, for HunyuanVideo 1.0, Kandinsky 5, Cosmos, Mochi and
            half of a guide of twice that. When None 8 x 12 tokens, for most 192 x 128.
        frames: of the video, 4n + 1; the latent has n + 1, also where the model's own VAE makes more or fewer.
        batch: 1 where the family is `one_video`.
        text_tokens: length of the positive conditioning.
        negative_tokens: of the negative one; the same length when None, and the host then batches the two.
        model_patch: `(prompt, link) -> link`, adds nodes to the prompt between a loader and its sampler.
    """
    recipe = FAMILIES[family]
    width, height = width or 192 * recipe.large, height or 128 * recipe.large
    cells = {"height": height // recipe.downscale, "width": width // recipe.downscale}
    latent_frames = (frames - 1) // 4 + 1
    prompt = {"latent": node("SVGDemoLatent", channels=recipe.channels, frames=latent_frames, batch=batch, **cells)}
    lengths = {"positive": text_tokens, "negative": text_tokens if negative_tokens is None else negative_tokens}
    conditioning = {}
    for offset, (name, tokens) in enumerate(lengths.items()):
        prompt[name] = node("SVGDemoConditioning", tokens=tokens, seed=1000 + offset, **recipe.conditioning)
        conditioning[name] = [name, 0]
        if recipe.reference:
            prompt[f"{name}_reference"] = node("ReferenceLatent", conditioning=[name, 0], latent=["reference", 0])
            conditioning[name] = [f"{name}_reference", 0]
        tensors = recipe.tensors if name == "positive" or recipe.for_negative else {}
        for number, (key, shape) in enumerate(tensors.items()):
            sizes = ",".join(str(size) for size in shape(latent_frames, *cells.values()))
            tensor = {"key": key, "shape": sizes, "seed": 2000 + number, "as_list": key in LISTS}
            prompt[f"{name}_{key}"] = node("SVGDemoConditioningTensor", conditioning=conditioning[name], **tensor)
            conditioning[name] = [f"{name}_{key}", 0]
        values = recipe.values if name == "positive" or recipe.for_negative else {}
        for key, value in values.items():
            text = {"value": json.dumps(value(latent_frames, *cells.values())), "seed": 2500}
            prompt[f"{name}_{key}"] = node("SVGTestConditioningValue", conditioning=conditioning[name], key=key, **text)
            conditioning[name] = [f"{name}_{key}", 0]
    if recipe.reference:
        prompt["reference"] = node("SVGDemoLatent", channels=recipe.channels, frames=1, batch=1, **cells)
    samples = ["latent", 0]
    if recipe.guide:
        conditioning, samples = _add_guide(prompt, recipe, conditioning)
    if recipe.audio:
        shape = ",".join(str(size) for size in (batch, *recipe.audio(latent_frames)))
        prompt["audio"] = node("SVGTestLatent", shape=shape)
        prompt["video_and_audio"] = node("LTXVConcatAVLatent", video_latent=samples, audio_latent=["audio", 0])
        prompt["flat"] = node("SVGTestFlatLatent", samples=["sampler", 0])
        samples = ["video_and_audio", 0]

    def load(loader: str, name: str) -> list:
        if recipe.config:
            prompt[loader] = node("SVGTestLoader", unet_name=f"{name}.safetensors", config=json.dumps(recipe.config))
        else:
            prompt[loader] = node("UNETLoader", unet_name=f"{name}.safetensors", weight_dtype="default")
        return model_patch(prompt, [loader, 0]) if model_patch else [loader, 0]

    common = {"steps": steps, "cfg": cfg, "sampler_name": "euler", "scheduler": "simple", **conditioning}
    model, low = load("model", family), family.replace("_high", "_low")
    if low == family:
        prompt["sampler"] = node("KSampler", model=model, latent_image=samples, seed=0, denoise=1.0, **common)
    else:
        half, low = steps // 2, load("model_low", low)
        slices = {
            "sampler_high": {"model": model, "latent_image": samples, "start_at_step": 0, "end_at_step": half},
            "sampler": {"model": low, "latent_image": ["sampler_high", 0], "start_at_step": half, "end_at_step": steps},
        }
        for noise, (name, part) in zip(("enable", "disable"), slices.items(), strict=True):
            noises = {"add_noise": noise, "return_with_leftover_noise": noise, "noise_seed": 0}
            prompt[name] = node("KSamplerAdvanced", **part, **noises, **common)
    prompt["save"] = node("SaveLatent", samples=["flat" if recipe.audio else "sampler", 0], filename_prefix=f"latents/{family}")
    return prompt


def _add_guide(prompt: dict, recipe: Family, conditioning: dict) -> tuple[dict, list]:
    """Gives the model a picture to begin with, and returns the links of its conditioning and of its latent."""
    prompt["vae"], prompt["picture"] = node("SVGTestVAE"), node("SVGTestImages", shape="1,64,64,3")
    guide = {"vae": ["vae", 0], "image": ["picture", 0], "latent": ["latent", 0], "frame_idx": 0, "strength": recipe.guide}
    if recipe.guide_every > 1:
        prompt["ic_lora"] = node("SVGTestICLoRA", every=recipe.guide_every)
        guide["iclora_parameters"] = ["ic_lora", 0]
    prompt["guide"] = node("LTXVAddGuide", **conditioning, **guide)
    return {"positive": ["guide", 0], "negative": ["guide", 1]}, ["guide", 2]


def node(class_type: str, **inputs) -> dict:
    """A node of a prompt."""
    return {"class_type": class_type, "inputs": inputs}
