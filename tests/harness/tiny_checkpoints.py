"""Tiny checkpoints of random weights that ComfyUI loads as the real video models, and what each model is fed with."""

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import tiny_shapes as tiny
import torch
from safetensors.torch import save_file

# First match by name decides how a tensor is filled. The q and k norms make attention logits of standard
# deviation 2, sharp enough that leaving keys out shows; the gates and the projections after attention are
# large enough that it counts.
SHARP = ("norm_q.", "norm_k.", "q_norm.", "k_norm.", "norm_k_img.", "query_norm.", "key_norm.")
SPREADS = {
    0.02: (".bias",),
    0.4: ("modulation", "_mod.", "time_projection"),
    2.0: ("self_attn.o.", "_attn_proj.", ".linear2."),
    4.0: ("attn_out.", "self_attention.out_layer.", "norm1.linear."),
}


@dataclass(frozen=True)
class Family:
    """A kind of model.

    Attributes:
        title: as docs/compatibility.md has it; None for what is rendered together with another.
        shapes: of the checkpoint's tensors, by name.
        since: first ComfyUI release that loads it, from 0.3.60 on, the first with the attention override.
        channels: of the latent.
        downscale: pixels per latent cell, along height and width.
        large: how many times as large a picture must be, along height and width, for as many tokens as the others' has.
        conditioning: inputs of SVGDemoConditioning beside tokens and seed.
        reference: whether a reference latent is given as well.
        tensors: what else the conditioning carries: key -> shape, a function of the latent's frames, height and width.
        for_negative: whether the negative conditioning carries these too.
    """

    title: str | None
    shapes: dict[str, tuple]
    since: str = "0.3.60"
    channels: int = 16
    downscale: int = 8
    large: int = 1
    conditioning: dict = field(default_factory=lambda: TEXT)
    reference: bool = False
    tensors: dict[str, Callable[[int, int, int], tuple]] = field(default_factory=dict)
    for_negative: bool = True


TEXT = {"width": tiny.WAN_TEXT_WIDTH}
VISION = {**TEXT, "vision_tokens": 257, "vision_width": tiny.WAN_VISION_WIDTH}
HUNYUAN = {"width": tiny.HUNYUAN_TEXT_WIDTH, "pooled": tiny.HUNYUAN_POOLED_WIDTH}
HUNYUAN_1_5 = {"width": tiny.HUNYUAN_TEXT_WIDTH, "byt5_tokens": 7, "vision_tokens": 9, "vision_width": tiny.SIGLIP_WIDTH}
KANDINSKY = {"width": tiny.KANDINSKY_TEXT_WIDTH, "pooled": tiny.HUNYUAN_POOLED_WIDTH}
FAMILIES = {
    "wan21_t2v": Family("Wan 2.1 T2V", tiny.wan(16)),
    "wan21_i2v": Family("Wan 2.1 I2V", tiny.wan(36, vision=True), conditioning=VISION),
    "wan22_t2v_high": Family("Wan 2.2 T2V A14B, both experts", tiny.wan(16)),
    "wan22_t2v_low": Family(None, tiny.wan(16)),
    "wan22_i2v_high": Family("Wan 2.2 I2V A14B, both experts", tiny.wan(36)),
    "wan22_i2v_low": Family(None, tiny.wan(36)),
    "wan22_5b": Family("Wan 2.2 TI2V 5B", tiny.wan(48, out_channels=48), channels=48, downscale=16, large=2),
    "wan_vace": Family("Wan VACE", tiny.wan(16, layers=4, vace_layers=2)),
    "wan_fun_control": Family(
        "Wan Fun Control, with reference image",
        tiny.wan(48, vision=True, reference=True),
        conditioning=VISION,
        reference=True,
    ),
    # Two reference images.
    "wan_phantom": Family("Wan Phantom", tiny.wan(16), tensors={"time_dim_concat": lambda t, h, w: (1, 16, 2, h, w)}),
    # A control video, and 73 frames before the clip.
    "wan_s2v": Family(
        "Wan 2.2 S2V",
        tiny.wan_s2v(),
        reference=True,
        tensors={
            "audio_embed": lambda t, h, w: (1, tiny.S2V_AUDIO_LAYERS, tiny.S2V_AUDIO_WIDTH, 4 * t),
            "control_video": lambda t, h, w: (1, 16, t, h, w),
            "reference_motion": lambda t, h, w: (1, 16, 19, h, w),
        },
    ),
    "wan_humo": Family(
        "Wan HuMo", tiny.wan_humo(), reference=True, tensors={"audio_embed": lambda t, h, w: (1, t, *tiny.HUMO_AUDIO)}
    ),
    "wan_animate": Family(
        "Wan 2.2 Animate",
        tiny.wan_animate(),
        conditioning=VISION,
        tensors={"pose_video_latent": lambda t, h, w: (1, 16, t - 1, h, w)},
    ),
    # The poses have half the resolution.
    "wan_scail": Family(
        "Wan SCAIL",
        tiny.wan_scail(),
        since="0.16.0",
        conditioning=VISION,
        reference=True,
        tensors={"pose_video_latent": lambda t, h, w: (1, 16, t, h // 2, w // 2)},
    ),
    # A video to edit.
    "wan_bernini": Family(
        "Wan Bernini", tiny.wan(16), since="0.25.0", tensors={"context_latents": lambda t, h, w: (1, 16, t, h, w)}
    ),
    "hunyuan_t2v": Family("HunyuanVideo T2V", tiny.hunyuan_video(16), conditioning=HUNYUAN),
    "hunyuan_i2v": Family("HunyuanVideo I2V", tiny.hunyuan_video(33), conditioning=HUNYUAN),
    "hunyuan_custom": Family(
        "HunyuanVideo Custom",
        tiny.hunyuan_video(16),
        conditioning=HUNYUAN,
        tensors={"ref_latent": lambda t, h, w: (1, 16, 1, h, w)},
        for_negative=False,
    ),
    "hunyuan15": Family(
        "HunyuanVideo 1.5", tiny.hunyuan_video_1_5(), since="0.3.71", channels=32, downscale=16, conditioning=HUNYUAN_1_5
    ),
    "cogvideox": Family("CogVideoX T2V", tiny.cogvideox(16), since="0.21.0"),
    "cogvideox_i2v": Family("CogVideoX I2V", tiny.cogvideox(32), since="0.21.0"),
    "kandinsky5": Family("Kandinsky 5", tiny.kandinsky5(), since="0.4.0", conditioning=KANDINSKY),
}
LISTS = {"context_latents"}  # keys of the conditioning that hold a list of tensors


def parts(version: str) -> list[int]:
    """What versions are compared by."""
    return [int(part) for part in version.split(".")[:3]]


def families_for(version: str) -> list[str]:
    """The names in FAMILIES that a ComfyUI of this version loads."""
    return [name for name, family in FAMILIES.items() if parts(version) >= parts(family.since)]


def write_checkpoint(name: str, folder: Path) -> Path:
    """Write the checkpoint of a family, float16, as `<folder>/<name>.safetensors`; 8 to 15 MB, hunyuan15 33.

    Other names have other weights, so that the high- and the low-noise expert of Wan 2.2 differ.
    """
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    weights = {key: _fill(key, shape, generator) for key, shape in FAMILIES[name].shapes.items()}
    file = Path(folder) / f"{name}.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, file)
    return file


def write_lora(file: Path, rank: int = 4) -> None:
    """Write a LoRA for the self-attention of `wan21_t2v`, float16, strong enough to change its video."""
    generator = torch.Generator().manual_seed(1)
    weights = {}
    for name in (f"diffusion_model.blocks.{i}.self_attn.{part}" for i in range(3) for part in "qkvo"):
        weights[f"{name}.lora_A.weight"] = torch.randn(rank, tiny.DIM, generator=generator) / math.sqrt(tiny.DIM)
        weights[f"{name}.lora_B.weight"] = torch.randn(tiny.DIM, rank, generator=generator) / math.sqrt(rank)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: weight.half() for name, weight in weights.items()}, file)


def _fill(key: str, shape: tuple, generator: torch.Generator) -> torch.Tensor:
    """Weights that keep activations near unit variance."""
    if len(shape) == 1 and key.endswith(".weight"):
        return torch.full(shape, 1.4 if any(part in key for part in SHARP) else 1.0, dtype=torch.float16)
    spread = next((value for value, parts in SPREADS.items() if any(part in key for part in parts)), 1.0)
    if key.endswith(".weight"):
        spread /= math.sqrt(math.prod(shape[1:]))
    return (spread * torch.randn(shape, generator=generator)).half()
