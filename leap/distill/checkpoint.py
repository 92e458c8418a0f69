"""Checkpoints that a killed run goes on from: whole or absent, tensors only (safetensors, no pickle)."""

import hashlib
import json
import re
import shutil
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from transformers import PreTrainedModel

from leap.folders import write_folder

TENSORS = ("model.safetensors", "optimizer.safetensors")
STATE = "state.json"
KEEP = 2  # the newest, and one to fall back on should its files turn out broken


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        step: optimizer steps done.
        batches: global batches done.
        tokens: seen.
        rows: of the log.
    """

    step: int = 0
    batches: int = 0
    tokens: int = 0
    rows: list[dict[str, float]] = field(default_factory=list)


def save_checkpoint(
    folder: Path,
    progress: Progress,
    model: nn.Module,
    optimizer: Optimizer,
    run: dict[str, object],
    scaler: GradScaler | None = None,
) -> None:
    """Write `folder/step-N` and drop all but the newest `KEEP`.

    Args:
        folder: holds the checkpoints of one run.
        progress: what has been done.
        model: its parameters and buffers are stored in the precision they have.
        optimizer: its per-parameter tensors are stored.
        run: what must be the same for a run to go on from here (JSON values).
        scaler: of the gradients in float16, whose scale belongs to the exact step; None in other precisions.
    """
    with write_folder(folder / _name(progress.step)) as partial:
        save_file(
            {name: tensor.contiguous() for name, tensor in model.state_dict().items()},
            partial / "model.safetensors",
            metadata={"format": "pt"},
        )
        if isinstance(model, PreTrainedModel):  # which then loads as a model of its own: --student
            model.config.to_json_file(partial / "config.json", use_diff=False)
        save_file(_optimizer_tensors(optimizer), partial / "optimizer.safetensors")
        sums = {name: _sha256(partial / name) for name in TENSORS}
        state = asdict(progress) | {"run": run, "sha256": sums}
        state["scaler"] = scaler.state_dict() if scaler else None
        (partial / STATE).write_text(json.dumps(state | {"state_sha256": _digest(state)}, indent=2))
    for old in _checkpoints(folder)[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizer: Optimizer,
    run: dict[str, object],
    scaler: GradScaler | None = None,
    resume: bool = True,
) -> Progress:
    """Restore the newest whole checkpoint of `folder` and say how far it was; a start where there is none.

    A checkpoint that is broken is passed over with a warning. Without `resume` none is looked for.

    Raises:
        ValueError: the checkpoint is of another run: of other options, texts, models or tokenizer.
    """
    for checkpoint in reversed(_checkpoints(folder) if resume else []):
        try:
            state = _read_state(checkpoint)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            warnings.warn(
                f"resume: {checkpoint} is broken ({error}); going back to the one before", stacklevel=2
            )
            continue
        _check_same_run(checkpoint, state["run"], run)
        model.load_state_dict(load_file(checkpoint / "model.safetensors"))
        _restore_optimizer(optimizer, load_file(checkpoint / "optimizer.safetensors"))
        if scaler:
            scaler.load_state_dict(state["scaler"])
        return Progress(**{name: state[name] for name in ("step", "batches", "tokens", "rows")})
    return Progress()


def check_finished(log: Path, run: dict[str, object]) -> None:
    """Raise a ValueError if there is a log already, of a finished run, and that was another one."""
    if not log.exists():
        return
    try:
        before = dict(json.loads(log.read_text(encoding="utf-8"))["run"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"resume: {log} is not the log of a run: remove it, or give another --output_dir"
        ) from error
    _check_same_run(log, before, run)


def _check_same_run(path: Path, before: dict[str, object], now: dict[str, object]) -> None:
    """Raise a ValueError that names the first difference between what made `path` and this run."""
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            raise ValueError(
                f"resume: {path} was made with {name}={before.get(name)!r}, now {now.get(name)!r}; "
                "give the run the same again, or another --output_dir"
            )


def _read_state(checkpoint: Path) -> dict[str, Any]:
    """What stands in its state.json; an error of some kind where it or its tensors are not as written."""
    state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    broken = [name for name in TENSORS if _sha256(checkpoint / name) != state["sha256"][name]]
    digest = state.pop("state_sha256")
    if digest != _digest(state) or checkpoint.name != _name(state["step"]):
        broken.append(STATE)
    if broken:
        raise OSError(f"{', '.join(broken)} is not what was written")
    return state


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _digest(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if re.fullmatch(r"step-\d+", path.name))


def _parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _optimizer_tensors(optimizer: Optimizer) -> dict[str, torch.Tensor]:
    return {
        f"{index}.{name}": value.detach().contiguous()
        for index, parameter in enumerate(_parameters(optimizer))
        for name, value in optimizer.state[parameter].items()
    }


def _restore_optimizer(optimizer: Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    parameters = _parameters(optimizer)
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        parameter = parameters[int(index)]
        # AdamW keeps its step count on the CPU unless it is fused; the moments lie with the parameter.
        device = parameter.device if value.dim() or optimizer.defaults.get("fused") else "cpu"
        optimizer.state[parameter][name] = value.to(device)


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()  # hashlib.file_digest needs Python 3.11
