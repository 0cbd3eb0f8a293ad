"""Checkpoints that are whole or absent, hold no code, and from which training goes on bit for bit."""

from __future__ import annotations

import errno
import json
import logging
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from safetensors.torch import save as tensors_as_bytes
from torch import nn

from torchreid_dfrst import files
from torchreid_dfrst.files import DAMAGED, not_the_file, sync_folder
from torchreid_dfrst.models.weights import read_safely

logger = logging.getLogger(__name__)

FORMAT = "torchreid_dfrst checkpoint 1"
SUFFIX = ".pt"


class UnreadableError(ValueError):
    """What was to be saved holds objects that ``load`` would refuse."""


def save(path: str | Path, state: Mapping[str, Any]) -> Path:
    """Write a checkpoint: to a temporary file, synced, read back and checked, then renamed.

    Whatever happens meanwhile, a file of that name is either the old one or the new one, whole.

    Args:
        path: file to write; its folder is made if needed.
        state: tensors, numbers, strings, and lists and dicts of them.

    Raises:
        OSError: the disk is full or the folder cannot be written; nothing is left behind.
        UnreadableError: the file is whole and could not be loaded again, because of what ``state`` holds.
    """
    content = {"format": FORMAT, **state}
    files.write({Path(path): lambda file: _write(content, file)}, _read_back, _size(content))
    return Path(path)


def _write(content: Mapping[str, Any], file: IO[bytes]) -> None:
    try:
        torch.save(content, file)
    except RuntimeError as error:
        # torch's writer covers what the system said with an error of its own
        system = error.__context__
        if isinstance(system, OSError) and system.errno is not None:
            raise OSError(system.errno, system.strerror) from error
        raise OSError(str(error)) from error
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise _unreadable(f"it holds what cannot be written ({error})") from error


def _unreadable(why: str) -> UnreadableError:
    return UnreadableError(
        f"a checkpoint of this run could not be loaded again, so none is saved: {why}. Everything in it has to "
        "be tensors, numbers, text, or lists and dicts of them; most often it is in the engine's describe"
    )


def _size(value: Any) -> int:
    """Bytes of all tensors in a state, nearly all of its file."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    values = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return sum(map(_size, values))


def _read_back(path: Path) -> None:
    try:
        verify(path)
    except ValueError as error:
        raise OSError(str(error)) from error
    try:
        read_safely(path)
    except ValueError as error:
        raise _unreadable(str(error)) from error


def verify(path: str | Path) -> None:
    """Read the whole file and compare every part with its checksum.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is truncated, altered or not a checkpoint.
        OSError: it could not be read, which says nothing about the file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        with zipfile.ZipFile(path) as file:
            torn = file.testzip()
    except DAMAGED as error:
        not_the_file(error, path)
        raise ValueError(f"{path} is torn or not a checkpoint ({error})") from error
    if torn is not None:
        raise ValueError(f"{path} is torn: the part {torn} does not match its checksum")


def load(path: str | Path) -> dict[str, Any]:
    """Read what ``save`` wrote, onto the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is torn, not one of ours, or holds pickled code, which is refused and not run.
        OSError: as ``verify``.
    """
    verify(path)
    state = read_safely(path)
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(
            f"{path} is not a checkpoint of this package: to start from bare weights use model.weights, "
            "to go on training give a file from a run's checkpoints folder"
        )
    return state


def newest(folder: str | Path) -> Path | None:
    """The newest whole checkpoint of a run's folder, or None; torn ones are passed over with a warning.

    Raises:
        OSError: one could not be read; it may be whole all the same.
    """
    for path in reversed(all_steps(folder)):
        try:
            load(path)
        except (ValueError, FileNotFoundError) as error:
            logger.warning("skipping a checkpoint: %s", error)
        else:
            return path
    return None


def step_path(folder: str | Path, step: int) -> Path:
    """Where the checkpoint after ``step`` optimiser steps lies."""
    return Path(folder) / f"step-{step:010d}{SUFFIX}"


def all_steps(folder: str | Path) -> list[Path]:
    """All step checkpoints of a run, oldest first, torn ones included."""
    return sorted(Path(folder).glob(f"step-{'[0-9]' * 10}{SUFFIX}"))


def discard_after(folder: str | Path, step: int) -> None:
    """Delete the step checkpoints of later steps: torn ones, or those of a course that a resumed run has left.

    Left alone, they would count as the last ones, and be what the run goes on from the next time.
    """
    for path in all_steps(folder):
        if _step_of(path) > step:
            logger.warning("deleting %s: the run went on without it and has saved step %d", path, step)
            path.unlink(missing_ok=True)


def prune(folder: str | Path, keep: set[int], last: int = 2) -> None:
    """Delete all step checkpoints but the ``last`` ones and those of the steps in ``keep``; leftovers go as well."""
    for path in all_steps(folder)[:-last]:
        if _step_of(path) not in keep:
            path.unlink(missing_ok=True)
    for path in Path(folder).glob("*.part"):
        path.unlink(missing_ok=True)


def _step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def copy(source: Path, target: Path) -> None:
    """Give a whole checkpoint a second name, without a second copy of its bytes where the file system can."""
    temporary = target.with_name(target.name + ".part")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EXDEV, errno.EMLINK, errno.EACCES):
            raise
        files.write({target: source.read_bytes()})
        return
    os.replace(temporary, target)
    sync_folder(target.parent)


def export(path: str | Path, model: nn.Module, source: Mapping[str, Any]) -> Path:
    """Write the weights alone as ``.safetensors``, and what is needed to use them as ``.json`` beside them.

    Args:
        path: file to write, ending in ``.safetensors``.
        model: its state dict is written.
        source: JSON types: the model's name and options, number of identities, image size, configuration.

    Raises:
        OSError: the disk is full or the folder cannot be written; earlier files of these names stay.
    """
    path = Path(path)
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    about = json.dumps(source, indent=2) + "\n"
    files.write({path: tensors_as_bytes(weights), path.with_suffix(".json"): about.encode()})
    return path


def set_weights(model: nn.Module, state: Mapping[str, torch.Tensor], where: str) -> None:
    """``load_state_dict`` with an error that a person can act on.

    Raises:
        ValueError: names or shapes differ; the message counts and shows them.
    """
    own = model.state_dict()
    missing = [name for name in own if name not in state]
    unknown = [name for name in state if name not in own]
    other = [
        f"{n} {tuple(state[n].shape)} for {tuple(own[n].shape)}"
        for n in own
        if n in state and state[n].shape != own[n].shape
    ]
    if missing or unknown or other:
        wrong = [
            f"{len(names)} {word} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for names, word in ((missing, "missing"), (unknown, "unknown"), (other, "of another shape"))
            if names
        ]
        raise ValueError(
            f"{where} is of another architecture than {type(model).__name__}: of {len(own)} tensors "
            f"{'; '.join(wrong)}. Use the model name, options and number of identities that it was trained with"
        )
    model.load_state_dict(dict(state))
