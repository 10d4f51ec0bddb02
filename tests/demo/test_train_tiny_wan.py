"""Training: it learns, it repeats itself, it goes on where it was."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
import train_tiny_wan
from moving_shapes import clips
from render import CHECKPOINT
from safetensors.torch import load_file
from tiny_wan import original_names
from train_tiny_wan import Training, train

SMALL = ((1.0, 2, 48, 2),)
SCRIPT = Path(train_tiny_wan.__file__)


def test_the_loss_falls():
    losses = [loss for _, loss in train(Training("cpu", SMALL), minutes=None, steps=40)]
    # At the start the zero head leaves the whole velocity unexplained.
    assert 1.0 < losses[0] < 1.5 and sum(losses[-5:]) / 5 < 0.9 * losses[0]


def test_it_trains_the_same_model_again_and_stops_anywhere(tmp_path):
    whole, first = Training("cpu", SMALL), Training("cpu", SMALL)
    expected = [loss for _, loss in train(whole, minutes=None, steps=4)]
    steps = train(first, minutes=None, steps=4)
    losses = [next(steps)[1], next(steps)[1]]
    first.save(tmp_path / "state.pt")
    second = Training("cpu", SMALL)
    second.load(tmp_path / "state.pt")
    losses += [loss for _, loss in train(second, minutes=None, steps=4)]
    assert losses == expected
    assert all(torch.equal(second.ema[name], value) for name, value in whole.ema.items())


def test_goes_on_from_a_checkpoint_with_larger_batches(monkeypatch):
    seen = []

    def watched(prompts, *size):
        seen.append(len(prompts))
        return clips(prompts, *size)

    monkeypatch.setattr(train_tiny_wan, "clips", watched)
    training = Training("cpu", SMALL, batches=3, weights=CHECKPOINT)
    expected = load_file(CHECKPOINT)
    assert all(torch.equal(x, expected[name].float()) for name, x in original_names(training.ema).items())
    before = {name: x.clone() for name, x in training.model.named_parameters()}
    loss = training.step(0.5)
    assert seen == [6] and loss < 0.6  # untrained it is above 1
    assert any(not torch.equal(x, before[name]) for name, x in training.model.named_parameters())


def test_exports_a_checkpoint_of_what_was_trained(tmp_path):
    command = [sys.executable, SCRIPT, "--state", tmp_path / "state.pt", "--export", tmp_path / "model.safetensors"]
    nothing = subprocess.run(command, capture_output=True, text=True)
    assert nothing.returncode == 2 and "train first with --minutes or --steps" in nothing.stderr
    Training("cpu", SMALL).save(tmp_path / "state.pt")
    subprocess.run(command, check=True, capture_output=True)
    weights, committed = load_file(tmp_path / "model.safetensors"), load_file(CHECKPOINT)
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    assert {name: x.shape for name, x in weights.items()} == {name: x.shape for name, x in committed.items()}
