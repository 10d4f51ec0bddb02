"""Names and shapes of the tensors of real video models in small: what a host tells a model by.

In the names of the original releases. Width 256 (two heads of 128) and few layers: two steps take a second on a CPU.
"""

import math

DIM = 256
FFN = 512
WAN_TEXT_WIDTH, WAN_VISION_WIDTH = 4096, 1280
S2V_AUDIO_LAYERS, S2V_AUDIO_WIDTH, S2V_INJECTORS = 25, 1024, 12
HUMO_AUDIO = (8, 5, 1280)  # window, layers, width
HUMO_TOKENS, HUMO_TOKEN_WIDTH = 16, 1536
SCAIL_MASK_CHANNELS = 28
HUNYUAN_TEXT_WIDTH, HUNYUAN_POOLED_WIDTH = 512, 768
BYT5_WIDTH, SIGLIP_WIDTH = 1472, 1152
KANDINSKY_TEXT_WIDTH = 3584
IN_OUT = (".in_layer", ".out_layer")


def layer(name: str, *shape: int) -> dict:
    """Shapes of a weight and a bias: linear (out, in), of a norm (width,), of a convolution (out, in, *kernel)."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def mlp(name: str, *widths: int, layers: tuple[str, str] = (".0", ".2")) -> dict:
    """Shapes of two linear layers with an activation between."""
    return layer(name + layers[0], widths[1], widths[0]) | layer(name + layers[1], widths[2], widths[1])


def attention(name: str, key_width: int | None = None) -> dict:
    """Shapes of an attention layer with q and k norms, whose keys and values come from `key_width` channels."""
    shapes = {f"{name}.norm_{part}.weight": (DIM,) for part in "qk"}
    for part, width in {"q": DIM, "k": key_width or DIM, "v": key_width or DIM, "o": DIM}.items():
        shapes |= layer(f"{name}.{part}", DIM, width)
    return shapes


def image_projection(name: str, width: int) -> dict:
    """Shapes of the MLP that takes vision tokens of `width` to DIM."""
    return (
        layer(f"{name}.proj.0", width)
        | layer(f"{name}.proj.1", width, width)
        | layer(f"{name}.proj.3", DIM, width)
        | layer(f"{name}.proj.4", DIM)
    )


def wan_block(name: str, image_keys: bool = False) -> dict:
    shapes = {f"{name}.modulation": (1, 6, DIM)} | layer(f"{name}.norm3", DIM)
    shapes |= attention(f"{name}.self_attn") | attention(f"{name}.cross_attn")
    if image_keys:
        shapes |= {f"{name}.cross_attn.norm_k_img.weight": (DIM,)}
        shapes |= layer(f"{name}.cross_attn.k_img", DIM, DIM) | layer(f"{name}.cross_attn.v_img", DIM, DIM)
    return shapes | mlp(f"{name}.ffn", DIM, FFN, DIM)


def wan(in_channels: int, out_channels=16, layers=3, vision=False, vace_layers=0, reference=False) -> dict:
    """Shapes of a Wan model.

    Args:
        in_channels: of the patch embedding: the latent's, plus those of the concatenated condition.
        out_channels: of the latent.
        vision: with cross-attention to CLIP vision tokens.
        vace_layers: number of VACE blocks; divides `layers`.
        reference: with the `ref_conv` that turns a reference image into one frame of tokens.
    """
    shapes = (
        layer("patch_embedding", DIM, in_channels, 1, 2, 2)
        | mlp("text_embedding", WAN_TEXT_WIDTH, DIM, DIM)
        | mlp("time_embedding", 256, DIM, DIM)
        | layer("time_projection.1", 6 * DIM, DIM)
        | layer("head.head", 4 * out_channels, DIM)
        | {"head.modulation": (1, 2, DIM)}
    )
    for i in range(layers):
        shapes |= wan_block(f"blocks.{i}", vision)
    if vision:
        shapes |= image_projection("img_emb", WAN_VISION_WIDTH)
    if reference:
        shapes |= layer("ref_conv", DIM, out_channels, 2, 2)
    if vace_layers:
        shapes |= layer("vace_patch_embedding", DIM, 96, 1, 2, 2) | layer("vace_blocks.0.before_proj", DIM, DIM)
    for i in range(vace_layers):
        shapes |= wan_block(f"vace_blocks.{i}") | layer(f"vace_blocks.{i}.after_proj", DIM, DIM)
    return shapes


def wan_s2v() -> dict:
    """Shapes of a Wan S2V model: audio, a control video, and the frames before the clip in three resolutions."""
    encoder = "casual_audio_encoder.encoder"
    shapes = (
        wan(16)
        | {"trainable_cond_mask.weight": (3, DIM)}
        | {"casual_audio_encoder.weights": (1, S2V_AUDIO_LAYERS, 1, 1), f"{encoder}.padding_tokens": (1, 1, 1, DIM)}
        | layer(f"{encoder}.conv1_local.conv", DIM, S2V_AUDIO_WIDTH, 3)
        | layer(f"{encoder}.conv1_global.conv", DIM // 4, S2V_AUDIO_WIDTH, 3)
        | layer(f"{encoder}.conv2.conv", DIM // 2, DIM // 4, 3)
        | layer(f"{encoder}.conv3.conv", DIM, DIM // 2, 3)
        | layer(f"{encoder}.final_linear", DIM, DIM)
        | layer("cond_encoder", DIM, 16, 1, 2, 2)
        | layer("frame_packer.proj", DIM, 16, 1, 2, 2)
        | layer("frame_packer.proj_2x", DIM, 16, 2, 4, 4)
        | layer("frame_packer.proj_4x", DIM, 16, 4, 8, 8)
    )
    for i in range(S2V_INJECTORS):
        shapes |= attention(f"audio_injector.injector.{i}")
        shapes |= layer(f"audio_injector.injector_adain_layers.{i}.linear", 2 * DIM, DIM)
    return shapes


def wan_humo() -> dict:
    """Shapes of a Wan HuMo model of the 17B kind, with cross-attention to audio in each block; most is fixed, so 80 MB."""
    shapes = (
        wan(36)
        | layer("audio_proj.audio_proj_glob_1.layer", 512, math.prod(HUMO_AUDIO))
        | layer("audio_proj.audio_proj_glob_2.layer", 512, 512)
        | layer("audio_proj.audio_proj_glob_3.layer", HUMO_TOKENS * HUMO_TOKEN_WIDTH, 512)
        | layer("audio_proj.audio_proj_glob_norm.layer", HUMO_TOKEN_WIDTH)
    )
    for i in range(3):
        wrapper = f"blocks.{i}.audio_cross_attn_wrapper"
        shapes |= attention(f"{wrapper}.audio_cross_attn", HUMO_TOKEN_WIDTH) | layer(f"{wrapper}.norm1_audio", DIM)
    return shapes


def wan_animate() -> dict:
    """Shapes of a Wan Animate model without its encoder of face videos, which takes seconds on a CPU.

    There is one face adapter for every five blocks, so five blocks. Without a face video none is used.
    """
    fuser = "face_adapter.fuser_blocks.0"
    return (
        wan(36, layers=5, vision=True)
        | layer("pose_patch_embedding", DIM, 16, 1, 2, 2)
        | layer(f"{fuser}.linear1_kv", 2 * DIM, DIM)
        | layer(f"{fuser}.linear1_q", DIM, DIM)
        | layer(f"{fuser}.linear2", DIM, DIM)
        | {f"{fuser}.{part}_norm.weight": (128,) for part in "qk"}
    )


def wan_scail() -> dict:
    """Shapes of a Wan SCAIL model, whose four more channels mark what is given."""
    return wan(20, vision=True) | layer("patch_embedding_pose", DIM, 20, 1, 2, 2)


def wan_scail2() -> dict:
    """Shapes of a Wan SCAIL 2 model, which adds masks of the persons."""
    return wan_scail() | layer("patch_embedding_mask", DIM, SCAIL_MASK_CHANNELS, 1, 2, 2)


def hunyuan_double_block(name: str) -> dict:
    shapes = {}
    for stream in ("img", "txt"):
        shapes |= {f"{name}.{stream}_attn_{part}_norm.weight": (128,) for part in "qk"}
        shapes |= (
            layer(f"{name}.{stream}_mod.linear", 6 * DIM, DIM)
            | layer(f"{name}.{stream}_attn_qkv", 3 * DIM, DIM)
            | layer(f"{name}.{stream}_attn_proj", DIM, DIM)
            | mlp(f"{name}.{stream}_mlp", DIM, 4 * DIM, DIM, layers=(".fc1", ".fc2"))
        )
    return shapes


def hunyuan_single_block(name: str) -> dict:
    return (
        {f"{name}.{part}_norm.weight": (128,) for part in "qk"}
        | layer(f"{name}.linear1", 7 * DIM, DIM)
        | layer(f"{name}.linear2", DIM, 5 * DIM)
        | layer(f"{name}.modulation.linear", 3 * DIM, DIM)
    )


def hunyuan_refiner_block(name: str) -> dict:
    return (
        layer(f"{name}.norm1", DIM)
        | layer(f"{name}.norm2", DIM)
        | layer(f"{name}.adaLN_modulation.1", 2 * DIM, DIM)
        | layer(f"{name}.self_attn_qkv", 3 * DIM, DIM)
        | layer(f"{name}.self_attn_proj", DIM, DIM)
        | mlp(f"{name}.mlp", DIM, 4 * DIM, DIM, layers=(".fc1", ".fc2"))
    )


def _hunyuan_video(in_channels: int, out_channels: int, patch: tuple[int, int, int]) -> dict:
    """Shapes that all HunyuanVideo models have, of one double and two single blocks."""
    shapes = (
        layer("img_in.proj", DIM, in_channels, *patch)
        | mlp("time_in.mlp", 256, DIM, DIM)
        | layer("txt_in.input_embedder", DIM, HUNYUAN_TEXT_WIDTH)
        | mlp("txt_in.t_embedder.mlp", 256, DIM, DIM)
        | mlp("txt_in.c_embedder.linear", HUNYUAN_TEXT_WIDTH, DIM, DIM, layers=("_1", "_2"))
        | layer("final_layer.linear", out_channels * math.prod(patch), DIM)
        | layer("final_layer.adaLN_modulation.1", 2 * DIM, DIM)
    )
    for i in range(2):
        shapes |= hunyuan_refiner_block(f"txt_in.individual_token_refiner.blocks.{i}")
        shapes |= hunyuan_single_block(f"single_blocks.{i}")
    return shapes | hunyuan_double_block("double_blocks.0")


def hunyuan_video(in_channels: int) -> dict:
    """Shapes of a HunyuanVideo 1.0 model."""
    return (
        _hunyuan_video(in_channels, 16, (1, 2, 2))
        | mlp("vector_in", HUNYUAN_POOLED_WIDTH, DIM, DIM, layers=IN_OUT)
        | mlp("guidance_in.mlp", 256, DIM, DIM)
    )


def hunyuan_video_1_5() -> dict:
    """Shapes of a HunyuanVideo 1.5 model."""
    return (
        _hunyuan_video(65, 32, (1, 1, 1))
        | layer("byt5_in.layernorm", BYT5_WIDTH)
        | layer("byt5_in.fc1", 2048, BYT5_WIDTH)
        | layer("byt5_in.fc2", 2048, 2048)
        | layer("byt5_in.fc3", DIM, 2048)
        | image_projection("vision_in", SIGLIP_WIDTH)
        | {"cond_type_embedding.weight": (3, DIM)}
    )


def cogvideox(in_channels: int) -> dict:
    """Shapes of a CogVideoX model with rotary positions, whose heads are 64 wide."""
    shapes = (
        layer("patch_embed.proj", DIM, in_channels, 2, 2)
        | layer("patch_embed.text_proj", DIM, WAN_TEXT_WIDTH)
        | mlp("time_embedding_linear", DIM, FFN, FFN, layers=("_1", "_2"))
        | layer("norm_final", DIM)
        | layer("norm_out.norm", DIM)
        | layer("norm_out.linear", 2 * DIM, FFN)
        | layer("proj_out", 4 * 16, DIM)
    )
    for block in (f"blocks.{i}" for i in range(3)):
        for part in ("norm1", "norm2"):
            shapes |= layer(f"{block}.{part}.norm", DIM) | layer(f"{block}.{part}.linear", 6 * DIM, FFN)
        for part in ("q", "k", "v", "attn_out"):
            shapes |= layer(f"{block}.{part}", DIM, DIM)
        shapes |= layer(f"{block}.norm_q", 64) | layer(f"{block}.norm_k", 64)
        shapes |= layer(f"{block}.ff_proj", 4 * DIM, DIM) | layer(f"{block}.ff_out", DIM, 4 * DIM)
    return shapes


def kandinsky5(head_dim: int) -> dict:
    """Shapes of a Kandinsky 5 video model."""

    def block(name: str, attentions: tuple[str, ...], modulation: str) -> dict:
        shapes = layer(f"{name}.{modulation}.out_layer", 3 * (1 + len(attentions)) * DIM, FFN)
        for attention_name in (f"{name}.{attention}" for attention in attentions):
            for part in ("to_query", "to_key", "to_value", "out_layer"):
                shapes |= layer(f"{attention_name}.{part}", DIM, DIM)
            shapes |= {f"{attention_name}.{part}_norm.weight": (head_dim,) for part in ("query", "key")}
        widths = {"in_layer": (FFN, DIM), "out_layer": (DIM, FFN)}
        return shapes | {f"{name}.feed_forward.{part}.weight": shape for part, shape in widths.items()}

    shapes = (
        mlp("time_embeddings", DIM, FFN, FFN, layers=IN_OUT)
        | layer("text_embeddings.in_layer", DIM, KANDINSKY_TEXT_WIDTH)
        | layer("text_embeddings.norm", DIM)
        | layer("pooled_text_embeddings.in_layer", FFN, HUNYUAN_POOLED_WIDTH)
        | layer("pooled_text_embeddings.norm", FFN)
        | layer("visual_embeddings.in_layer", DIM, 4 * (2 * 16 + 1))
        | layer("out_layer.modulation.out_layer", 2 * DIM, FFN)
        | layer("out_layer.out_layer", 4 * 16, DIM)
    )
    for i in range(2):
        shapes |= block(f"text_transformer_blocks.{i}", ("self_attention",), "text_modulation")
        shapes |= block(f"visual_transformer_blocks.{i}", ("self_attention", "cross_attention"), "visual_modulation")
    return shapes
