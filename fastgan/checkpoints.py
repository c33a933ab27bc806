"""Checkpoints: all that resuming needs, in safetensors and JSON, written whole or not at all."""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fastgan.errors import UserError
from fastgan.files import BEST, CHECKPOINTS, read_json, write_folder, write_json
from fastgan.hub import load_weights, save_model, save_tensors
from fastgan.models import Generator

PREFIX = "checkpoint-"
STATE_FILE = "state.json"
KID_FILE = "kid.json"  # of the model beside it


@dataclass
class RunState:
    """Where a run stands. With the seed it also fixes everything random that is still to come."""

    images: int = 0  # real pictures shown to D
    steps: int = 0  # optimizer steps
    seconds: float = 0.0  # spent training, all sessions together
    level: int = 0  # shorter side of the pictures it trains at; 0, in older ones, is the full one

    @property
    def kimg(self) -> float:
        """Thousands of real pictures shown to D."""
        return self.images / 1000


def save_checkpoint(
    folder: Path,
    state: RunState,
    networks: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
    memory: Mapping[str, Tensor],
    scaler: dict[str, Any] | None,
    keep: int,
    best: int | None = None,
) -> Path:
    """Write `folder`/checkpoint-<images> and remove all but the newest `keep` and the best.

    Args:
        folder: where checkpoints are.
        state: where the run stands.
        networks, optimizers: by name.
        memory: what the objective keeps from step to step.
        scaler: the gradient scaler's state, if there is one.
        keep: how many checkpoints stay.
        best: pictures that D had seen when the best model was kept; a checkpoint of then stays too.

    Raises:
        UserError: it could not be written; older checkpoints are untouched.
    """

    def write(path: Path) -> None:
        for name, network in networks.items():
            save_tensors(network.state_dict(), path / f"{name}.safetensors")
        for name, optimizer in optimizers.items():
            save_tensors(_optimizer_tensors(optimizer), path / f"optimizer_{name}.safetensors")
        if memory:
            save_tensors(memory, path / "memory.safetensors")
        write_json(path / STATE_FILE, {"state": asdict(state), "scaler": scaler})

    path = checkpoint_of(folder, state.images)
    write_folder(path, write)
    for old in checkpoints_in(folder)[:-keep]:
        if best is None or old != checkpoint_of(folder, best):
            shutil.rmtree(old, ignore_errors=True)
    return path


def checkpoint_of(folder: Path, images: int) -> Path:
    """Where the checkpoint of a run that has seen so many pictures is."""
    return folder / f"{PREFIX}{images:010d}"


def checkpoints_in(folder: Path) -> list[Path]:
    """The whole checkpoints in a folder, oldest first; what a killed run left half written is not among them."""
    return sorted(path for path in folder.glob(f"{PREFIX}*") if (path / STATE_FILE).is_file())


def clear_leftovers(folder: Path) -> None:
    """Remove what a run that was killed while it saved left half written."""
    for path in folder.glob(f".{PREFIX}*"):
        shutil.rmtree(path, ignore_errors=True)


def load_checkpoint(
    path: Path, networks: Mapping[str, nn.Module], optimizers: Mapping[str, torch.optim.Optimizer]
) -> tuple[RunState, dict[str, Tensor], dict[str, Any] | None]:
    """Fill networks and optimizers from a checkpoint.

    Returns:
        Where the run stood, what its objective kept (on the CPU), and the gradient scaler's state.

    Raises:
        UserError: the checkpoint is damaged, or of networks that differ from these.
    """
    for name, network in networks.items():
        load_weights(network, path / f"{name}.safetensors")
    for name, optimizer in optimizers.items():
        _load_optimizer(optimizer, path / f"optimizer_{name}.safetensors")
    state, scaler = read_state(path)
    return state, _load_memory(path / "memory.safetensors"), scaler


def read_state(path: Path) -> tuple[RunState, dict[str, Any] | None]:
    """Where the run of a checkpoint stood, and the gradient scaler's state.

    Raises:
        UserError: the checkpoint is damaged.
    """
    values = read_json(path / STATE_FILE)
    try:
        names = [field.name for field in fields(RunState)]  # older ones held the best model's figures too
        return RunState(**{name: values["state"][name] for name in names if name in values["state"]}), values["scaler"]
    except (KeyError, TypeError):
        raise UserError(f"{path / STATE_FILE}: not the state of a run; resume from an older checkpoint") from None


def newest_state(run: Path) -> RunState | None:
    """Where a run stood at its newest checkpoint; None where there is none."""
    checkpoints = checkpoints_in(run / CHECKPOINTS)
    return read_state(checkpoints[-1])[0] if checkpoints else None


class Best(NamedTuple):
    """How good the model in best/ is, and of when."""

    kid: float
    images: int  # real pictures shown to D by then
    copies: int = 0  # of training pictures, as of :func:`fastgan.watch.copying`; what is farther from them is better
    pictures: str = ""  # fingerprint of those it was compared with, where that is known


def keep_best(run: Path, generator: Generator, best: Best) -> None:
    """Write a generator into a run's best/, with its figures beside it."""
    save_model(generator, run / BEST)
    write_json(run / BEST / KID_FILE, best._asdict())


def best_of_run(run: Path) -> Best | None:
    """What is known of the model in a run's best/; None where there is none."""
    try:
        return Best(**read_json(run / BEST / KID_FILE))
    except (UserError, TypeError):
        return None


def _load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, copied: Windows would not let go of a mapped file while they live."""
    return {name: tensor.clone() for name, tensor in load_file(path).items()}


def _load_memory(path: Path) -> dict[str, Tensor]:
    """What an objective kept; nothing where it keeps nothing."""
    try:
        return _load_tensors(path) if path.exists() else {}
    except SafetensorError as error:
        raise UserError(f"{path}: damaged ({error}); resume from an older checkpoint") from None


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Adam's moments and step counts by position of the parameter: "<position>.<name>"."""
    states = optimizer.state_dict()["state"]
    return {f"{i}.{name}": torch.as_tensor(value) for i, state in states.items() for name, value in state.items()}


def _load_optimizer(optimizer: torch.optim.Optimizer, path: Path) -> None:
    states: dict[int, dict[str, Tensor]] = {}
    try:
        for key, tensor in _load_tensors(path).items():
            position, name = key.split(".")
            states.setdefault(int(position), {})[name] = tensor
        optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    except Exception as error:
        raise UserError(f"{path}: not the optimizer of this run ({error}); resume from an older checkpoint") from None
