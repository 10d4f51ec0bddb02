"""API prompts that sample a tiny checkpoint with core nodes and the SVGDemo helper nodes: no VAE, no text encoder."""

from collections.abc import Callable
from dataclasses import dataclass, field

from tiny_checkpoints import (
    COGVIDEOX_TEXT_WIDTH,
    HUMO_AUDIO_LAYERS,
    HUMO_AUDIO_WIDTH,
    HUMO_AUDIO_WINDOW,
    HUNYUAN_POOLED_WIDTH,
    HUNYUAN_TEXT_WIDTH,
    KANDINSKY_TEXT_WIDTH,
    S2V_AUDIO_LAYERS,
    S2V_AUDIO_WIDTH,
    SIGLIP_WIDTH,
    WAN_TEXT_WIDTH,
    WAN_VISION_WIDTH,
)


@dataclass(frozen=True)
class Recipe:
    """What a family is fed with.

    Attributes:
        channels: of the latent.
        downscale: pixels per latent cell, along height and width.
        conditioning: inputs of SVGDemoConditioning beside tokens and seed.
        reference: whether a reference latent is given as well.
        tensors: what else the conditioning carries: key -> shape, a function of the latent's frames, height and width.
        for_negative: whether the negative conditioning carries these too.
    """

    channels: int = 16
    downscale: int = 8
    conditioning: dict = field(default_factory=lambda: {"width": WAN_TEXT_WIDTH})
    reference: bool = False
    tensors: dict[str, Callable[[int, int, int], tuple]] = field(default_factory=dict)
    for_negative: bool = True


WAN = Recipe()
WAN_VISION = {"width": WAN_TEXT_WIDTH, "vision_tokens": 257, "vision_width": WAN_VISION_WIDTH}
HUNYUAN = Recipe(conditioning={"width": HUNYUAN_TEXT_WIDTH, "pooled": HUNYUAN_POOLED_WIDTH})
KANDINSKY = Recipe(conditioning={"width": KANDINSKY_TEXT_WIDTH, "pooled": HUNYUAN_POOLED_WIDTH})
COGVIDEOX = Recipe(conditioning={"width": COGVIDEOX_TEXT_WIDTH})
LISTS = {"context_latents"}  # keys of the conditioning that hold a list of tensors
RECIPES = {
    "wan21_t2v": WAN,
    "wan21_i2v": Recipe(conditioning=WAN_VISION),
    "wan22_t2v_high": WAN,
    "wan22_t2v_low": WAN,
    "wan22_i2v_high": WAN,
    "wan22_i2v_low": WAN,
    "wan22_5b": Recipe(channels=48, downscale=16),
    "wan_vace": WAN,
    "wan_fun_control": Recipe(conditioning=WAN_VISION, reference=True),
    # Two reference images.
    "wan_phantom": Recipe(tensors={"time_dim_concat": lambda t, h, w: (1, 16, 2, h, w)}),
    # A control video, and 73 frames before the clip.
    "wan_s2v": Recipe(
        reference=True,
        tensors={
            "audio_embed": lambda t, h, w: (1, S2V_AUDIO_LAYERS, S2V_AUDIO_WIDTH, 4 * t),
            "control_video": lambda t, h, w: (1, 16, t, h, w),
            "reference_motion": lambda t, h, w: (1, 16, 19, h, w),
        },
    ),
    "wan_humo": Recipe(
        reference=True,
        tensors={"audio_embed": lambda t, h, w: (1, t, HUMO_AUDIO_WINDOW, HUMO_AUDIO_LAYERS, HUMO_AUDIO_WIDTH)},
    ),
    "wan_animate": Recipe(conditioning=WAN_VISION, tensors={"pose_video_latent": lambda t, h, w: (1, 16, t - 1, h, w)}),
    # The poses have half the resolution.
    "wan_scail": Recipe(
        conditioning=WAN_VISION,
        reference=True,
        tensors={"pose_video_latent": lambda t, h, w: (1, 16, t, h // 2, w // 2)},
    ),
    # A video to edit.
    "wan_bernini": Recipe(tensors={"context_latents": lambda t, h, w: (1, 16, t, h, w)}),
    "hunyuan_t2v": HUNYUAN,
    "hunyuan_i2v": HUNYUAN,
    "hunyuan_custom": Recipe(
        conditioning=HUNYUAN.conditioning, tensors={"ref_latent": lambda t, h, w: (1, 16, 1, h, w)}, for_negative=False
    ),
    "hunyuan15": Recipe(
        channels=32,
        downscale=16,
        conditioning={"width": HUNYUAN_TEXT_WIDTH, "byt5_tokens": 7, "vision_tokens": 9, "vision_width": SIGLIP_WIDTH},
    ),
    "cogvideox": COGVIDEOX,
    "cogvideox_i2v": COGVIDEOX,
    "kandinsky5": KANDINSKY,
}


def tiny_prompt(
    family: str,
    *,
    unet: str,
    unet_low: str | None = None,
    steps: int = 2,
    cfg: float = 1.0,
    seed: int = 0,
    width: int = 64,
    height: int = 64,
    frames: int = 9,
    batch: int = 1,
    text_tokens: int = 12,
    negative_tokens: int | None = None,
    model_patch: Callable | None = None,
) -> dict:
    """API prompt: loader "model", sampler "sampler" (KSampler), "save" (SaveLatent), and what these need.

    Args:
        family: a name in RECIPES.
        unet: file name of the checkpoint in the models/diffusion_models folder.
        unet_low: low-noise expert: loader "model_low" takes over for the later half of the steps; then
            "sampler_high" and "sampler" are KSamplerAdvanced.
        cfg: 1 runs the positive conditioning alone.
        width, height: pixels; multiples of 8 (16 for wan22_5b and hunyuan15).
        frames: of the video, 4n + 1; the latent has n + 1.
        text_tokens: length of the positive conditioning.
        negative_tokens: of the negative one; the same length when None, and the host then batches the two.
        model_patch: `(prompt, link) -> link`, adds nodes to the prompt between a loader and its sampler.
    """
    recipe = RECIPES[family]
    cells = {"height": height // recipe.downscale, "width": width // recipe.downscale}
    latent_frames = (frames - 1) // 4 + 1
    prompt = {"latent": _node("SVGDemoLatent", channels=recipe.channels, frames=latent_frames, batch=batch, **cells)}
    lengths = {"positive": text_tokens, "negative": text_tokens if negative_tokens is None else negative_tokens}
    conditioning = {}
    for offset, (name, tokens) in enumerate(lengths.items()):
        prompt[name] = _node("SVGDemoConditioning", tokens=tokens, seed=1000 + offset, **recipe.conditioning)
        conditioning[name] = [name, 0]
        if recipe.reference:
            prompt[f"{name}_reference"] = _node("ReferenceLatent", conditioning=[name, 0], latent=["reference", 0])
            conditioning[name] = [f"{name}_reference", 0]
        tensors = recipe.tensors if name == "positive" or recipe.for_negative else {}
        for number, (key, shape) in enumerate(tensors.items()):
            sizes = ",".join(str(size) for size in shape(latent_frames, *cells.values()))
            tensor = {"key": key, "shape": sizes, "seed": 2000 + number, "as_list": key in LISTS}
            prompt[f"{name}_{key}"] = _node("SVGDemoConditioningTensor", conditioning=conditioning[name], **tensor)
            conditioning[name] = [f"{name}_{key}", 0]
    if recipe.reference:
        prompt["reference"] = _node("SVGDemoLatent", channels=recipe.channels, frames=1, batch=1, **cells)

    def load(node_id: str, file: str) -> list:
        prompt[node_id] = _node("UNETLoader", unet_name=file, weight_dtype="default")
        return model_patch(prompt, [node_id, 0]) if model_patch else [node_id, 0]

    common = {"steps": steps, "cfg": cfg, "sampler_name": "euler", "scheduler": "simple", **conditioning}
    model = load("model", unet)
    if unet_low is None:
        prompt["sampler"] = _node("KSampler", model=model, latent_image=["latent", 0], seed=seed, denoise=1.0, **common)
    else:
        half = steps // 2
        common["noise_seed"] = seed
        first_half = {"start_at_step": 0, "end_at_step": half, "latent_image": ["latent", 0]}
        second_half = {"start_at_step": half, "end_at_step": steps, "latent_image": ["sampler_high", 0]}
        prompt["sampler_high"] = _node(
            "KSamplerAdvanced", model=model, add_noise="enable", return_with_leftover_noise="enable", **first_half, **common
        )
        prompt["sampler"] = _node(
            "KSamplerAdvanced",
            model=load("model_low", unet_low),
            add_noise="disable",
            return_with_leftover_noise="disable",
            **second_half,
            **common,
        )
    prompt["save"] = _node("SaveLatent", samples=["sampler", 0], filename_prefix=f"latents/{family}")
    return prompt


def _node(class_type: str, **inputs) -> dict:
    return {"class_type": class_type, "inputs": inputs}
