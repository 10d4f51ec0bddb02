"""What families share in tiny_checkpoints.py: what a host is told of their sizes, and what a model is fed with.

The functions have a latent's frames, height and width as their arguments.
"""

import tiny_shapes as tiny
import tiny_shapes_audio as tiny_audio
import tiny_shapes_cosmos as tiny_cosmos

TEXT = {"width": tiny.WAN_TEXT_WIDTH}
VISION = {**TEXT, "vision_tokens": 257, "vision_width": tiny.WAN_VISION_WIDTH}
HUNYUAN = {"width": tiny.HUNYUAN_TEXT_WIDTH, "pooled": tiny.HUNYUAN_POOLED_WIDTH}
HUNYUAN_1_5 = {"width": tiny.HUNYUAN_TEXT_WIDTH, "byt5_tokens": 7, "vision_tokens": 9, "vision_width": tiny.SIGLIP_WIDTH}
KANDINSKY = {"width": tiny.KANDINSKY_TEXT_WIDTH, "pooled": tiny.HUNYUAN_POOLED_WIDTH}
COSMOS = {"conditioning": {"width": tiny_cosmos.COSMOS_TEXT_WIDTH}, "config": {"num_blocks": 3, "num_heads": 2}}
MOCHI = {
    "conditioning": {"width": tiny_cosmos.MOCHI_TEXT_WIDTH, "masked": True},
    "config": {
        **{"depth": 2, "num_heads": 2, "hidden_size_x": tiny.DIM, "hidden_size_y": tiny_cosmos.MOCHI_TEXT_DIM},
        **{"mlp_ratio_x": 48.0, "t5_feat_dim": tiny_cosmos.MOCHI_TEXT_WIDTH},
    },
}
H3 = {
    **{"since": "0.30.0", "channels": 24, "downscale": 16, "large": 2, "one_video": True},
    **{"conditioning": {"width": tiny_audio.H3_TEXT_WIDTH}, "audio": lambda t: (32, 2, (20 * t - 15) // 3)},
}
LTXV = {
    **{"channels": 128, "downscale": 32, "large": 2, "config": {"num_attention_heads": 4, "attention_head_dim": 64}},
    "conditioning": {"width": tiny_audio.T5_WIDTH, "masked": True},
}
LTX2_CONFIG = {
    **{"num_attention_heads": 2, "attention_head_dim": 128, "audio_num_attention_heads": 2, "audio_attention_head_dim": 64},
    **{"cross_attention_dim": tiny.DIM, "audio_cross_attention_dim": tiny_audio.AUDIO_DIM},
    **{"connector_num_attention_heads": 2, "connector_num_layers": 1, "caption_channels": tiny_audio.LTX_TEXT_WIDTH},
    **{"rope_type": "split", "causal_temporal_positioning": True, "use_middle_indices_grid": True},
}
# Text of this width has been through the connectors.
LTX2 = {
    **{"since": "0.8.0", "channels": 128, "downscale": 32, "large": 2, "metadata": LTX2_CONFIG},
    **{"conditioning": {"width": 2 * tiny_audio.LTX_TEXT_WIDTH}, "audio": lambda t: (8, 8 * t - 7, 16)},
}
LTX2_GUIDED = {**LTX2, "one_video": True}
LTX_2_3 = {
    **{"since": "0.16.0", "conditioning": {"width": tiny.DIM + tiny_audio.AUDIO_DIM}},
    "metadata": {
        **LTX2_CONFIG,
        **{"apply_gated_attention": True, "connector_apply_gated_attention": True, "cross_attention_adaln": True},
        **{"caption_proj_before_connector": True, "caption_projection_first_linear": False},
        "audio_connector_attention_head_dim": 64,
    },
}


def keyframes(t: int, h: int, w: int) -> list[dict]:
    """The first and the last frame, as MiniMaxH3ImageToVideo has them: of whole patches of 2 x 2 cells."""
    frame = {"latent": {"randn": (1, 24, 1, h + h % 2, w + w % 2)}}
    return [{**frame, "resolved_frame_index": 0}, {**frame, "resolved_frame_index": 4 * (t - 1)}]


def references(t: int, h: int, w: int) -> list[dict]:
    """An image and a video with sound, as MiniMaxH3ReferenceToVideo has them, of sizes of their own."""
    image, video = {"latent_h": 6, "latent_w": 10}, {"latent_t": 2, "latent_h": 8, "latent_w": 8, "ref_audio_t": 8}
    sound = {"audio_latent": {"randn": (1, 32, 2, 8)}}
    return [
        {"kind": "image", **image, "latent": {"randn": (1, 24, 1, 6, 10)}},
        {"kind": "video_audio", **video, "latent": {"randn": (1, 24, 2, 8, 8)}, **sound},
    ]
