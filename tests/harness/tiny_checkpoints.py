"""Write tiny checkpoints of random weights that ComfyUI loads as the real video models.

The host tells a model by the names and shapes of its tensors, so each family is a table of both, in the
names of the original releases. Width 256 (two heads of 128) and few layers: two steps take a second on a CPU.
"""

import math
import zlib
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file

DIM = 256
FFN = 512
WAN_TEXT_WIDTH, WAN_VISION_WIDTH = 4096, 1280
S2V_AUDIO_LAYERS, S2V_AUDIO_WIDTH, S2V_INJECTORS = 25, 1024, 12
HUMO_AUDIO_WINDOW, HUMO_AUDIO_LAYERS, HUMO_AUDIO_WIDTH = 8, 5, 1280
HUMO_TOKENS, HUMO_TOKEN_WIDTH = 16, 1536
HUNYUAN_TEXT_WIDTH, HUNYUAN_POOLED_WIDTH = 512, 768
BYT5_WIDTH, SIGLIP_WIDTH = 1472, 1152
COGVIDEOX_TEXT_WIDTH = 4096
KANDINSKY_TEXT_WIDTH = 3584

# First match by name decides how a tensor is filled. The q and k norms make attention logits of standard
# deviation 2, sharp enough that leaving keys out shows; the gates and the projections after attention are
# large enough that it counts.
SHARP = ("norm_q.", "norm_k.", "q_norm.", "k_norm.", "norm_k_img.", "query_norm.", "key_norm.")
CONSTANTS = dict.fromkeys(SHARP, 1.4)
SPREADS = {
    ".bias": 0.02,
    "modulation": 0.4,
    "_mod.": 0.4,
    "_modulation.": 0.4,
    "time_projection": 0.4,
    "self_attn.o.": 2.0,
    "_attn_proj.": 2.0,
    ".linear2.": 2.0,
    "attn_out.": 4.0,
    "self_attention.out_layer.": 4.0,
    "norm1.linear.": 4.0,
}


def linear(name: str, out_width: int, in_width: int) -> dict:
    """Shapes of a linear layer's weight and bias; likewise `norm` and `conv`."""
    return {f"{name}.weight": (out_width, in_width), f"{name}.bias": (out_width,)}


def norm(name: str, width: int) -> dict:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def conv(name: str, out_channels: int, in_channels: int, *kernel: int) -> dict:
    return {f"{name}.weight": (out_channels, in_channels, *kernel), f"{name}.bias": (out_channels,)}


def attention(name: str, key_width: int | None = None) -> dict:
    """Shapes of an attention layer with q and k norms, whose keys and values come from `key_width` channels."""
    shapes = {f"{name}.norm_{part}.weight": (DIM,) for part in "qk"}
    for part, width in {"q": DIM, "k": key_width or DIM, "v": key_width or DIM, "o": DIM}.items():
        shapes |= linear(f"{name}.{part}", DIM, width)
    return shapes


def image_projection(name: str, width: int) -> dict:
    """Shapes of the MLP that takes vision tokens of `width` to DIM."""
    return (
        norm(f"{name}.proj.0", width)
        | linear(f"{name}.proj.1", width, width)
        | linear(f"{name}.proj.3", DIM, width)
        | norm(f"{name}.proj.4", DIM)
    )


def wan_block(name: str, image_keys: bool = False) -> dict:
    shapes = {f"{name}.modulation": (1, 6, DIM)} | norm(f"{name}.norm3", DIM)
    shapes |= attention(f"{name}.self_attn") | attention(f"{name}.cross_attn")
    if image_keys:
        shapes |= {f"{name}.cross_attn.norm_k_img.weight": (DIM,)}
        shapes |= linear(f"{name}.cross_attn.k_img", DIM, DIM) | linear(f"{name}.cross_attn.v_img", DIM, DIM)
    return shapes | linear(f"{name}.ffn.0", FFN, DIM) | linear(f"{name}.ffn.2", DIM, FFN)


def wan(
    in_channels: int,
    out_channels: int = 16,
    layers: int = 3,
    vision: bool = False,
    vace_layers: int = 0,
    reference: bool = False,
) -> dict:
    """Shapes of a Wan model.

    Args:
        in_channels: of the patch embedding: the latent's, plus those of the concatenated condition.
        out_channels: of the latent.
        vision: with cross-attention to CLIP vision tokens.
        vace_layers: number of VACE blocks; divides `layers`.
        reference: with the `ref_conv` that turns a reference image into one frame of tokens.
    """
    shapes = (
        conv("patch_embedding", DIM, in_channels, 1, 2, 2)
        | linear("text_embedding.0", DIM, WAN_TEXT_WIDTH)
        | linear("text_embedding.2", DIM, DIM)
        | linear("time_embedding.0", DIM, 256)
        | linear("time_embedding.2", DIM, DIM)
        | linear("time_projection.1", 6 * DIM, DIM)
        | linear("head.head", 4 * out_channels, DIM)
        | {"head.modulation": (1, 2, DIM)}
    )
    for i in range(layers):
        shapes |= wan_block(f"blocks.{i}", vision)
    if vision:
        shapes |= image_projection("img_emb", WAN_VISION_WIDTH)
    if reference:
        shapes |= conv("ref_conv", DIM, out_channels, 2, 2)
    if vace_layers:
        shapes |= conv("vace_patch_embedding", DIM, 96, 1, 2, 2) | linear("vace_blocks.0.before_proj", DIM, DIM)
    for i in range(vace_layers):
        shapes |= wan_block(f"vace_blocks.{i}") | linear(f"vace_blocks.{i}.after_proj", DIM, DIM)
    return shapes


def wan_s2v() -> dict:
    """Shapes of a Wan S2V model: audio, a control video, and the frames before the clip in three resolutions."""
    encoder = "casual_audio_encoder.encoder"
    shapes = (
        wan(16)
        | {"trainable_cond_mask.weight": (3, DIM)}
        | {"casual_audio_encoder.weights": (1, S2V_AUDIO_LAYERS, 1, 1), f"{encoder}.padding_tokens": (1, 1, 1, DIM)}
        | conv(f"{encoder}.conv1_local.conv", DIM, S2V_AUDIO_WIDTH, 3)
        | conv(f"{encoder}.conv1_global.conv", DIM // 4, S2V_AUDIO_WIDTH, 3)
        | conv(f"{encoder}.conv2.conv", DIM // 2, DIM // 4, 3)
        | conv(f"{encoder}.conv3.conv", DIM, DIM // 2, 3)
        | linear(f"{encoder}.final_linear", DIM, DIM)
        | conv("cond_encoder", DIM, 16, 1, 2, 2)
        | conv("frame_packer.proj", DIM, 16, 1, 2, 2)
        | conv("frame_packer.proj_2x", DIM, 16, 2, 4, 4)
        | conv("frame_packer.proj_4x", DIM, 16, 4, 8, 8)
    )
    for i in range(S2V_INJECTORS):
        shapes |= attention(f"audio_injector.injector.{i}")
        shapes |= linear(f"audio_injector.injector_adain_layers.{i}.linear", 2 * DIM, DIM)
    return shapes


def wan_humo(layers: int = 3) -> dict:
    """Shapes of a Wan HuMo model of the 17B kind, with cross-attention to audio in each block; most is fixed, so 80 MB."""
    window = HUMO_AUDIO_WINDOW * HUMO_AUDIO_LAYERS * HUMO_AUDIO_WIDTH
    shapes = (
        wan(36, layers=layers)
        | linear("audio_proj.audio_proj_glob_1.layer", 512, window)
        | linear("audio_proj.audio_proj_glob_2.layer", 512, 512)
        | linear("audio_proj.audio_proj_glob_3.layer", HUMO_TOKENS * HUMO_TOKEN_WIDTH, 512)
        | norm("audio_proj.audio_proj_glob_norm.layer", HUMO_TOKEN_WIDTH)
    )
    for i in range(layers):
        wrapper = f"blocks.{i}.audio_cross_attn_wrapper"
        shapes |= attention(f"{wrapper}.audio_cross_attn", HUMO_TOKEN_WIDTH) | norm(f"{wrapper}.norm1_audio", DIM)
    return shapes


def wan_animate() -> dict:
    """Shapes of a Wan Animate model without its encoder of face videos, which takes seconds on a CPU.

    There is one face adapter for every five blocks, so five blocks. Without a face video none is used.
    """
    fuser = "face_adapter.fuser_blocks.0"
    return (
        wan(36, layers=5, vision=True)
        | conv("pose_patch_embedding", DIM, 16, 1, 2, 2)
        | linear(f"{fuser}.linear1_kv", 2 * DIM, DIM)
        | linear(f"{fuser}.linear1_q", DIM, DIM)
        | linear(f"{fuser}.linear2", DIM, DIM)
        | {f"{fuser}.{part}_norm.weight": (128,) for part in "qk"}
    )


def wan_scail() -> dict:
    """Shapes of a Wan SCAIL model, whose four more channels mark what is given."""
    return wan(20, vision=True) | conv("patch_embedding_pose", DIM, 20, 1, 2, 2)


def hunyuan_double_block(name: str) -> dict:
    shapes = {}
    for stream in ("img", "txt"):
        shapes |= {f"{name}.{stream}_attn_{part}_norm.weight": (128,) for part in "qk"}
        shapes |= (
            linear(f"{name}.{stream}_mod.linear", 6 * DIM, DIM)
            | linear(f"{name}.{stream}_attn_qkv", 3 * DIM, DIM)
            | linear(f"{name}.{stream}_attn_proj", DIM, DIM)
            | linear(f"{name}.{stream}_mlp.fc1", 4 * DIM, DIM)
            | linear(f"{name}.{stream}_mlp.fc2", DIM, 4 * DIM)
        )
    return shapes


def hunyuan_single_block(name: str) -> dict:
    return (
        {f"{name}.{part}_norm.weight": (128,) for part in "qk"}
        | linear(f"{name}.linear1", 7 * DIM, DIM)
        | linear(f"{name}.linear2", DIM, 5 * DIM)
        | linear(f"{name}.modulation.linear", 3 * DIM, DIM)
    )


def hunyuan_refiner_block(name: str) -> dict:
    return (
        norm(f"{name}.norm1", DIM)
        | norm(f"{name}.norm2", DIM)
        | linear(f"{name}.adaLN_modulation.1", 2 * DIM, DIM)
        | linear(f"{name}.self_attn_qkv", 3 * DIM, DIM)
        | linear(f"{name}.self_attn_proj", DIM, DIM)
        | linear(f"{name}.mlp.fc1", 4 * DIM, DIM)
        | linear(f"{name}.mlp.fc2", DIM, 4 * DIM)
    )


def hunyuan_video(in_channels: int, out_channels: int, patch: tuple[int, int, int], extras: dict) -> dict:
    """Shapes of a HunyuanVideo model of one double and two single blocks, plus those in `extras`."""
    shapes = (
        conv("img_in.proj", DIM, in_channels, *patch)
        | linear("time_in.mlp.0", DIM, 256)
        | linear("time_in.mlp.2", DIM, DIM)
        | linear("txt_in.input_embedder", DIM, HUNYUAN_TEXT_WIDTH)
        | linear("txt_in.t_embedder.mlp.0", DIM, 256)
        | linear("txt_in.t_embedder.mlp.2", DIM, DIM)
        | linear("txt_in.c_embedder.linear_1", DIM, HUNYUAN_TEXT_WIDTH)
        | linear("txt_in.c_embedder.linear_2", DIM, DIM)
        | linear("final_layer.linear", out_channels * math.prod(patch), DIM)
        | linear("final_layer.adaLN_modulation.1", 2 * DIM, DIM)
    )
    for i in range(2):
        shapes |= hunyuan_refiner_block(f"txt_in.individual_token_refiner.blocks.{i}")
        shapes |= hunyuan_single_block(f"single_blocks.{i}")
    return shapes | hunyuan_double_block("double_blocks.0") | extras


def cogvideox(in_channels: int, layers: int = 3) -> dict:
    """Shapes of a CogVideoX model with rotary positions, whose heads are 64 wide."""
    shapes = (
        conv("patch_embed.proj", DIM, in_channels, 2, 2)
        | linear("patch_embed.text_proj", DIM, COGVIDEOX_TEXT_WIDTH)
        | linear("time_embedding_linear_1", FFN, DIM)
        | linear("time_embedding_linear_2", FFN, FFN)
        | norm("norm_final", DIM)
        | norm("norm_out.norm", DIM)
        | linear("norm_out.linear", 2 * DIM, FFN)
        | linear("proj_out", 4 * 16, DIM)
    )
    for block in (f"blocks.{i}" for i in range(layers)):
        for layer in ("norm1", "norm2"):
            shapes |= norm(f"{block}.{layer}.norm", DIM) | linear(f"{block}.{layer}.linear", 6 * DIM, FFN)
        for layer in ("q", "k", "v", "attn_out"):
            shapes |= linear(f"{block}.{layer}", DIM, DIM)
        shapes |= norm(f"{block}.norm_q", 64) | norm(f"{block}.norm_k", 64)
        shapes |= linear(f"{block}.ff_proj", 4 * DIM, DIM) | linear(f"{block}.ff_out", DIM, 4 * DIM)
    return shapes


def kandinsky5(layers: int = 2) -> dict:
    """Shapes of a Kandinsky 5 video model, whose heads are 64 wide."""

    def block(name: str, attentions: tuple[str, ...], modulation: str) -> dict:
        shapes = linear(f"{name}.{modulation}.out_layer", 3 * (1 + len(attentions)) * DIM, FFN)
        for attention_name in (f"{name}.{attention}" for attention in attentions):
            for part in ("to_query", "to_key", "to_value", "out_layer"):
                shapes |= linear(f"{attention_name}.{part}", DIM, DIM)
            shapes |= {f"{attention_name}.{part}_norm.weight": (64,) for part in ("query", "key")}
        return shapes | {
            f"{name}.feed_forward.in_layer.weight": (FFN, DIM),
            f"{name}.feed_forward.out_layer.weight": (DIM, FFN),
        }

    shapes = (
        linear("time_embeddings.in_layer", FFN, DIM)
        | linear("time_embeddings.out_layer", FFN, FFN)
        | linear("text_embeddings.in_layer", DIM, KANDINSKY_TEXT_WIDTH)
        | norm("text_embeddings.norm", DIM)
        | linear("pooled_text_embeddings.in_layer", FFN, HUNYUAN_POOLED_WIDTH)
        | norm("pooled_text_embeddings.norm", FFN)
        | linear("visual_embeddings.in_layer", DIM, 4 * (2 * 16 + 1))
        | linear("out_layer.modulation.out_layer", 2 * DIM, FFN)
        | linear("out_layer.out_layer", 4 * 16, DIM)
    )
    for i in range(layers):
        shapes |= block(f"text_transformer_blocks.{i}", ("self_attention",), "text_modulation")
        shapes |= block(f"visual_transformer_blocks.{i}", ("self_attention", "cross_attention"), "visual_modulation")
    return shapes


HUNYUAN_1_0_EXTRAS = (
    linear("vector_in.in_layer", DIM, HUNYUAN_POOLED_WIDTH)
    | linear("vector_in.out_layer", DIM, DIM)
    | linear("guidance_in.mlp.0", DIM, 256)
    | linear("guidance_in.mlp.2", DIM, DIM)
)
HUNYUAN_1_5_EXTRAS = (
    norm("byt5_in.layernorm", BYT5_WIDTH)
    | linear("byt5_in.fc1", 2048, BYT5_WIDTH)
    | linear("byt5_in.fc2", 2048, 2048)
    | linear("byt5_in.fc3", DIM, 2048)
    | image_projection("vision_in", SIGLIP_WIDTH)
    | {"cond_type_embedding.weight": (3, DIM)}
)

FAMILIES = {
    "wan21_t2v": partial(wan, 16),
    "wan21_i2v": partial(wan, 36, vision=True),
    "wan22_t2v_high": partial(wan, 16),
    "wan22_t2v_low": partial(wan, 16),
    "wan22_i2v_high": partial(wan, 36),
    "wan22_i2v_low": partial(wan, 36),
    "wan22_5b": partial(wan, 48, out_channels=48),
    "wan_vace": partial(wan, 16, layers=4, vace_layers=2),
    "wan_fun_control": partial(wan, 48, vision=True, reference=True),
    "wan_phantom": partial(wan, 16),
    "wan_s2v": wan_s2v,
    "wan_humo": wan_humo,
    "wan_animate": wan_animate,
    "wan_scail": wan_scail,
    "wan_bernini": partial(wan, 16),
    "hunyuan_t2v": partial(hunyuan_video, 16, 16, (1, 2, 2), HUNYUAN_1_0_EXTRAS),
    "hunyuan_i2v": partial(hunyuan_video, 33, 16, (1, 2, 2), HUNYUAN_1_0_EXTRAS),
    "hunyuan_custom": partial(hunyuan_video, 16, 16, (1, 2, 2), HUNYUAN_1_0_EXTRAS),
    "hunyuan15": partial(hunyuan_video, 65, 32, (1, 1, 1), HUNYUAN_1_5_EXTRAS),
    "cogvideox": partial(cogvideox, 16),
    "cogvideox_i2v": partial(cogvideox, 32),
    "kandinsky5": kandinsky5,
}

# First ComfyUI release that loads a family, where that is later than the optimized attention override (0.3.60).
FIRST_RELEASE = {
    "hunyuan15": "0.3.71",
    "wan_scail": "0.16.0",
    "wan_bernini": "0.25.0",
    "cogvideox": "0.21.0",
    "cogvideox_i2v": "0.21.0",
    "kandinsky5": "0.4.0",
}


def families_for(version: str) -> list[str]:
    """The names in FAMILIES that a ComfyUI of this version loads."""

    def parts(text):
        return [int(part) for part in text.split(".")[:3]]

    return [name for name in FAMILIES if parts(version) >= parts(FIRST_RELEASE.get(name, "0.3.60"))]


def write_checkpoint(name: str, folder: Path, seed: int = 0) -> Path:
    """Write the checkpoint of a family, float16, as `<folder>/<name>.safetensors`; 8 to 15 MB, hunyuan15 33.

    The same name and seed give the same weights, other names other weights, so that the high- and the
    low-noise expert of Wan 2.2 differ.

    Raises:
        ValueError: `name` is not in FAMILIES.
    """
    if name not in FAMILIES:
        raise ValueError(f"no family {name!r}; there are {', '.join(FAMILIES)}")
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) + seed)
    weights = {key: _fill(key, shape, generator) for key, shape in FAMILIES[name]().items()}
    file = Path(folder) / f"{name}.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, file)
    return file


def write_lora(file: Path, rank: int = 4, layers: int = 3) -> None:
    """Write a LoRA for the self-attention of `wan21_t2v`, float16, strong enough to change its video."""
    generator = torch.Generator().manual_seed(1)
    weights = {}
    for name in (f"diffusion_model.blocks.{i}.self_attn.{part}" for i in range(layers) for part in "qkvo"):
        weights[f"{name}.lora_A.weight"] = torch.randn(rank, DIM, generator=generator) / math.sqrt(DIM)
        weights[f"{name}.lora_B.weight"] = torch.randn(DIM, rank, generator=generator) / math.sqrt(rank)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: weight.half() for name, weight in weights.items()}, file)


def _fill(key: str, shape: tuple, generator: torch.Generator) -> torch.Tensor:
    """Weights that keep activations near unit variance."""
    if len(shape) == 1 and key.endswith(".weight"):
        constant = next((value for part, value in CONSTANTS.items() if part in key), 1.0)
        return torch.full(shape, constant, dtype=torch.float16)
    spread = next((value for part, value in SPREADS.items() if part in key), 1.0)
    if key.endswith(".weight"):
        spread /= math.sqrt(math.prod(shape[1:]))
    return (spread * torch.randn(shape, generator=generator)).half()
