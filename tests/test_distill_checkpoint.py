"""Checkpoints: what is stored comes back, broken ones are passed over, other runs are refused."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.amp import GradScaler

from distill.checkpoint import load_checkpoint, save_checkpoint

RUN = {"seed": 0}


def trained(scale: float = 8.0) -> tuple[nn.Module, torch.optim.Optimizer, GradScaler]:
    """A layer after one step, its optimizer and its scaler; the same ones every time."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    scaler = GradScaler("cpu", init_scale=scale, growth_interval=1)
    scaler.scale(model(torch.ones(1, 3)).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    return model, optimizer, scaler


def test_everything_comes_back(tmp_path: Path) -> None:
    model, optimizer, scaler = trained()
    save_checkpoint(tmp_path, 3, model, optimizer, RUN, scaler)
    again = nn.Linear(3, 2)
    other = torch.optim.AdamW(again.parameters(), lr=0.1)
    fresh = GradScaler("cpu", init_scale=2.0, growth_interval=1)
    assert load_checkpoint(tmp_path, again, other, RUN, fresh) == 3
    assert torch.equal(again.weight, model.weight)
    assert torch.equal(other.state[again.weight]["exp_avg"], optimizer.state[model.weight]["exp_avg"])
    assert fresh.get_scale() == scaler.get_scale() == 16.0


def test_a_broken_newest_is_passed_over(tmp_path: Path) -> None:
    model, optimizer, _ = trained()
    for step in (1, 2):
        save_checkpoint(tmp_path, step, model, optimizer, RUN)
    weights = tmp_path / "step-00000002" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.warns(
        UserWarning, match="step-00000002 is broken .*model.safetensors is not what was written"
    ):
        assert load_checkpoint(tmp_path, model, optimizer, RUN) == 1


def test_another_run_is_refused_and_none_is_step_0(tmp_path: Path) -> None:
    model, optimizer, _ = trained()
    assert load_checkpoint(tmp_path, model, optimizer, RUN) == 0
    save_checkpoint(tmp_path, 1, model, optimizer, RUN)
    with pytest.raises(ValueError, match="made with seed=0, now 1; pass the same arguments"):
        load_checkpoint(tmp_path, model, optimizer, {"seed": 1})
