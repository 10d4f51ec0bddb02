"""Models and uses of theirs that stay dense by their nature: each for a reason that says what it is."""

from __future__ import annotations

import pytest
from in_process import run_in_host
from real_host import reports
from tiny_checkpoints import write_checkpoint

# The same weights as another kind of model, as the host reads it from a file's metadata.
LOAD_AS = """
import comfy.samplers
from importlib.util import find_spec
from safetensors.torch import load_file, save_file
def load_as(family, **config):
    weights = load_file(f"{checkpoints}/{family}.safetensors")
    save_file(weights, f"{checkpoints}/another.safetensors", {"config": json.dumps({"transformer": config})})
    return load("another")

def run(model, positive=(), sampler=None):
    size = (1, 16, 5, 16, 24)
    noise = torch.randn(size, generator=torch.Generator().manual_seed(0))
    conditions = [[conditioning(1)[0][0], {"pooled_output": None, **dict(positive)}]], conditioning(2)
    sampler = sampler or comfy.samplers.ksampler("euler")
    with torch.inference_mode():
        sigmas = torch.tensor([1.0, 0.6, 0.0])
        return comfy.sample.sample_custom(model, noise, 1.0, sampler, sigmas, *conditions, torch.zeros(size), seed=0)
"""
CAUSAL = """
if find_spec("comfy.ldm.wan.ar_model"):
    model = load_as("wan21_t2v", causal_ar=True)
    for method in CONFIGS:
        by_parts = lambda model: run(model, sampler=comfy.samplers.ksampler("ar_video", {"num_frame_per_block": 1}))
        plain, out = by_parts(model), by_parts(patch(model, method))
        tell(f"by parts, {method}", same=bool(torch.equal(plain, out)))
        out = run(patch(model, method))
        tell(f"as a whole, {method}", finite=bool(out.isfinite().all()))
"""
ANIMATE = """
if find_spec("comfy.ldm.wan.model_animate2"):
    model = load_as("wan21_i2v", model_type="animate2")
    pose = torch.randn(1, 16, 4, 16, 24, generator=torch.Generator().manual_seed(3))
    for method in CONFIGS:
        for name, extra in {"posed": {"pose_video_latent": pose}, "no pose": {}}.items():
            plain, out = run(model, extra), run(patch(model, method), extra)
            tell(f"{name}, {method}", same=bool(torch.equal(plain, out)))
"""
TRAINING = """
import comfy.samplers
from sparse_videogen.nodes.patch import reports_of

class Training(comfy.samplers.Sampler):
    # As core's trainer: the model is called with gradients on, and a loss goes back through it.
    def sample(self, model, sigmas, extra_args, callback, noise, *args, **kwargs):
        with torch.enable_grad():
            loss = model(noise, sigmas[:1], **extra_args).square().mean()
            loss.backward()
        return noise

def gradient(model):
    weight = model.model.diffusion_model.blocks[1].self_attn.q.weight
    weight.requires_grad_(True)
    weight.grad = None
    noise = torch.randn((1, 16, 5, 16, 24), generator=torch.Generator().manual_seed(0))
    conditions = conditioning(1), conditioning(2)
    comfy.sample.sample_custom(model, noise, 1.0, Training(), torch.tensor([0.9, 0.0]), *conditions, torch.zeros_like(noise))
    return weight.grad.clone()

import comfy.model_management
comfy.model_management.in_training = True  # as core's trainer says to hosts that have kernels without gradients
model = load()
plain = gradient(model)
for method in CONFIGS:
    patched = patch(model, method)
    same = bool(torch.equal(gradient(patched), plain))
    (report,) = reports_of(patched).values()
    tell(method, same=same, some=float(plain.abs().sum()), reasons=report["dense_reasons"])
"""


def test_training_is_dense_and_its_gradients_are_the_models_own(host, tmp_path):
    facts = run_in_host(host.path, TRAINING, tmp_path)
    for told in (facts["SVG"], facts["SVG2"]):
        assert told["same"] and told["some"] > 0 and set(told["reasons"]) == {"training", "dense_blocks"}
        (line,) = (line for line in told["said"] if "stays dense" in line)
        assert "training: gradients are enabled" in line and "failed" not in "".join(told["said"])


def test_cores_trainer_trains_the_dense_model(host, method):
    info = host.server.object_info()["TrainLoraNode"]
    asked = {name: spec for group in ("required", "optional") for name, spec in info["input"].get(group, {}).items()}
    inputs = {name: spec[1]["default"] for name, spec in asked.items() if len(spec) > 1 and "default" in spec[1]}
    inputs |= {name: spec[0][0] for name, spec in asked.items() if isinstance(spec[0], list) and name not in inputs}
    inputs |= {"latents": ["latent", 0], "positive": ["positive", 0], "steps": 2, "rank": 4, "existing_lora": "[None]"}
    inputs |= {"training_dtype": "fp32", "lora_dtype": "fp32"}
    prompt = host.prompt("wan21_t2v", method, start_percent=0.0)
    inputs["model"] = prompt.pop("sampler")["inputs"]["model"]
    prompt["train"] = {"class_type": "TrainLoraNode", "inputs": inputs}
    loss = ["train", info["output"].index("LOSS_MAP")]
    prompt["save"] = {"class_type": "LossGraphNode", "inputs": {"loss": loss, "filename_prefix": "loss"}}
    result = host.server.queue(prompt)
    assert [set(report["dense_reasons"]) for report in reports(result)] == [{"training", "dense_blocks"}]
    assert "failed" not in result.log and "gradients are enabled, and sparse attention cannot compute them" in result.log


def test_causal_wan_says_what_it_is(host, tmp_path):
    told = run_in_host(host.path, LOAD_AS + CAUSAL, tmp_path)
    if not told:
        pytest.skip(f"ComfyUI {host.version} has no causal Wan")
    for method in ("SVG", "SVG2"):
        by_parts = told[f"by parts, {method}"]
        (line,) = (line for line in by_parts["said"] if "stays dense" in line)
        assert by_parts["same"] and "not_reached: this sampler makes the video part by part and keeps the keys" in line
        assert "update ComfyUI" not in line
        whole = told[f"as a whole, {method}"]
        assert whole["finite"] and "4 of 6 calls sparse" in whole["said"][-1]


def test_animate_2_is_dense_while_it_goes_frame_by_frame(host, tmp_path):
    write_checkpoint("wan21_i2v", tmp_path)
    told = run_in_host(host.path, LOAD_AS + ANIMATE, tmp_path)
    if not told:
        pytest.skip(f"ComfyUI {host.version} has no Wan Animate 2")
    for method in ("SVG", "SVG2"):
        posed, free = told[f"posed, {method}"], told[f"no pose, {method}"]
        lines = [line for line in posed["said"] if "stays dense" in line]
        assert posed["same"] and lines and all("attention in parts, such as frame by frame" in line for line in lines)
        assert "calls dense" in posed["said"][-1] and "not_reached" not in "".join(posed["said"])
        assert not free["same"] and "4 of 6 calls sparse" in free["said"][-1]
