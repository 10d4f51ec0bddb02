"""Nodes that give what a loader, a text encoder or a VAE would, and one that shows the random state."""

import hashlib
import json
import pickle
import random
from types import SimpleNamespace

import numpy
import torch

from .registry import node

BYT5_WIDTH = 1472
OPTIONAL_TEXT = {"pooled": 0, "byt5_tokens": 0, "vision_tokens": 0, "vision_width": 0, "masked": False}


@node("SVGDemoConditioning", "CONDITIONING", OPTIONAL_TEXT, tokens=12, width=4096, seed=0)
def conditioning(tokens, width, seed, pooled=0, byt5_tokens=0, vision_tokens=0, vision_width=0, masked=False):
    """Random text embeddings [1, tokens, width], from a generator of its own, and what some models want beside them.

    Counts of 0 are for none; `masked` masks the last quarter of the tokens.
    """
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


@node("SVGDemoConditioningTensor", "CONDITIONING", {"as_list": False}, conditioning="CONDITIONING", key="", shape="", seed=0)
def conditioning_tensor(conditioning, key, shape, seed, as_list=False):
    """Random tensor under a key of a conditioning, in place of what a VAE or an audio encoder would give.

    `shape` is sizes with commas between; with `as_list` the tensor is appended to the list under the key.
    """
    sizes = [int(size) for size in shape.split(",")]
    value = torch.randn(sizes, generator=torch.Generator().manual_seed(seed))
    return ([[text, {**extra, key: [*extra.get(key, ()), value] if as_list else value}] for text, extra in conditioning],)


@node("SVGDemoLatent", "LATENT", channels=16, frames=8, height=8, width=8, batch=1)
def latent(channels, frames, height, width, batch):
    """Zero latent [batch, channels, frames, height, width], in latent cells."""
    return ({"samples": torch.zeros(batch, channels, frames, height, width)},)


@node("SVGTestLatent", "LATENT", shape="")
def latent_of_shape(shape):
    """Zero latent of a shape such as "1, 8, 33, 16", as of sound."""
    return ({"samples": torch.zeros([int(size) for size in shape.split(",")])},)


@node("SVGTestFlatLatent", "LATENT", samples="LATENT")
def flat_latent(samples):
    """Video and sound of a nested latent as one tensor [batch, 1, elements], which SaveLatent can write."""
    parts = [part.flatten(1) for part in samples["samples"].unbind()]
    return ({"samples": torch.cat(parts, dim=1).unsqueeze(1)},)


@node("SVGTestConditioningValue", "CONDITIONING", conditioning="CONDITIONING", key="", value="", seed=0)
def conditioning_value(conditioning, key, value, seed):
    """A JSON value under a key of a conditioning; {"randn": shape} in it stands for a random tensor."""
    generator = torch.Generator().manual_seed(seed)
    filled = json.loads(value, object_hook=lambda x: torch.randn(x["randn"], generator=generator) if "randn" in x else x)
    return ([[text, {**extra, key: filled}] for text, extra in conditioning],)


@node("SVGTestLoader", "MODEL", unet_name="", config="{}")
def loader(unet_name, config):
    """As UNETLoader, but entries of `config`, JSON, take the place of what the host finds in the checkpoint."""
    import comfy.model_detection as detection

    import nodes

    detect = detection.detect_unet_config
    detection.detect_unet_config = lambda *args, **kwargs: {**detect(*args, **kwargs), **json.loads(config)}
    try:
        return nodes.UNETLoader().load_unet(unet_name, "default")
    finally:
        detection.detect_unet_config = detect


@node("SVGTestVAE", "VAE")
def video_vae():
    """Encodes to random latents [1, 128, frames, height, width] as LTX's VAE does: 8 frames of 32 x 32 pixels each."""

    def encode(pixels):
        frames, height, width, _ = pixels.shape
        size = (1, 128, (frames - 1) // 8 + 1, height // 32, width // 32)
        return torch.randn(size, generator=torch.Generator().manual_seed(3000))

    return (SimpleNamespace(downscale_index_formula=(8, 32, 32), encode=encode),)


@node("SVGTestICLoRA", "IC_LORA_PARAMETERS", every=2)
def ic_lora(every):
    """What an IC-LoRA says of its references: along height and width, one of `every` tokens is there."""
    return ({"reference_downscale_factor": every},)


@node("SVGTestImages", "IMAGE", shape="")
def images(shape):
    """Black images of a shape such as "3, 48, 64, 1", as other packs give them."""
    return (torch.zeros([int(size) for size in shape.split(",")]),)


@node("SVGDemoRandomState", "LATENT", output=True, samples="LATENT")
def random_state(samples):
    """Passes a latent on and shows a hash of the global random state of torch, numpy and python."""
    states = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else ())]
    everything = pickle.dumps((random.getstate(), numpy.random.get_state(), [state.numpy() for state in states]))
    return {"ui": {"text": [hashlib.sha256(everything).hexdigest()]}, "result": (samples,)}
