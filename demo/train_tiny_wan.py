"""Trains demo/tiny_wan.safetensors by flow matching on the clips of `moving_shapes`, on a CPU or a GPU.

    python demo/train_tiny_wan.py --minutes 100 --compile      # stops and goes on where it was when run again
    python demo/train_tiny_wan.py --export demo/tiny_wan.safetensors

On a GPU, going on from the committed weights:

    python demo/train_tiny_wan.py --minutes 8 --compile --batches 16 --weights demo/tiny_wan.safetensors --export better

Every step's clips, noise and times follow from the step's number, so --steps gives the same run again;
--minutes lays the same schedule over time. A resumed run may be given another length: the schedule stretches to it.
The committed weights are the average after 6,589 steps on 2 cores with other work: the end of `--minutes 150 --compile`,
resumed from 2,439 steps of a shorter schedule.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from moving_shapes import PROMPTS, clips, embed, to_latent
from safetensors.torch import save_file
from tiny_wan import load, original_names, shifted, untrained

# Muon for the blocks' matrices, AdamW for the rest: over the first 300 steps the loss fell faster than by AdamW alone.
MATRIX_RATE, OTHER_RATE, WARM_UP, WEIGHT_DECAY = 3e-3, 1.5e-3, 0.02, 0.01
EMA = 0.999
NO_PROMPT = 0.1  # share of clips that see no prompt, for guidance
# Until this part of the schedule: frames, pixels, clips a step. 448, 1,300 and 3,024 tokens a clip.
STAGES = ((0.30, 7, 64, 12), (0.60, 13, 80, 5), (1.0, 21, 96, 3))
SAVE_EVERY_S = 300


class Training:
    """The model, its moving average and the optimizers, between `step`s and on disk."""

    def __init__(self, device: str, stages=STAGES, batches: int = 1, weights: Path | None = None):
        """Args: `batches` times as many clips a step as `stages` has; `weights` to begin with, a checkpoint."""
        torch.manual_seed(0)
        self.device, self.stages, self.batches = device, stages, batches
        self.model = (untrained() if weights is None else load(weights).train().requires_grad_(True)).to(device)
        self.ema = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        named = dict(self.model.named_parameters())
        matrices = [value for name, value in named.items() if name.startswith("blocks.") and value.ndim == 2]
        others = [value for name, value in named.items() if not (name.startswith("blocks.") and value.ndim == 2)]
        muon = torch.optim.Muon(matrices, MATRIX_RATE, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw")
        adam = torch.optim.AdamW(others, OTHER_RATE, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
        self.optimizers = {MATRIX_RATE: muon, OTHER_RATE: adam}
        self.texts = torch.cat([embed(prompt) for prompt in (*range(len(PROMPTS)), None)]).to(device)
        self.forward = self.model
        self.steps, self.seconds = 0, 0.0

    def step(self, done: float) -> float:
        """One step of the optimizer at this part of the schedule, in [0, 1]; returns the loss."""
        begin = time.perf_counter()
        rng = torch.Generator().manual_seed(self.steps)
        frames, pixels, count = next(stage[1:] for stage in self.stages if done <= stage[0])
        count *= self.batches
        prompts = [(self.steps * count + i) % len(PROMPTS) for i in range(count)]
        clean = to_latent(clips(prompts, frames, pixels, pixels, rng, self.device))
        on_device = torch.Generator(self.device).manual_seed(int(torch.randint(2**31, (), generator=rng)))
        noise = torch.randn(clean.shape, generator=on_device, device=self.device)
        u = (torch.arange(count) + torch.rand(count, generator=rng)) / count
        sigma = shifted(u[torch.randperm(count, generator=rng)]).to(self.device)
        hidden = torch.rand(count, generator=rng) < NO_PROMPT
        text = self.texts[torch.where(hidden, len(PROMPTS), torch.tensor(prompts)).to(self.device)]

        for rate, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1, done / WARM_UP + 0.01) * 0.5 * (1 + math.cos(math.pi * done))
        with torch.autocast(self.device, torch.bfloat16):
            noisy = torch.lerp(clean, noise, sigma.view(-1, 1, 1, 1, 1))
            (velocity,) = self.forward(noisy, 1000 * sigma, text, return_dict=False)
        loss = (velocity.float() - (noise - clean)).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        keep = min(EMA, (1 + self.steps) / (10 + self.steps))
        for name, value in self.model.state_dict().items():
            self.ema[name].lerp_(value, 1 - keep)
        loss = loss.item()
        self.seconds += time.perf_counter() - begin
        return loss

    def save(self, file: Path) -> None:
        """Writes all that `load` needs, at once or not at all."""
        file.parent.mkdir(parents=True, exist_ok=True)
        half_written = file.with_suffix(".part")
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers.values()]
        state = {"model": self.model.state_dict(), "ema": self.ema, "optimizers": optimizers}
        torch.save(state | {"steps": self.steps, "seconds": self.seconds}, half_written)
        half_written.replace(file)

    def load(self, file: Path) -> None:
        """Goes on where `save` was."""
        state = torch.load(file, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers.values(), state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.ema, self.steps, self.seconds = state["ema"], state["steps"], state["seconds"]


def train(training: Training, *, minutes: float | None, steps: int | None) -> Iterator[tuple[float, float]]:
    """Yields (part of the schedule, loss) after every step, to the end of the schedule."""

    def done() -> float:
        return training.steps / steps if steps else training.seconds / (60 * minutes)

    while done() < 1:
        yield done(), training.step(done())


def main() -> None:
    """Trains, and exports, as asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, help="length of the whole schedule, earlier runs of this state included")
    length.add_argument("--steps", type=int, help="the same in steps")
    parser.add_argument("--state", type=Path, default=Path("demo/out/tiny_wan_training.pt"), help="where training is kept")
    parser.add_argument("--batches", type=int, default=1, help="times as many clips a step, for a GPU")
    parser.add_argument("--weights", type=Path, help="begin with this checkpoint, at the last stage's size")
    parser.add_argument("--export", type=Path, help="write the averaged weights there as bfloat16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="torch.compile: 15 %% faster, takes minutes to begin")
    arguments = parser.parse_args()
    stages = STAGES if arguments.weights is None else STAGES[-1:]
    training = Training(arguments.device, stages, arguments.batches, arguments.weights)
    shall_train = arguments.minutes or arguments.steps
    if arguments.state.exists():
        training.load(arguments.state)
    elif not shall_train:
        parser.error(f"nothing to export: {arguments.state} does not exist; train first with --minutes or --steps")
    if arguments.compile:
        training.forward = torch.compile(training.model)
    if shall_train:
        _run(training, arguments)
    if arguments.export:
        weights = {name: value.bfloat16().contiguous().cpu() for name, value in training.ema.items()}
        save_file(original_names(weights), arguments.export)
        print(f"{arguments.export}: {arguments.export.stat().st_size / 1e6:.1f} MB after {training.steps} steps")


def _run(training: Training, arguments) -> None:
    """Trains with lines of progress, saving the state now and then, and at the end."""
    mean, saved = None, time.monotonic()
    for done, loss in train(training, minutes=arguments.minutes, steps=arguments.steps):
        mean = loss if mean is None else 0.98 * mean + 0.02 * loss
        if training.steps % 100 == 0:
            print(f"{done:6.1%} step {training.steps} loss {mean:.4f} {training.seconds / 60:.1f} min", flush=True)
        if time.monotonic() - saved > SAVE_EVERY_S:
            training.save(arguments.state)
            saved = time.monotonic()
    training.save(arguments.state)


if __name__ == "__main__":
    main()
