"""What needs the host's own objects and not its server: models that are no video model."""

from __future__ import annotations

import subprocess

from comfy_host import prepare_host
from real_host import ROOT

SCRIPT = """
import logging, sys
sys.path.insert(0, sys.argv[1])
from host_launcher import declare_missing_ops
from load_pack import load_pack
declare_missing_ops()
load_pack()
sys.argv[1:] = ["--cpu"]
import comfy.options
comfy.options.enable_args_parsing()
import utils.extra_config  # as main.py does, before the host puts comfy/, with a utils.py, in front
import torch
from comfy.model_patcher import ModelPatcher
from sparse_videogen.nodes.patch import patch_model
from sparse_videogen.nodes.settings import Settings
from sparse_videogen.svg_core import SVGConfig

class Image(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.diffusion_model = torch.nn.Linear(4, 4)

records = []
logger = logging.getLogger("sparse_videogen")
logger.setLevel(logging.INFO)
logger.addHandler(type("Keep", (logging.Handler,), {"emit": lambda self, record: records.append(record.getMessage())})())
model = ModelPatcher(Image(), torch.device("cpu"), torch.device("cpu"))
patched = patch_model(model, Settings(SVGConfig()))
assert patched is not model
assert "optimized_attention_override" not in patched.model_options.get("transformer_options", {})
assert not any(patched.wrappers.values()), patched.wrappers
print("|".join(records))
"""


def test_an_unknown_model_passes_unchanged(host):
    command = [prepare_host(host.path), "-c", SCRIPT, str(ROOT / "demo")]
    result = subprocess.run(command, cwd=host.path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    line = "SVG: Linear is no video model that this node knows (Wan, HunyuanVideo, CogVideoX); nothing changes"
    assert result.stdout.strip().endswith(f"[sparse_videogen] {line}")
