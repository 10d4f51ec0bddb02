"""The tiny Wan 2.1 text-to-video model: diffusers' transformer, with any attention in place of its own, and its sampler."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from diffusers.utils import logging
from moving_shapes import CELL, embed, from_latent
from render import CHECKPOINT, GUIDANCE, ROOT  # adds tests/harness

# isort: split
from scene import rotate
from torch import Tensor, nn

CONFIG = ROOT / "demo" / "tiny_wan_config"
SHIFT = 5.0  # as in the example workflows
warnings.filterwarnings("ignore", "Mismatch dtype between input and weight")  # of norms under autocast: they are meant
# Names of tensors: diffusers', and those of the original release, which hosts load.
ORIGINAL_NAMES = {
    r"^condition_embedder\.(time|text)_embedder\.linear_1": r"\1_embedding.0",
    r"^condition_embedder\.(time|text)_embedder\.linear_2": r"\1_embedding.2",
    r"^condition_embedder\.time_proj": "time_projection.1",
    r"^scale_shift_table": "head.modulation",
    r"^proj_out": "head.head",
    r"scale_shift_table": "modulation",
    r"attn1": "self_attn",
    r"attn2": "cross_attn",
    r"to_out\.0": "o",
    r"to_([qkv])\.": r"\1.",
    r"ffn\.net\.0\.proj": "ffn.0",
    r"ffn\.net\.2": "ffn.2",
    r"norm2": "norm3",
}


def untrained() -> WanTransformer3DModel:
    """A model to train, whose velocity is zero."""
    model = WanTransformer3DModel.from_config(json.loads((CONFIG / "config.json").read_text()))
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    nn.init.zeros_(model.proj_out.weight)
    return model


def load(checkpoint: Path = CHECKPOINT) -> WanTransformer3DModel:
    """The trained model, in float32."""
    logging.set_verbosity_error()
    options = {"config": str(CONFIG), "local_files_only": True, "torch_dtype": torch.float32}
    return WanTransformer3DModel.from_single_file(str(checkpoint), **options).eval().requires_grad_(False)


def original_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state_dict as a checkpoint that ComfyUI loads."""
    for pattern, name in ORIGINAL_NAMES.items():
        weights = {re.sub(pattern, name, key): value for key, value in weights.items()}
    return weights


class Processor:
    """diffusers' attention processor: its projections, norms and rotation, and another's attention of q, k, v [B, H, N, D]."""

    def __init__(self, attend: Callable[[Tensor, Tensor, Tensor], Tensor]):
        self.attend = attend

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, rotary_emb=None):
        q, k, v = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(hidden_states)), attn.to_v(hidden_states)
        q, k, v = (x.unflatten(2, (attn.heads, -1)) for x in (q, k, v))
        cos, sin = rotary_emb[0][..., 0::2], rotary_emb[1][..., 1::2]
        out = self.attend(*(x.transpose(1, 2) for x in (rotate(q, cos, sin).to(v), rotate(k, cos, sin).to(v), v)))
        return attn.to_out[1](attn.to_out[0](out.transpose(1, 2).flatten(2)))


def take_attention(model: WanTransformer3DModel, attend: Callable[[int, Tensor, Tensor, Tensor], Tensor]) -> None:
    """From now on `attend(layer, q, k, v)` is the self-attention of every block."""
    for layer, block in enumerate(model.blocks):
        block.attn1.set_processor(Processor(partial(attend, layer)))


def shifted(u: Tensor | float) -> Tensor | float:
    """Noise level of a place u in the schedule, from 1 (all noise) to 0, as hosts have it for flow models."""
    return SHIFT * u / (1 + (SHIFT - 1) * u)


@torch.no_grad()
def sample(
    model: WanTransformer3DModel,
    prompts: Sequence[int],
    frames: int,
    pixels: int,
    steps: int = 20,
    seed: int = 0,
    before_step: Callable[[int, float], None] = lambda step, sigma: None,
) -> Tensor:
    """A video of each prompt, [B, frames, pixels, pixels], by Euler's method, with and without the prompts in one batch.

    Args:
        prompts: numbers in moving_shapes.PROMPTS.
        before_step: called with each step's number, from 0, and its noise level.
    """
    shape = (len(prompts), model.config.in_channels, frames, pixels // CELL, pixels // CELL)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(model.device)
    texts = torch.cat([embed(prompt) for prompt in (*prompts, *[None] * len(prompts))]).to(model.device)
    sigmas = [shifted(1 - i / steps) for i in range(steps + 1)]
    for i in range(steps):
        before_step(i, sigmas[i])
        times = torch.full((len(texts),), 1000 * sigmas[i], device=model.device)
        prompted, plain = model(torch.cat([x, x]), times, texts, return_dict=False)[0].float().chunk(2)
        x = x + (sigmas[i + 1] - sigmas[i]) * (plain + GUIDANCE * (prompted - plain))
    return from_latent(x).cpu()
