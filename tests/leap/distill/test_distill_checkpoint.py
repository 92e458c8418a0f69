"""Checkpoints: what is stored comes back, broken ones are passed over, other runs are refused."""

from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from torch import nn
from torch.amp import GradScaler

from leap.distill.checkpoint import Progress, load_checkpoint, save_checkpoint
from leap.errors import UsageError

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
    progress = Progress(3, 5, 700, [{"step": 2, "loss": 0.5}])
    save_checkpoint(tmp_path, progress, model, optimizer, RUN, scaler)
    again = nn.Linear(3, 2)
    other = torch.optim.AdamW(again.parameters(), lr=0.1)
    fresh = GradScaler("cpu", init_scale=2.0, growth_interval=1)
    assert load_checkpoint(tmp_path, again, other, RUN, fresh) == progress
    assert torch.equal(again.weight, model.weight)
    assert torch.equal(other.state[again.weight]["exp_avg"], optimizer.state[model.weight]["exp_avg"])
    assert fresh.get_scale() == scaler.get_scale() == 16.0


def test_a_broken_newest_is_passed_over(tmp_path: Path) -> None:
    model, optimizer, _ = trained()
    for step in (1, 2):
        save_checkpoint(tmp_path, Progress(step), model, optimizer, RUN)
    weights = tmp_path / "step-00000002" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.warns(
        UserWarning, match="step-00000002 is broken .*model.safetensors is not what was written"
    ):
        assert load_checkpoint(tmp_path, model, optimizer, RUN).step == 1


def test_another_run_is_refused_and_none_is_step_0(tmp_path: Path) -> None:
    model, optimizer, _ = trained()
    assert load_checkpoint(tmp_path, model, optimizer, RUN) == Progress()
    save_checkpoint(tmp_path, Progress(1), model, optimizer, RUN)
    with pytest.raises(ValueError, match="made with seed=0, now 1; give the run the same again"):
        load_checkpoint(tmp_path, model, optimizer, {"seed": 1})
    with pytest.raises(ValueError, match="made with texts_sha256=None, now 'a'"):
        load_checkpoint(tmp_path, model, optimizer, RUN | {"texts_sha256": "a"})
    with pytest.raises(ValueError, match="made with seed=0, now None"):
        load_checkpoint(tmp_path, model, optimizer, {})
    assert load_checkpoint(tmp_path, model, optimizer, {}, resume=False) == Progress()


@pytest.mark.parametrize(
    ("before", "after"), [('"step": 2', '"step": 3'), ('"seed": 0', '"seed": 1'), ("{", "[")]
)
def test_a_changed_state_is_passed_over(tmp_path: Path, before: str, after: str) -> None:
    model, optimizer, _ = trained()
    for step in (1, 2):
        save_checkpoint(tmp_path, Progress(step), model, optimizer, RUN)
    state = tmp_path / "step-00000002" / "state.json"
    state.write_text(state.read_text().replace(before, after, 1))
    with pytest.warns(UserWarning, match="step-00000002 is broken"):
        assert load_checkpoint(tmp_path, model, optimizer, RUN).step == 1


def test_a_full_disk_is_said_and_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimizer, _ = trained()
    save_checkpoint(tmp_path, Progress(1), model, optimizer, RUN)

    def full(tensors: object, path: Path, metadata: object) -> None:
        Path(path).write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("leap.distill.checkpoint.save_file", full)
    with pytest.raises(UsageError, match=r"cannot write .*step-00000002.*No space left.*make room") as error:
        save_checkpoint(tmp_path, Progress(2), model, optimizer, RUN)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
