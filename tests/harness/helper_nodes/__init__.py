"""Nodes for the demo and the host tests.

What a text encoder or a VAE would give, the random state, attention time; and what others do to a model: write the
attention override, take it away in mid-run, run out of memory.
"""

import hashlib
import json
import pickle
import random
import sys
import time
from types import SimpleNamespace

import numpy
import torch
from comfy.patcher_extension import WrappersMP

from .plans import watch_plans

BYT5_WIDTH = 1472
OVERRIDE = "optimized_attention_override"
NODE_CLASS_MAPPINGS = {}


def node(node_id: str, returns: str, optional: dict | None = None, output: bool = False, **required):
    """Makes a function the node of an id; inputs are given as the types of links, or as defaults."""

    def specs(given: dict) -> dict:
        kinds = {bool: "BOOLEAN", int: "INT", str: "STRING"}
        return {k: (v,) if str(v).isupper() else (kinds[type(v)], {"default": v}) for k, v in given.items()}

    inputs = {"required": specs(required), "optional": specs(optional or {})}

    def register(run):
        fields = {"FUNCTION": "run", "CATEGORY": "SVGDemo", "RETURN_TYPES": (returns,), "OUTPUT_NODE": output}
        fields |= {"INPUT_TYPES": classmethod(lambda cls: inputs), "run": staticmethod(run)}
        NODE_CLASS_MAPPINGS[node_id] = type(node_id, (), fields)
        return run

    return register


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


def patches_model(node_id: str):
    """Makes a function that changes the clone of a model the node of an id."""

    def register(change):
        @node(node_id, "MODEL", model="MODEL")
        def run(model):
            model = model.clone()
            change(model)
            return (model,)

        return change

    return register


def override_of(options: dict):
    """The attention override that stands in the options, or a call of the attention itself."""
    return options.get(OVERRIDE) or (lambda func, *args, **kwargs: func(*args, **kwargs))


@patches_model("SVGDemoTimeAttention")
def time_attention(model):
    """Tells the page how long the self-attention of each sampling run took, planning included; after the other nodes."""
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "svg_demo_time", _tell_attention_time)
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "svg_demo_time", _time_attention)


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
    options = next(x for x in (*args, *kwargs.values()) if isinstance(x, dict) and "svg_demo_time" in x)
    inner, total = override_of(options), options["svg_demo_time"]

    def timed(func, q, k, *args, **kwargs):
        begin = time.perf_counter()
        out = inner(func, q, k, *args, **kwargs)
        if q.shape == k.shape:  # cross-attention to the text is left out
            total.seconds += time.perf_counter() - begin
            total.calls += 1
        return out

    ours = {**options, OVERRIDE: timed}
    args = tuple(ours if x is options else x for x in args)
    return executor(*args, **{key: ours if x is options else x for key, x in kwargs.items()})


@patches_model("SVGTestOtherOverride")
def other_override(model):
    """Scales the result of every attention call that reaches it; does not chain to an override that is there."""
    options = model.model_options.setdefault("transformer_options", {})
    options[OVERRIDE] = lambda func, *args, **kwargs: func(*args, **kwargs) * 0.9


def before_each_forward(model, change):
    """A forward's options are what `change` makes of them."""

    def wrapper(apply_model, args):
        args["c"]["transformer_options"] = change(args["c"]["transformer_options"])
        return apply_model(args["input"], args["timestep"], **args["c"])

    model.set_model_unet_function_wrapper(wrapper)


@patches_model("SVGTestRemoveOverride")
def remove_override(model):
    """Takes the override out of a run's options, from its second forward on."""
    forwards = []

    def change(options):
        forwards.append(1)
        return {key: value for key, value in options.items() if key != OVERRIDE or len(forwards) == 1}

    before_each_forward(model, change)


@patches_model("SVGTestSparseOverride")
def sparse_override(model):
    """As core's sparse attention: puts itself in front again at every step, and takes self-attention that others pass on."""

    def change(options):
        current = override_of(options)

        def override(func, q, k, v, *rest, **kwargs):
            out = current(func, q, k, v, *rest, **kwargs)
            return out * 0.9 if q.shape == k.shape else out

        override.__module__ = "comfy_extras.nodes_sparse_attention"
        return {**options, OVERRIDE: override}

    before_each_forward(model, change)


def during_a_run(model, ending: str, name: str, replacement):
    """While it samples `replacement(original)` stands for a function of the pack, in the module whose name so ends."""

    def outer_sample(executor, *args, **kwargs):
        # The host loads the pack under a name of its own.
        (module,) = (module for name, module in sys.modules.items() if name.endswith(ending))
        original = getattr(module, name)
        setattr(module, name, replacement(original))
        try:
            return executor(*args, **kwargs)
        finally:
            setattr(module, name, original)

    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "svg_test", outer_sample)


@patches_model("SVGTestWhoseAttention")
def whose_attention(model):
    """Logs the modules whose attention calls the pack took for the video's own, in the order of a forward."""
    names = {id(module): name for name, module in model.get_model_object("diffusion_model").named_modules()}

    def caller() -> str:
        frame = sys._getframe()
        while id(frame.f_locals.get("self")) not in names:
            frame = frame.f_back
        return names[id(frame.f_locals["self"])]

    def watched(attend):
        def attend_and_tell(*args):
            print("whose attention:", caller(), flush=True)
            return attend(*args)

        return attend_and_tell

    during_a_run(model, ".nodes.patch", "attend", watched)


@patches_model("SVGTestPlans")
def plans(model):
    """Prints what the plans of each sparse call say and what was computed by them."""
    watch_plans(during_a_run, model)


@patches_model("SVGTestOutOfMemory")
def out_of_memory(model):
    """The first sparse call of a run finds no memory."""

    def once(gather):
        calls = []

        def no_memory(*args, **kwargs):
            calls.append(1)
            if len(calls) == 1:
                raise torch.cuda.OutOfMemoryError("tried to allocate 9 GiB")
            return gather(*args, **kwargs)

        return no_memory

    during_a_run(model, ".svg_core.attention", "gather_attention", once)
