"""Scripts in the process of a real ComfyUI, without its server: to break things from inside, and to look at them.

A script finds `load(family)`, `sample(model, seed=0)` -> latent, `patch(model, method, **settings)`, `said` (the
pack's log lines so far) and `tell(name, **facts)`, which collects what the test gets back. Also `import_seconds`, of the
processor, that the pack's nodes took after the host's own imports, and the modules that they `brought`.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from comfy_host import prepare_host
from tiny_checkpoints import write_checkpoint

HARNESS = Path(__file__).parent
PRELUDE = """
import json, logging, sys, time
harness, checkpoints, facts_file = sys.argv[1:4]
sys.path.insert(0, harness)
from host_launcher import EmptyTorchaudio, declare_missing_ops
from load_pack import load_pack
declare_missing_ops()
sys.meta_path.append(EmptyTorchaudio)
load_pack()
sys.argv[1:] = ["--cpu", "--use-pytorch-cross-attention"]
import comfy.options
comfy.options.enable_args_parsing()
import utils.extra_config  # as main.py does, before the host puts comfy/, with a utils.py, in front
import torch
import comfy.sample
import comfy.sd
import server  # and with it all that the host itself has imported when it comes to packs
before, begin = set(sys.modules), time.process_time()
import sparse_videogen.nodes.extension
import_seconds, brought = time.process_time() - begin, sorted(set(sys.modules) - before)
from sparse_videogen.nodes.patch import patch_model
from sparse_videogen.nodes.settings import Settings
from sparse_videogen.svg_core import SVG2Config, SVGConfig

said, facts = [], {}
logger = logging.getLogger("sparse_videogen")
logger.setLevel(logging.INFO)
keep = lambda self, record: said.append(record.getMessage())
logger.addHandler(type("Keep", (logging.Handler,), {"emit": keep})())
CONFIGS = {
    "SVG": SVGConfig(sparsity=0.7),
    "SVG2": SVG2Config(density=0.4, q_clusters=8, k_clusters=24, kmeans_init_iters=6),
}

def load(family="wan21_t2v"):
    return comfy.sd.load_diffusion_model(f"{checkpoints}/{family}.safetensors")

def patch(model, method, **settings):
    options = {"start_percent": 0.0, "min_tokens": 0, "dense_blocks": frozenset({0})} | settings
    return patch_model(model, Settings(CONFIGS[method], **options))

def conditioning(seed):
    return [[torch.randn(1, 12, 4096, generator=torch.Generator().manual_seed(seed)), {"pooled_output": None}]]

def sample(model, seed=0, steps=4, callback=None):
    size = (1, 16, 5, 16, 24)
    noise = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        inputs = conditioning(1), conditioning(2), torch.zeros(size)
        return comfy.sample.sample(model, noise, steps, 5.0, "euler", "simple", *inputs, callback=callback)

def tell(name, **values):
    facts[name] = {**values, "said": list(said)}
    said.clear()
"""


def run_in_host(host_path: Path, script: str, folder: Path) -> dict:
    """Runs the script and returns what it told: name -> its values and the log lines since the last."""
    write_checkpoint("wan21_t2v", folder)
    facts = folder / "facts.json"
    ending = 'open(facts_file, "w").write(json.dumps(facts))'
    command = [prepare_host(host_path), "-c", f"{PRELUDE}\n{script}\n{ending}", HARNESS, folder, facts]
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run([str(part) for part in command], cwd=host_path, capture_output=True, text=True, env=env)
    assert result.returncode == 0, result.stderr[-4000:]
    return json.loads(facts.read_text())
