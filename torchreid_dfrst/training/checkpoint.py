"""Checkpoints that are whole or absent, hold no code, and from which training goes on bit for bit."""

from __future__ import annotations

import json
import logging
import random
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from safetensors.torch import save as tensors_as_bytes
from torch import nn

from torchreid_dfrst import files
from torchreid_dfrst.messages import sample
from torchreid_dfrst.models.weights import DESCRIPTION, HASH, description_digest, digest, read_safely

logger = logging.getLogger(__name__)

FORMAT = "torchreid_dfrst checkpoint 2"
"""To be raised when a state holds something else, or when the same seed gives other batches."""
SUFFIX = ".pt"
WEIGHTS, RESULT = "weights.safetensors", "result.json"
"""Files of a finished run."""


class UnreadableError(ValueError):
    """What was to be saved holds objects that ``load`` would refuse."""


def save(path: str | Path, state: Mapping[str, Any]) -> Path:
    """Write tensors, numbers, text, lists and dicts: to a temporary file, synced, read back and checked, then renamed.

    Raises:
        OSError: the disk is full or the folder cannot be written; an earlier file of that name stays, whole.
        UnreadableError: ``state`` holds something else, and could not be loaded again.
    """
    content = {"format": FORMAT, **state}
    size = _bytes_of_state(content)
    files.write({Path(path): lambda file: _write_checkpoint(content, file)}, _compare_with_checksums, size)
    return Path(path)


def _bytes_of_state(value: Any, place: str = "") -> int:
    """Bytes of all tensors in a state, nearly all of its file; refuses what ``load`` would refuse."""
    if isinstance(value, torch.Tensor):
        return value.nbytes
    if type(value) in (dict, OrderedDict, Counter):
        return sum(_bytes_of_state(part, f"{place}[{name!r}]") for name, part in value.items())
    if type(value) in (list, tuple, set, torch.Size):
        return sum(_bytes_of_state(part, f"{place}[{number}]") for number, part in enumerate(value))
    if isinstance(value, (int, float, complex, str, bytes, torch.dtype, np.number, np.bool_, type(None))):
        return 0
    raise UnreadableError(
        f"a checkpoint of this run could not be loaded again, so none is saved: its state{place} is of type "
        f"{type(value).__name__}. Everything in it has to be tensors, numbers, text, or lists and dicts of them"
    )


def _write_checkpoint(content: Mapping[str, Any], file: IO[bytes]) -> None:
    try:
        torch.save(content, file)
    except RuntimeError as error:
        # torch's writer hides the system's error behind its own
        system = error.__context__
        if isinstance(system, OSError) and system.errno is not None:
            raise OSError(system.errno, system.strerror) from error
        raise OSError(str(error)) from error


def _compare_with_checksums(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as file:
            torn = file.testzip()
    except zipfile.BadZipFile as error:
        raise OSError(f"{path} is torn ({error})") from error
    if torn:
        raise OSError(f"{path} is torn: the part {torn} does not match its checksum")


def load(path: str | Path) -> dict[str, Any]:
    """Read what ``save`` wrote, once, onto the CPU; every part is compared with its checksum.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is torn, not one of ours, or holds pickled code, which is refused and not run.
        OSError: it could not be read, which says nothing about the file.
    """
    files.require_file(path, f"no checkpoint at {path}")
    state = read_safely(path)
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(
            f"{path} is not a checkpoint of this package and version: to start from bare weights use model.weights, "
            "to go on training give a file from a run's checkpoints folder"
        )
    return state


def newest(folder: str | Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest whole checkpoint of a folder and its state, or None; torn ones are passed over with a warning."""
    for path in reversed(all_steps(folder)):
        try:
            return path, load(path)
        except (ValueError, FileNotFoundError) as error:
            logger.warning("skipping a checkpoint: %s", error)
    return None


def step_path(folder: str | Path, step: int) -> Path:
    """Where the checkpoint after ``step`` optimiser steps lies."""
    return Path(folder) / f"step-{step:010d}{SUFFIX}"


def all_steps(folder: str | Path) -> list[Path]:
    """All step checkpoints of a run, oldest first, torn ones included."""
    return sorted(Path(folder).glob(f"step-{'[0-9]' * 10}{SUFFIX}"))


class Checkpoints:
    """The checkpoints of one run: which are written, which stay, which one to resume from.

    The last two always stay. A run that resumes from an earlier one than the newest deletes the later ones with its
    first save: left alone, they would count as the newest.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        files.require_writable(step_path(folder, 0))

    def save(self, step: int, state: Mapping[str, Any], keep_each: int = 0, final: bool = False) -> Path | None:
        """Write the checkpoint after ``step`` optimiser steps; those of multiples of ``keep_each`` are never deleted.

        Returns:
            The file, or None where nothing was written, which is logged.

        Raises:
            OSError: it could not be written and is ``final``: training ends with this one.
            UnreadableError: as ``checkpoint.save``.
        """
        try:
            path = save(step_path(self.folder, step), state)
        except OSError as error:
            # that may be an earlier one of this very step
            before = bool(all_steps(self.folder))
            stays = "the checkpoint before it stays" if before else "there is no checkpoint before it"
            if final:
                raise OSError(f"{error}; {stays}") from error
            logger.error("%s; %s, training goes on and tries again at the next one", error, stays)
            return None
        steps = {int(other.stem.removeprefix("step-")): other for other in all_steps(self.folder)}
        for other in (number for number in steps if number > step):
            logger.warning("deleting %s: the run went on without it and has saved step %d", steps[other], step)
            steps[other].unlink(missing_ok=True)
        for other in [number for number in steps if number <= step][:-2]:
            if not keep_each or other % keep_each:
                steps[other].unlink(missing_ok=True)
        for left_over in self.folder.glob("*.part"):
            left_over.unlink(missing_ok=True)
        return path

    def find(self, resume: str | None) -> tuple[Path, dict[str, Any]] | None:
        """The checkpoint and its state to go on from: ``resume``, a file or ``auto`` for the newest whole one, or None.

        Raises:
            FileNotFoundError, ValueError, OSError: as ``load``, or an earlier run's checkpoints are in the way.
        """
        there = all_steps(self.folder)
        if resume == "auto":
            found = newest(self.folder)
            if found is None and there:
                raise ValueError(
                    f"{self.folder} holds checkpoints and none that is whole: to start from the beginning delete them, "
                    "or choose another train.save_dir"
                )
            if found is None:
                logger.info("%s holds no checkpoint: starting from the beginning", self.folder)
            return found
        elsewhere = resume and Path(resume).resolve().parent != self.folder.resolve()
        if elsewhere and (there or (self.folder.parent / RESULT).is_file()):
            raise ValueError(
                f"{resume} does not lie in {self.folder}, and {self.folder.parent} holds an earlier run: go on with "
                "that one (train.resume auto), or choose another train.save_dir"
            )
        if not resume and there:
            raise ValueError(
                f"{self.folder} holds the checkpoints of an earlier run: go on with it (train.resume auto), or "
                "choose another train.save_dir"
            )
        return (Path(resume), load(resume)) if resume else None


def best_is_there(save_dir: Path, best: Mapping[str, Any]) -> bool:
    """Are the weights on disk those that a checkpoint calls the best? Not where a run was killed as it wrote them."""
    try:
        return json.loads((save_dir / "best.json").read_text(encoding="utf-8"))["best"] == best
    except (OSError, ValueError, KeyError, TypeError):
        return False


def finished_result(save_dir: Path, step: int) -> dict[str, Any] | None:
    """What ``result.json`` says of a run that ended after ``step`` steps; None where it or the weights are missing."""
    try:
        result = json.loads((save_dir / RESULT).read_text(encoding="utf-8"))
        whole = result["step"] == step and all(isinstance(values, dict) for values in result["metrics"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return result if whole and (save_dir / WEIGHTS).is_file() else None


def export(path: str | Path, model: nn.Module, source: Mapping[str, Any]) -> Path:
    """Write the weights alone as ``.safetensors``, and what is needed to use them as ``.json`` beside them.

    Args:
        path: file to write, ending in ``.safetensors``; an earlier one stays where this fails.
        model: whose state dict is written, and its ``digest`` into the ``.json``, whose hash goes into the file of
            weights: so the hash of that one file covers both.
        source: what the ``.json`` says, in JSON types; folders of this machine are left out.
    """
    path = Path(path)
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    about = json.dumps(files.without_folders({**source, HASH: digest(weights)}), indent=2) + "\n"
    metadata = {DESCRIPTION: description_digest(json.loads(about))}
    files.write({path: tensors_as_bytes(weights, metadata), path.with_suffix(".json"): about.encode()})
    return path


def set_weights(model: nn.Module, state: Mapping[str, torch.Tensor], where: str) -> None:
    """``load_state_dict`` with a ``ValueError`` that counts and shows names, shapes and types that differ."""
    own = model.state_dict()
    both = [(name, state[name], own[name]) for name in own if name in state]
    shapes = [f"{name} {tuple(a.shape)} for {tuple(b.shape)}" for name, a, b in both if a.shape != b.shape]
    types = [f"{name} {a.dtype} for {b.dtype}".replace("torch.", "") for name, a, b in both if a.dtype != b.dtype]
    wrong = {
        "missing": [name for name in own if name not in state],
        "unknown": [name for name in state if name not in own],
        "of another shape": shapes,
        "of another type": types,
    }
    if types and sum(map(bool, wrong.values())) == 1:
        raise ValueError(
            f"{where} has {len(types)} of {len(own)} tensors of another type than the network ({types[0]}, ...): save "
            "it as it was trained, in float32"
        )
    if any(wrong.values()):
        words = [f"{len(names)} {kind} ({sample(names)})" for kind, names in wrong.items() if names]
        raise ValueError(
            f"{where} is of another architecture than {type(model).__name__}: of {len(own)} tensors "
            f"{'; '.join(words)}. Use the model name, options and number of identities that it was trained with"
        )
    model.load_state_dict(dict(state))


def random_state() -> dict[str, Any]:
    """The state of every random generator that this process draws from, of several GPUs of its own alone."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002  user code may draw from it
    return {
        "python": random.getstate(),
        "numpy": [str(name), torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else [],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put back what ``random_state`` gave, onto this process's own GPU."""
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(state["cuda"][0])
