"""What is known of each model family: how it lays its video out as tokens, and what its attention calls are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from ..svg_core import VideoLayout

# (diffusion model, arguments of its forward by name, with the transformer_options of the call, tokens beyond the grid)
# -> how many of these stand before the video, the others after it; None if not understood.
TokensBefore = Callable[[nn.Module, Mapping, int], int | None]
# (diffusion model, arguments of its forward by name) -> how many keys the model's other attention calls have: those
# before its first block, and those after the self-attention of each block.
OtherCalls = Callable[[nn.Module, Mapping], tuple[list[int], list[int]]]


def _patch(diffusion_model: nn.Module) -> Sequence[int] | None:
    """Latent cells of a token along frames, height and width."""
    patch = getattr(diffusion_model, "patch_size", None)
    if isinstance(patch, int) and hasattr(diffusion_model, "patch_size_t"):  # CogVideoX 1.0 has None there, 1.5 has 2
        return diffusion_model.patch_size_t or 1, patch, patch
    return patch if isinstance(patch, Sequence) and len(patch) == 3 else None


def patch_grid(patch: Sequence[int], size: Sequence[int]) -> VideoLayout:
    """The tokens that patches of these latent cells make of a latent of this size, [B, C, T, H, W]."""
    return VideoLayout(*(math.ceil(cells / p) for cells, p in zip(size[2:], patch, strict=True)))


@dataclass(frozen=True)
class Family:
    """One line of the table.

    Attributes:
        name: for messages.
        module: class name of the diffusion model or of one of its bases.
        tokens_before: where tokens beyond the video grid stand: text, reference images, poses.
        first_frame: SVG's patterns include the first frame, as in the authors' settings for the family.
        others: attention of another kind, which may be as long as the video's own; None if not known.
        heads: of a diffusion model, how many it has and their size; attention by heads of another size is not the video's.
        blocks: attributes of the diffusion model that hold its attention blocks.
        surplus_is_frames: tokens beyond the grid that make whole frames count as frames of the video.
        patch: of a diffusion model, latent cells of a token along frames, height and width; None if it has no such.
        wrapped: its forward goes through the host's DIFFUSION_MODEL wrappers.
    """

    name: str
    module: str
    tokens_before: TokensBefore
    first_frame: bool
    others: OtherCalls | None
    heads: Callable[[nn.Module], tuple[int, int]]
    blocks: tuple[str, ...] = ("blocks", "vace_blocks")
    surplus_is_frames: bool = False
    patch: Callable[[nn.Module], Sequence[int] | None] = _patch
    wrapped: bool = True


def _wan(model: nn.Module, arguments: Mapping, surplus: int) -> int | None:
    """A reference image before the video (Fun control, by ref_conv), or videos and images after it (Bernini)."""
    if getattr(model, "ref_conv", None) is not None and arguments.get("reference_latent") is not None:
        return surplus
    return 0 if arguments.get("context_latents") else None


def _all_before(model: nn.Module, arguments: Mapping, surplus: int) -> int:
    return surplus


def _hunyuan(model: nn.Module, arguments: Mapping, surplus: int) -> int | None:
    """[reference, video, text] up to ComfyUI 0.13, [text, reference, video] from 0.14."""
    if not getattr(model.double_blocks[0], "flipped_img_txt", False):
        return surplus
    reference = arguments.get("ref_latent")
    before = 0 if reference is None else patch_grid(_patch(model), reference.shape).video_tokens
    return before if before <= surplus else None


def _minimax(model: nn.Module, arguments: Mapping, surplus: int) -> int | None:
    """[text, conditions, references, audio, video], by the host's own description where it gives one."""
    packed = arguments["transformer_options"].get("minimax_h3_layout")
    if packed is None:
        return surplus
    before = next(start for start, _, kind in packed.segments if kind == "video")
    return before if before <= surplus else None


def text_tokens(arguments: Mapping) -> int:
    """Tokens of the text that a forward is given, 0 without any."""
    context = arguments.get("context")
    return context.shape[1] if isinstance(context, Tensor) and context.ndim == 3 else 0


def _wan_others(model: nn.Module, arguments: Mapping) -> tuple[list[int], list[int]]:
    """Cross-attention to the text; before it to the image, where the model has that apart."""
    image = arguments.get("clip_fea") if getattr(model, "img_emb", None) is not None else None
    return [], [text_tokens(arguments)] if image is None else [image.shape[-2], text_tokens(arguments)]


def _hunyuan_others(model: nn.Module, arguments: Mapping) -> tuple[list[int], list[int]]:
    """The text's refiner comes first; then text and video attend together."""
    return [text_tokens(arguments)] * len(model.txt_in.individual_token_refiner.blocks), []


def _kandinsky_others(model: nn.Module, arguments: Mapping) -> tuple[list[int], list[int]]:
    """The text's own blocks come first; each of the video's ends in cross-attention to it."""
    return [text_tokens(arguments)] * len(model.text_transformer_blocks), [text_tokens(arguments)]


def _text_others(model: nn.Module, arguments: Mapping) -> tuple[list[int], list[int]]:
    """Cross-attention to the text."""
    return [], [text_tokens(arguments)]


def _minimax_others(model: nn.Module, arguments: Mapping) -> tuple[list[int], list[int]]:
    """The text's refiner comes first, unless the host ran it ahead of the forward."""
    refined = arguments["context"].shape[-1] == model.hidden_size
    return [] if refined else [text_tokens(arguments)] * len(model.token_refiner.blocks), []


def _wan_heads(model: nn.Module) -> tuple[int, int]:
    return model.num_heads, model.dim // model.num_heads


def _hunyuan_heads(model: nn.Module) -> tuple[int, int]:
    return model.num_heads, model.hidden_size // model.num_heads


def _cogvideox_heads(model: nn.Module) -> tuple[int, int]:
    return model.num_attention_heads, model.blocks[0].head_dim


def _kandinsky_heads(model: nn.Module) -> tuple[int, int]:
    attention = model.visual_transformer_blocks[0].self_attention
    return attention.num_heads, attention.head_dim


def _minimax_heads(model: nn.Module) -> tuple[int, int]:
    return model.blocks[0].attn.heads, model.blocks[0].attn.head_dim


def _ltx_heads(model: nn.Module) -> tuple[int, int]:
    attention = model.transformer_blocks[0].attn1
    return attention.heads, attention.dim_head


def _cosmos_heads(model: nn.Module) -> tuple[int, int]:
    return model.num_heads, model.model_channels // model.num_heads


def _mochi_heads(model: nn.Module) -> tuple[int, int]:
    return model.num_heads, model.head_dim


def _ltx_patch(model: nn.Module) -> Sequence[int]:
    return model.patchifier.patch_size


def _cosmos_patch(model: nn.Module) -> Sequence[int]:
    return model.patch_temporal, model.patch_spatial, model.patch_spatial


def _mochi_patch(model: nn.Module) -> Sequence[int]:
    return 1, model.patch_size, model.patch_size


HUNYUAN_BLOCKS, KANDINSKY_BLOCKS = ("double_blocks", "single_blocks"), ("visual_transformer_blocks",)
LTX_BLOCKS = ("transformer_blocks",)
FAMILIES = (
    # All after the video: reference and motion, reference, pose.
    Family("Wan S2V", "WanModel_S2V", lambda *_: 0, True, _wan_others, _wan_heads),
    Family("Wan HuMo", "HumoWanModel", lambda *_: 0, True, _wan_others, _wan_heads),
    Family("Wan SCAIL", "SCAILWanModel", lambda *_: 0, True, _wan_others, _wan_heads),
    Family("Wan", "WanModel", _wan, True, _wan_others, _wan_heads, surplus_is_frames=True),
    Family("HunyuanVideo", "HunyuanVideo", _hunyuan, False, _hunyuan_others, _hunyuan_heads, HUNYUAN_BLOCKS),
    # The text comes first, and attends together with the video.
    Family("CogVideoX", "CogVideoXTransformer3DModel", _all_before, False, lambda *_: ([], []), _cogvideox_heads),
    Family("Kandinsky 5", "Kandinsky5", lambda *_: None, False, _kandinsky_others, _kandinsky_heads, KANDINSKY_BLOCKS),
    Family("MiniMax-H3", "MiniMaxH3Model", _minimax, False, _minimax_others, _minimax_heads),
    # Keyframes come after the video, as frames of it or parts of frames; audio has smaller heads and attends by itself.
    Family("LTX", "LTXVModel", lambda *_: 0, False, _text_others, _ltx_heads, LTX_BLOCKS, True, _ltx_patch),
    Family("Cosmos 1", "GeneralDIT", lambda *_: None, True, _text_others, _cosmos_heads, patch=_cosmos_patch),
    Family("Cosmos Predict 2", "MiniTrainDIT", lambda *_: None, True, _text_others, _cosmos_heads, patch=_cosmos_patch),
    # The text comes last, and attends together with the video.
    Family("Mochi", "AsymmDiTJoint", lambda *_: 0, False, lambda *_: ([], []), _mochi_heads, patch=_mochi_patch, wrapped=False),
)
# Any other model whose tokens are patches of a video and nothing else.
OTHER = Family("this model", "", lambda *_: None, False, None, lambda model: (0, 0), blocks=())


def family_of(diffusion_model: nn.Module) -> Family | None:
    """The family that the model's class belongs to, `OTHER` for another that cuts videos into patches, or None."""
    names = {base.__name__ for base in type(diffusion_model).__mro__}
    known = next((family for family in FAMILIES if family.module in names), None)
    return known or (OTHER if _patch(diffusion_model) else None)


def layers(family: Family, model: nn.Module) -> int:
    """How many layers of self-attention the model has, 0 if it is of no known family."""
    return sum(len(getattr(model, name, ())) for name in family.blocks)


def layer_of(family: Family, model: nn.Module, options: Mapping, calls: int) -> int:
    """Position among the model's layers of the one that a call comes from; where the host's options do not tell it, by the
    calls of the video's self-attention that came before.
    """
    if "block_index" not in options:
        for left_out in sorted(options.get("stg_self_attn_blocks", ())):  # by LTX's spatio-temporal guidance
            calls += left_out <= calls
        return calls
    kinds, kind = family.blocks or HUNYUAN_BLOCKS, f"{options.get('block_type')}_blocks"
    before = kinds[: kinds.index(kind)] if kind in kinds else ()
    return sum(len(getattr(model, name, ())) for name in before) + options["block_index"]
