"""Nodes for the demo and the host tests: what a text encoder or a VAE would give, the random state, attention time."""

import hashlib
import random
import time
from types import SimpleNamespace

import torch

BYT5_WIDTH = 1472


class Conditioning:
    """Random text embeddings [1, tokens, width], from a generator of its own, and what some models want beside them."""

    CATEGORY = "SVGDemo"
    FUNCTION = "run"
    RETURN_TYPES = ("CONDITIONING",)

    @classmethod
    def INPUT_TYPES(cls):
        count = ("INT", {"default": 0, "min": 0, "max": 8192, "tooltip": "0 for none."})
        return {
            "required": {
                "tokens": ("INT", {"default": 12, "min": 1, "max": 8192}),
                "width": ("INT", {"default": 4096, "min": 1, "max": 8192}),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**32}),
            },
            "optional": {
                "pooled": count,
                "byt5_tokens": count,
                "vision_tokens": count,
                "vision_width": count,
                "masked": ("BOOLEAN", {"default": False, "tooltip": "Mask the last quarter of the tokens."}),
            },
        }

    def run(self, tokens, width, seed, pooled=0, byt5_tokens=0, vision_tokens=0, vision_width=0, masked=False):
        generator = torch.Generator().manual_seed(seed)

        def random_tensor(*shape):
            return torch.randn(1, *shape, generator=generator)

        text = random_tensor(tokens, width)
        extra = {"pooled_output": random_tensor(pooled) if pooled else None}
        if byt5_tokens:
            extra["conditioning_byt5small"] = random_tensor(byt5_tokens, BYT5_WIDTH)
        if vision_tokens:
            hidden = random_tensor(vision_tokens, vision_width)
            extra["clip_vision_output"] = SimpleNamespace(last_hidden_state=hidden, penultimate_hidden_states=hidden)
        if masked:
            extra["attention_mask"] = (torch.arange(tokens) < tokens - tokens // 4).long().unsqueeze(0)
        return ([[text, extra]],)


class ConditioningTensor:
    """Random tensor under a key of a conditioning, in place of what a VAE or an audio encoder would give."""

    CATEGORY = "SVGDemo"
    FUNCTION = "run"
    RETURN_TYPES = ("CONDITIONING",)

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "conditioning": ("CONDITIONING",),
                "key": ("STRING", {"default": "time_dim_concat"}),
                "shape": ("STRING", {"default": "1,16,1,8,8", "tooltip": "Sizes with commas between; none for a number."}),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**32}),
            },
            "optional": {
                "as_list": ("BOOLEAN", {"default": False, "tooltip": "For keys that hold a list: append to it."}),
            },
        }

    def run(self, conditioning, key, shape, seed, as_list=False):
        sizes = [int(size) for size in shape.split(",") if size.strip()]
        value = torch.randn(sizes, generator=torch.Generator().manual_seed(seed))
        return ([[text, {**extra, key: [*extra.get(key, ()), value] if as_list else value}] for text, extra in conditioning],)


class Latent:
    """Zero latent [batch, channels, frames, height, width], in latent cells."""

    CATEGORY = "SVGDemo"
    FUNCTION = "run"
    RETURN_TYPES = ("LATENT",)

    @classmethod
    def INPUT_TYPES(cls):
        cells = ("INT", {"default": 8, "min": 1, "max": 1024})
        return {
            "required": {
                "channels": ("INT", {"default": 16, "min": 1, "max": 128}),
                "frames": cells,
                "height": cells,
                "width": cells,
                "batch": ("INT", {"default": 1, "min": 1, "max": 64}),
            }
        }

    def run(self, channels, frames, height, width, batch):
        return ({"samples": torch.zeros(batch, channels, frames, height, width)},)


class RandomState:
    """Pass a latent on and show a hash of the global random state of torch, numpy and python."""

    CATEGORY = "SVGDemo"
    FUNCTION = "run"
    RETURN_TYPES = ("LATENT",)
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"samples": ("LATENT",)}}

    @classmethod
    def IS_CHANGED(cls, samples):
        return float("nan")

    def run(self, samples):
        return {"ui": {"text": [random_state_hash()]}, "result": (samples,)}


def random_state_hash() -> str:
    """SHA-256 of the global random state of torch (CPU and every CUDA device), numpy and python."""
    import numpy

    states = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else ())]
    parts = [*(state.numpy().tobytes() for state in states), repr(random.getstate()).encode()]
    name, keys, *rest = numpy.random.get_state()
    parts += [keys.tobytes(), repr((name, *rest)).encode()]
    return hashlib.sha256(b"".join(parts)).hexdigest()


class TimeAttention:
    """Tell the page how long the self-attention of each sampling run took, planning included; comes after the other nodes."""

    CATEGORY = "SVGDemo"
    FUNCTION = "run"
    RETURN_TYPES = ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}

    def run(self, model):
        from comfy.patcher_extension import WrappersMP

        model = model.clone()
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "svg_demo_time", _tell_attention_time)
        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "svg_demo_time", _time_attention)
        return (model,)


def _tell_attention_time(executor, *args, **kwargs):
    from server import PromptServer

    options = executor.class_obj.model_options.setdefault("transformer_options", {})
    options["svg_demo_time"] = timed = SimpleNamespace(seconds=0.0, calls=0)  # not a list: the host copies these
    try:
        return executor(*args, **kwargs)
    finally:
        del options["svg_demo_time"]
        server = PromptServer.instance
        server.send_sync("svg_demo.attention", {"seconds": timed.seconds, "calls": timed.calls}, server.client_id)


def _time_attention(executor, *args, **kwargs):
    """Inside the other nodes' wrappers, so that it times what they put in place."""
    name = "optimized_attention_override"
    options = next(x for x in (*args, *kwargs.values()) if isinstance(x, dict) and "svg_demo_time" in x)
    inner, total = options.get(name), options["svg_demo_time"]

    def timed(func, q, k, *args, **kwargs):
        begin = time.perf_counter()
        out = inner(func, q, k, *args, **kwargs) if inner else func(q, k, *args, **kwargs)
        if q.shape == k.shape:  # cross-attention to the text is left out
            total.seconds += time.perf_counter() - begin
            total.calls += 1
        return out

    ours = {**options, name: timed}
    args = tuple(ours if x is options else x for x in args)
    return executor(*args, **{key: ours if x is options else x for key, x in kwargs.items()})


NODE_CLASS_MAPPINGS = {
    "SVGDemoConditioning": Conditioning,
    "SVGDemoConditioningTensor": ConditioningTensor,
    "SVGDemoLatent": Latent,
    "SVGDemoRandomState": RandomState,
    "SVGDemoTimeAttention": TimeAttention,
}
