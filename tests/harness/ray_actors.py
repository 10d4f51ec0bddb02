"""Scripts in the process of a real ComfyUI beside two Ray actors on the CPU, with raylight's worker in them or without.

A script finds what one in `in_process.py` finds, and `actors(shared)` -> RAY_ACTORS: `shared` ones are raylight's workers and
make one video together; the others make a whole one each, and have those of raylight's methods that a sampler and we call.
`sampled(ray_actors)` -> the latents, by raylight's sampler or without it; `with_node(ray_actors, method, **widgets)`.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path

from comfy_host import prepare_host
from in_process import PRELUDE
from processes import environment
from ranks import HARNESS, IMPORT, NODES, find_raylight
from tiny_checkpoints import write_checkpoint

ACTORS = """
import os, ray
raylight = os.environ["RAYLIGHT"]
folders = [harness, os.environ["PYTHONPATH"], os.getcwd(), *([raylight] if raylight else [])]
variables = {"PYTHONPATH": os.pathsep.join(folders), "OMP_NUM_THREADS": "1"}
where = {"runtime_env": {"env_vars": variables}, "_temp_dir": os.environ["RAY_FOLDER"], "_node_ip_address": "127.0.0.1"}
ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 << 20, **where)

@ray.remote(num_cpus=1)
class Worker:
    def __init__(self, rank, checkpoint, shared):
        import sys
        from types import SimpleNamespace
        from host_launcher import EmptyTorchaudio, declare_missing_ops
        declare_missing_ops()
        sys.meta_path.append(EmptyTorchaudio)
        import comfy.cli_args
        comfy.cli_args.args.cpu = True
        import torch
        torch.set_num_threads(1)
        import comfy.patcher_extension
        import comfy.sd
        if shared:
            self.worker = self.raylights(rank)
        else:
            self.worker = SimpleNamespace(common_ksampler=self.sample)
        self.worker.model = comfy.sd.load_diffusion_model(checkpoint)
        if shared:
            self.worker.patch_usp()

    def raylights(self, rank):
        import torch
        has_cuda, torch.cuda.is_available = torch.cuda.is_available, lambda: True
        import raylight
        torch.cuda.is_available = has_cuda
        torch.distributed.init_process_group("gloo", rank=rank, world_size=2, init_method=os.environ["MEETING"])
        from raylight.distributed_worker.parallel_group_manager import initialize_xfuser_parallel
        from raylight.distributed_worker.ray_worker import RayWorker
        worker = RayWorker.__new__(RayWorker)  # without its first steps, which want a GPU
        degrees = {"ulysses_degree": 2, "ring_degree": 1, "cfg_degree": 1}
        kind = {"is_xdit": True, "is_fsdp": False, "attention": "TORCH_MATH", "sync_ulysses": False}
        worker.parallel_dict = kind | degrees
        worker.xfuser_parallel = initialize_xfuser_parallel(rank, 2, worker.parallel_dict)
        worker.local_rank, worker.vae_model, worker.cached_controlnet = rank, None, None
        return worker

    def sample(self, seed, steps, cfg, sampler_name, scheduler, positive, negative, latent, **options):
        import comfy.sample, torch
        latent = latent["samples"]
        noise, model = comfy.sample.prepare_noise(latent, seed), self.worker.model
        with torch.no_grad():
            inputs = positive, negative, latent
            return ({"samples": comfy.sample.sample(model, noise, steps, cfg, sampler_name, scheduler, *inputs)},)

    def get_parallel_dict(self):
        return self.worker.parallel_dict

    def model_function_runner(self, fn, *args, **kwargs):
        self.worker.model = fn(self.worker.model, *args, **kwargs)

    def model_function_runner_get_values(self, fn, *args, **kwargs):
        return fn(self.worker.model, *args, **kwargs)

    def common_ksampler(self, *args, **kwargs):
        return self.worker.common_ksampler(*args, **kwargs)

    def custom_sampler_advanced(self, *args, **kwargs):
        return self.worker.custom_sampler_advanced(*args, **kwargs)

def actors(shared):
    workers = [Worker.remote(rank, f"{checkpoints}/wan21_t2v.safetensors", shared) for rank in range(2)]
    ray.get([worker.__ray_ready__.remote() for worker in workers])
    return {"workers": workers}

from sparse_videogen.nodes import ray as nodes_ray
def with_node(ray_actors, method, **values):
    values = widgets(method, **values)
    return nodes_ray.proxies(ray_actors, Settings.of(NODES[method].CONFIG, values, "7"), values)

def sampled(ray_actors, steps=3):
    latent = {"samples": torch.zeros(1, 16, 5, 14, 22)}
    conds = conditioning(1), conditioning(2)
    if "parallel" in ray_actors:
        from raylight.nodes import XFuserKSamplerAdvanced
        run = XFuserKSamplerAdvanced().ray_sample
        out, _ = run(ray_actors, "enable", 0, steps, 5.0, "euler", "simple", *conds, latent, 0, 10000, "disable")
        return [out["samples"]]
    calls = [one.common_ksampler.remote(0, steps, 5.0, "euler", "simple", *conds, latent) for one in ray_actors["workers"]]
    return [out["samples"] for (out,) in ray.get(calls)]

def sampled_alone(model):
    latent = torch.zeros(1, 16, 5, 14, 22)
    with torch.no_grad():
        inputs = comfy.sample.prepare_noise(latent, 0), 3, 5.0, "euler", "simple", conditioning(1), conditioning(2), latent
        return comfy.sample.sample(model, *inputs)
"""


def run_beside_actors(host_path: Path, script: str, folder: Path, *, raylight: bool, timeout_s: float = 300) -> dict:
    """Runs the script and returns what it told; `raylight`: imports that too."""
    write_checkpoint("wan21_t2v", folder)
    facts, ending = folder / "facts.json", 'open(facts_file, "w").write(json.dumps(facts))\nray.shutdown()'
    program = "\n".join([PRELUDE, NODES, ACTORS, IMPORT + "import raylight.nodes" if raylight else "", script, ending])
    command = [str(part) for part in (prepare_host(host_path), "-c", program, HARNESS, folder, facts)]
    with tempfile.TemporaryDirectory(prefix="ray-") as own:  # pytest's are too long for the names of sockets
        env = environment(
            RAYLIGHT=str(find_raylight() / "src") if raylight else "",
            MEETING=f"file://{own}/meeting",
            RAY_FOLDER=own,
        )
        result = subprocess.run(command, cwd=host_path, capture_output=True, text=True, env=env, timeout=timeout_s)
    assert result.returncode == 0, f"{result.stdout[-3000:]}\n{result.stderr[-5000:]}"
    return json.loads(facts.read_text())
