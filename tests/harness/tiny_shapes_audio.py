"""Names and shapes of the tensors of models that make a video and its sound: MiniMax-H3 and LTX-2, and LTX-Video before it."""

from tiny_shapes import DIM, FFN, layer, mlp

AUDIO_DIM = 128  # two heads of 64
HEAD_DIM = 128
H3_TEXT_WIDTH = 512
LTX_TEXT_WIDTH, LTX_REGISTERS = 256, 128
T5_WIDTH = 4096
LTX_ADALN = {"adaln_single": 6}
LTX_2_3_ADALN = {"adaln_single": 9, "prompt_adaln_single": 2}


def _weights(name: str, **shapes: tuple) -> dict:
    """Shapes of layers without a bias, by their names."""
    return {f"{name}.{part}.weight": shape for part, shape in shapes.items()}


def minimax_h3() -> dict:
    """Shapes of a MiniMax-H3 model; the modulation is of a width for each of video, text and audio."""

    def block(name: str) -> dict:
        return (
            _weights(name, norm1=(DIM,), norm2=(DIM,))
            | _weights(f"{name}.attn", qkv_proj=(3 * DIM, DIM), out_proj=(DIM, DIM), q_norm=(HEAD_DIM,), k_norm=(HEAD_DIM,))
            | _weights(f"{name}.mlp", fc1=(2 * FFN, DIM), fc2=(DIM, FFN))
        )

    shapes = (
        layer("video_patch_proj", DIM, 4 * 24)
        | layer("audio_patch_proj", DIM, 32)
        | layer("condition_proj", DIM, H3_TEXT_WIDTH)
        | mlp("time_embedder", 256, DIM, DIM // 2, layers=(".proj_in", ".proj_out"))
        | {"rope.inv_freq": (16,)}
        | block("token_refiner.blocks.0")
        | _weights("token_refiner", final_norm=(DIM,))
        | _weights("final_layer", norm=(DIM,))
        | layer("final_layer.adaln_proj.linear", 2 * DIM, DIM // 2)
        | layer("final_layer.video_out", 4 * 24, DIM)
        | layer("final_layer.audio_out", 32, DIM)
    )
    for i in range(3):
        shapes |= block(f"blocks.{i}") | layer(f"blocks.{i}.adaln_proj.linear", 3 * 6 * DIM, DIM // 2)
    return shapes


def _ltx_attention(name: str, width: int, key_width: int, inner: int, gated: bool = False) -> dict:
    shapes = _weights(name, q_norm=(inner,), k_norm=(inner,)) | layer(f"{name}.to_q", inner, width)
    shapes |= layer(f"{name}.to_k", inner, key_width) | layer(f"{name}.to_v", inner, key_width)
    return shapes | layer(f"{name}.to_out.0", width, inner) | (layer(f"{name}.to_gate_logits", 2, width) if gated else {})


def _ltx_feed_forward(name: str, width: int) -> dict:
    return mlp(f"{name}.net", width, 4 * width, width, layers=(".0.proj", ".2"))


def _ltx_adaln(name: str, width: int, values: int) -> dict:
    embedder = mlp(f"{name}.emb.timestep_embedder.linear", 256, width, width, layers=("_1", "_2"))
    return embedder | layer(f"{name}.linear", values * width, width)


def ltxv() -> dict:
    """Shapes of an LTX-Video model, whose heads are 64 wide."""
    shapes = _ltx_stream("", DIM, LTX_ADALN) | mlp("caption_projection.linear", T5_WIDTH, DIM, DIM, layers=("_1", "_2"))
    for block in (f"transformer_blocks.{i}" for i in range(3)):
        shapes |= {f"{block}.scale_shift_table": (6, DIM)} | _ltx_feed_forward(f"{block}.ff", DIM)
        shapes |= _ltx_attention(f"{block}.attn1", DIM, DIM, DIM) | _ltx_attention(f"{block}.attn2", DIM, DIM, DIM)
    return shapes


def _ltx_stream(prefix: str, width: int, adaln: dict[str, int]) -> dict:
    """Shapes of what stands before and after the blocks, of the video or, by its prefix, of the audio."""
    shapes = {f"{prefix}scale_shift_table": (2, width)}
    shapes |= layer(f"{prefix}patchify_proj", width, 128) | layer(f"{prefix}proj_out", 128, width)
    for name, values in adaln.items():
        shapes |= _ltx_adaln(prefix + name, width, values)
    return shapes


def ltx2(gated: bool = False) -> dict:
    """Shapes of an LTX-2 model; `gated`: as 2.3 has it, with gated attention and cross-attention that the time modulates."""
    adaln, streams = LTX_2_3_ADALN if gated else LTX_ADALN, {"": DIM, "audio_": AUDIO_DIM}
    shapes = (
        _ltx_adaln("av_ca_video_scale_shift_adaln_single", DIM, 4)
        | _ltx_adaln("av_ca_a2v_gate_adaln_single", DIM, 1)
        | _ltx_adaln("av_ca_audio_scale_shift_adaln_single", AUDIO_DIM, 4)
        | _ltx_adaln("av_ca_v2a_gate_adaln_single", AUDIO_DIM, 1)
    )
    for prefix, width in streams.items():
        shapes |= _ltx_stream(prefix, width, adaln)
        if not gated:
            shapes |= mlp(f"{prefix}caption_projection.linear", LTX_TEXT_WIDTH, width, width, layers=("_1", "_2"))
        connector, text_width = f"{prefix or 'video_'}embeddings_connector", width if gated else LTX_TEXT_WIDTH
        block = f"{connector}.transformer_1d_blocks.0"
        shapes |= {f"{connector}.learnable_registers": (LTX_REGISTERS, text_width)} | _ltx_feed_forward(
            f"{block}.ff", text_width
        )
        shapes |= _ltx_attention(f"{block}.attn1", text_width, text_width, text_width, gated)
    for block in (f"transformer_blocks.{i}" for i in range(3)):
        for prefix, width in streams.items():
            shapes |= {f"{block}.{prefix}scale_shift_table": (adaln["adaln_single"], width)}
            if gated:
                shapes |= {f"{block}.{prefix}prompt_scale_shift_table": (2, width)}
            for part in ("attn1", "attn2"):
                shapes |= _ltx_attention(f"{block}.{prefix}{part}", width, width, width, gated)
            shapes |= _ltx_feed_forward(f"{block}.{prefix}ff", width)
            shapes |= {f"{block}.scale_shift_table_a2v_ca_{prefix.rstrip('_') or 'video'}": (5, width)}
        shapes |= _ltx_attention(f"{block}.audio_to_video_attn", DIM, AUDIO_DIM, AUDIO_DIM, gated)
        shapes |= _ltx_attention(f"{block}.video_to_audio_attn", AUDIO_DIM, DIM, AUDIO_DIM, gated)
    return shapes
