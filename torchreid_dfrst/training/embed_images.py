"""Images to embeddings: one pass of a network over a loader, shared by all processes and merged once per image."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from torchreid_dfrst.processes import current, of_all, raise_together
from torchreid_dfrst.training.step import PRECISIONS


class Embedded(NamedTuple):
    """What a network says about a list of images, row by row in the loader's order."""

    embedding: np.ndarray
    """``(N, D)`` float32, not normalised."""
    identity: np.ndarray
    """``(N,)`` int64."""
    camera: np.ndarray
    """``(N,)`` int64."""
    path: np.ndarray
    """``(N,)`` str."""


@torch.inference_mode()
def embed(
    model: nn.Module,
    loader: Iterable[dict[str, Any]],
    device: torch.device | str = "cpu",
    precision: str = "fp32",
    channels_last: bool = True,
    bar: Callable[..., Any] | None = None,
    check: Callable[[], object] | None = None,
    agree: Callable[[Exception | None], object] = raise_together,
) -> Embedded:
    """Run a network over test images.

    Each of several processes has every n-th image in its loader (``DataManager.loader``) and gets the whole result.

    Args:
        model: gives ``(B, D)`` in evaluation; left in the mode it was in.
        loader: torchreid's batches; where images may be left out, also their ``number`` in the loader's own list.
        device: where the model is.
        precision: ``fp32``, ``bf16`` or ``fp16`` (autocast).
        channels_last: memory layout of the images.
        bar: wraps the loader, such as ``tqdm.tqdm``.
        check: called before each batch; what it raises ends the pass.
        agree: called by all processes at once, each with what happened to it; raises in all of them or in none.

    Raises:
        ValueError: the loader has no image.
    """
    device = torch.device(device)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    batches: list[tuple[Any, ...]] = []
    failure: Exception | None = None
    mine = None
    mode, group, seen = model.training, current(), 0
    model.eval()
    try:
        for batch in bar(loader, unit="batch", leave=False) if bar else loader:
            if check is not None:
                check()
            images = batch["img"].to(device, memory_format=layout, non_blocking=True)
            with torch.autocast(device.type, PRECISIONS[precision], enabled=precision != "fp32"):
                rows = model(images).float()
            number = batch.get("number", torch.arange(seen, seen + len(rows)))
            seen += len(rows)
            place = number * group.world_size + group.rank
            batches.append((rows, batch["pid"], batch["camid"], place, batch["impath"]))
        mine = _join_batches(batches)
    except Exception as error:
        failure = error
    finally:
        model.train(mode)
    # nobody may wait for rows that will never come
    agree(failure)
    return _merge_processes(of_all(mine))


def _join_batches(parts: list[tuple[Any, ...]]) -> tuple[Any, ...] | None:
    if not parts:
        return None
    *columns, paths = zip(*parts, strict=True)
    return *(torch.cat(column).cpu() for column in columns), [path for part in paths for path in part]


def _merge_processes(parts: list[tuple[Any, ...]]) -> Embedded:
    whole = _join_batches([part for part in parts if part is not None])
    if whole is None:
        raise ValueError("there is no image to embed: the loader is empty or no file could be read")
    *columns, places, paths = whole
    order = torch.argsort(places)
    embedding, identity, camera = (column[order].numpy() for column in columns)
    return Embedded(embedding, identity, camera, np.array(paths, dtype=np.str_)[order.numpy()])
