"""Reading files of tensors onto the CPU, without ever running what a file holds."""

from __future__ import annotations

import errno
import io
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from torchreid_dfrst.retrieval.features import DAMAGED


def read_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """The state dict in a file, without the ``module.`` that names have after training in parallel.

    Args:
        path: ``.safetensors``, one of our checkpoints or one of torchreid's (``state_dict``), or a bare state dict.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is torn, holds pickled code, or no state dict.
        OSError: it could not be read, which says nothing about the file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no weights at {path}")
    if Path(path).suffix == ".safetensors":
        try:
            state: Any = load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is not a whole safetensors file ({error})") from error
    else:
        state = read_dict(path)
        state = state.get("state_dict", state)
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no state dict: save model.state_dict(), or a dict with it under 'state_dict'")
    return {name.removeprefix("module."): value for name, value in state.items()}


def read_dict(path: str | Path, content: bytes | None = None) -> dict[str, Any]:
    """``read_safely`` of what must be a dict.

    Raises:
        ValueError: as ``read_safely``; or it holds no dict.
    """
    state = read_safely(path, content)
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds {type(state).__name__}, expected a checkpoint or a state dict")
    return state


def read_safely(path: str | Path, content: bytes | None = None) -> Any:
    """What a ``torch.save`` file holds, onto the CPU, if that is tensors, numbers, words, lists and dicts of them.

    The file is read once, and every part of it is compared with its checksum, which PyTorch does not do.

    Args:
        path: the file.
        content: of the file, where it has been read already.

    Raises:
        ValueError: the file is torn, none of ``torch.save``, or holds pickled code, which is refused and not run.
        OSError: it could not be read, which says nothing about the file, see ``not_the_file``.
    """
    try:
        file = io.BytesIO(Path(path).read_bytes() if content is None else content)
        torn = zipfile.is_zipfile(file) and zipfile.ZipFile(file).testzip()
        if torn:
            raise ValueError(f"the part {torn} does not match its checksum")
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own words go on to say how to load it all the same
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise ValueError(
            f"{path} holds pickled Python objects beside tensors and numbers{f' ({wanted[1]})' if wanted else ''}; it "
            "was refused and nothing in it was run. Files of torchreid 1.4.0 can be converted by whoever trusts them: "
            "save their state_dict alone"
        ) from error
    except (*DAMAGED, AssertionError) as error:
        not_the_file(error, path)
        raise ValueError(
            f"{path} is torn or not a checkpoint ({str(error).splitlines()[0] if str(error) else error!r})"
        ) from error


def not_the_file(error: BaseException, path: str | Path) -> None:
    """Tell an error of the machine from a damaged file; returns where it may be the file.

    Raises:
        OSError: reading failed (no such file any more, no access, a failing disk or network), or memory ran out over
            no more than the file holds.
    """
    # a damaged directory in a file makes zipfile seek to places that are none
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
        raise error
    if not (isinstance(error, MemoryError) or "can't allocate memory" in str(error)):
        return
    wanted = re.search(r"tried to allocate (\d+) bytes", str(error))
    if wanted and int(wanted[1]) > os.path.getsize(path):
        return
    # Python does not say how much was wanted
    raise OSError(
        f"memory ran out while {path} was read: free some, and try again; where there is plenty, the file asks for "
        "more than it holds, and is damaged"
    ) from error
