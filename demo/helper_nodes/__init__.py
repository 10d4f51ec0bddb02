"""Nodes for the demo and the host tests: what a text encoder or a VAE would give, and a look at the random state."""

import hashlib
import random
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
                "masked": ("BOOLEAN", {"default": False, "tooltip": "Add an attention mask of ones."}),
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
            extra["attention_mask"] = torch.ones(1, tokens, dtype=torch.long)
        return ([[text, extra]],)


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


NODE_CLASS_MAPPINGS = {
    "SVGDemoConditioning": Conditioning,
    "SVGDemoLatent": Latent,
    "SVGDemoRandomState": RandomState,
}
