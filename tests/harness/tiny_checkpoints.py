"""Tiny checkpoints of random weights that ComfyUI loads as the real video models, and what each model is fed with."""

import json
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import tiny_shapes as tiny
import tiny_shapes_audio as tiny_audio
import tiny_shapes_cosmos as tiny_cosmos
import torch
from safetensors.torch import save_file
from tiny_inputs import (
    COSMOS,
    H3,
    HUNYUAN,
    HUNYUAN_1_5,
    KANDINSKY,
    LTX2,
    LTX2_GUIDED,
    LTX_2_3,
    LTXV,
    MOCHI,
    TEXT,
    VISION,
    keyframes,
    references,
)

# First match by name decides how a tensor is filled. The q and k norms make attention logits of standard
# deviation 2, sharp enough that leaving keys out shows; the gates and the projections after attention are
# large enough that it counts.
SHARP = ("norm_q.", "norm_k.", "q_norm", "k_norm", "norm_k_img.", "query_norm.", "key_norm.", "to_q.1.", "to_k.1.")
SPREADS = {
    0.02: (".bias",),
    0.4: ("modulation", "_mod.", "time_projection", "adaln", "scale_shift_table", ".mod_", "final_layer.mod."),
    2.0: ("self_attn.o.", "_attn_proj.", ".linear2.", ".attn1.to_out."),
    4.0: ("attn_out.", "self_attention.out_layer.", "norm1.linear."),
    8.0: (".attn.out_proj.",),
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
        values: as `tensors`, but key -> a JSON value in which {"randn": shape} stands for a tensor.
        for_negative: whether the negative conditioning carries these too.
        audio: shape of the latent's sound without the batch, a function of the latent's frames, of a model that makes both.
        guide: strength of a picture given by LTXVAddGuide; 0 is for none.
        guide_every: along height and width, how many of its tokens there is one left of.
        config: takes the place of what the host finds in the checkpoint, where it takes sizes for granted.
        metadata: the same as the checkpoint's own, for families of which the host reads that.
        one_video: whether the host refuses a batch of two.
        dense: why our nodes leave it dense, as a run's report has it; "" where they do not.
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
    values: dict[str, Callable[[int, int, int], object]] = field(default_factory=dict)
    for_negative: bool = True
    audio: Callable[[int], tuple] | None = None
    guide: float = 0.0
    guide_every: int = 1
    config: dict = field(default_factory=dict)
    metadata: dict = field(default_factory=dict)
    one_video: bool = False
    dense: str = ""


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
    # The persons in the poses and in the reference are marked.
    "wan_scail2": Family(
        "Wan SCAIL 2",
        tiny.wan_scail2(),
        since="0.25.0",
        conditioning=VISION,
        reference=True,
        tensors={
            "pose_video_latent": lambda t, h, w: (1, 16, t, h // 2, w // 2),
            "driving_mask_28ch": lambda t, h, w: (1, t, tiny.SCAIL_MASK_CHANNELS, h // 2, w // 2),
            "ref_mask_28ch": lambda t, h, w: (1, t + 1, tiny.SCAIL_MASK_CHANNELS, h, w),
        },
    ),
    "wan_animate2": Family(
        "Wan Animate 2", tiny.wan(36, vision=True), since="0.31.0", conditioning=VISION, metadata={"model_type": "animate2"}
    ),
    # Attention is called for one frame at a time.
    "wan_animate2_posed": Family(
        "Wan Animate 2, with poses",
        tiny.wan(36, vision=True),
        since="0.31.0",
        conditioning=VISION,
        metadata={"model_type": "animate2"},
        tensors={"pose_video_latent": lambda t, h, w: (1, 16, t - 1, h, w)},
        dense="layout",
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
    "kandinsky5": Family("Kandinsky 5", tiny.kandinsky5(64), since="0.4.0", conditioning=KANDINSKY),
    "kandinsky5_pro": Family(
        "Kandinsky 5 Pro",
        tiny.kandinsky5(128),
        since="0.4.0",
        conditioning=KANDINSKY,
        config={"axes_dims": (32, 48, 48)},
    ),
    "minimax_h3": Family("MiniMax-H3", tiny_audio.minimax_h3(), **H3),
    "minimax_h3_fl2va": Family(
        "MiniMax-H3, first and last frame",
        tiny_audio.minimax_h3(),
        **H3,
        values={"minimax_keyframes": keyframes, "minimax_frame_count": lambda t, h, w: 4 * t - 3},
        for_negative=False,
    ),
    "minimax_h3_ref2va": Family(
        "MiniMax-H3, with references", tiny_audio.minimax_h3(), **H3, values={"minimax_refs": references}, for_negative=False
    ),
    "ltx2": Family("LTX-2", tiny_audio.ltx2(), **LTX2),
    "ltx23": Family("LTX-2.3", tiny_audio.ltx2(gated=True), **LTX2 | LTX_2_3),
    "ltx2_keyframes": Family("LTX-2, keyframe", tiny_audio.ltx2(), **LTX2_GUIDED, guide=1.0),
    "ltx2_guide_part": Family(
        "LTX-2, keyframe at half resolution (IC-LoRA)",
        tiny_audio.ltx2(),
        **LTX2_GUIDED | {"since": "0.22.0"},
        guide=1.0,
        guide_every=2,
    ),
    # The host calls attention for the video and for the keyframe in turn; before, all at once with a mask.
    "ltx2_guide_weak": Family(
        "LTX-2, keyframe of strength 0.6", tiny_audio.ltx2(), **LTX2_GUIDED | {"since": "0.22.0"}, guide=0.6, dense="layout"
    ),
    "ltxv": Family("LTX-Video", tiny_audio.ltxv(), **LTXV),
    "cosmos1": Family("Cosmos 1", tiny_cosmos.cosmos1(), **COSMOS),
    "cosmos_predict2": Family("Cosmos Predict 2", tiny_cosmos.cosmos_predict2(), **COSMOS),
    "mochi": Family("Mochi", tiny_cosmos.mochi(), channels=12, **MOCHI),
}
LISTS = {"context_latents"}  # keys of the conditioning that hold a list of tensors


def parts(version: str) -> list[int]:
    """What versions are compared by."""
    return [int(part) for part in version.split(".")[:3]]


def families_for(version: str) -> list[str]:
    """The names in FAMILIES that a ComfyUI of this version loads."""
    return [name for name, family in FAMILIES.items() if parts(version) >= parts(family.since)]


def write_checkpoint(name: str, folder: Path) -> Path:
    """Write the checkpoint of a family, float16, as `<folder>/<name>.safetensors`; 8 to 20 MB, hunyuan15 33, mochi 30.

    Other names have other weights, so that the high- and the low-noise expert of Wan 2.2 differ.
    """
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    weights = {key: _fill(key, shape, generator) for key, shape in FAMILIES[name].shapes.items()}
    file = Path(folder) / f"{name}.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    metadata = FAMILIES[name].metadata
    save_file(weights, file, {"config": json.dumps({"transformer": metadata})} if metadata else None)
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
    """Weights that keep activations near unit variance, and frequencies of rotary positions."""
    if key == "rope.inv_freq":
        return (10_000 ** -(torch.arange(shape[0]) / shape[0])).half()
    if len(shape) == 1 and key.endswith(".weight"):
        return torch.full(shape, 1.4 if any(part in key for part in SHARP) else 1.0, dtype=torch.float16)
    spread = next((value for value, parts in SPREADS.items() if any(part in key for part in parts)), 1.0)
    if key.endswith(".weight"):
        spread /= math.sqrt(math.prod(shape[1:]))
    return (spread * torch.randn(shape, generator=generator)).half()
