"""torchreid's data manager with loaders that can stop and resume anywhere, and that name a file they cannot read."""

from __future__ import annotations

import contextlib
import io
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torchreid

from torchreid_dfrst.checks import listed, nearest, numbered, within
from torchreid_dfrst.data.batches import Change, Images, Item, Loader
from torchreid_dfrst.data.once import said_once
from torchreid_dfrst.data.options import share
from torchreid_dfrst.data.sampling import EpochSampler
from torchreid_dfrst.tables import require_datasets, with_options

logger = logging.getLogger(__name__)

UNREAD = ("k_tfm", "load_train_targets", "train_sampler_t", "num_cams", "num_datasets")
"""Keywords of torchreid's data manager that change nothing in ours."""

TRANSFORMS = ("random_flip", "random_crop", "random_patch", "color_jitter", "random_erase")


class DataManager(torchreid.data.ImageDataManager):
    """torchreid's ``ImageDataManager`` with our loaders: same data sets, same transforms, other iteration.

    Beyond torchreid's keywords (``root``, ``sources``, ``targets``, ``height``, ``width``, ``transforms``,
    ...):

    Args:
        train_sampler: ``RandomIdentitySampler`` (default) or ``RandomSampler``, see ``EpochSampler``.
        on_bad_image: ``error`` stops at a file that cannot be read and names it; ``skip`` puts another image of the
            same identity in its place (training) or leaves it out (query and gallery) and remembers it.
        cache: keep the resized training images in memory.
        options: what single data sets take besides, such as ``{"reverse": True}`` (VehicleID), ``time_format``
            (VERI-Wild) or ``hold_out`` (CityFlow); each goes to the data sets that take it.
        validation_identities: training identities held out, chosen by ``seed``; they become ``validation`` (one query
            per camera, all images in the gallery) and are not trained on.
        seed: of batches, augmentation and the choice of held-out identities.
        batch_size_train: images per step over all processes together.
        batch_size_test: images per forward pass of one process in evaluation.
        num_instances: images per identity in a training batch.
        workers: loading processes per training process; 0 loads in the process itself.
        rank: this process.
        world_size: number of processes.
        **torchreid_keywords: as in torchreid; those in ``UNREAD`` are taken and change nothing.

    Attributes:
        train_set: torchreid's training data set (the sum of the sources).
        test_sets: ``test_sets[name]["query" | "gallery"]``, torchreid's data sets of each target.
        validation: ``{"query": Loader, "gallery": Loader}``, or None.
        identities: the name of one image per training label, in label order: what the classifier's rows mean.
        summary: what there is to train on, in a line.
        held_out: the name of one image per held-out identity.

    Raises:
        KeyError: an unknown data set, option, transform or sampler.
        ValueError: no batch can be made, an option is of another type, too many identities are held out, or a number
            is out of its range.
    """

    def __init__(
        self,
        train_sampler: str = "RandomIdentitySampler",
        on_bad_image: str = "error",
        cache: bool = False,
        options: Mapping[str, Any] | None = None,
        validation_identities: int = 0,
        seed: int = 0,
        batch_size_train: int = 32,
        batch_size_test: int = 32,
        num_instances: int = 4,
        workers: int = 4,
        rank: int = 0,
        world_size: int = 1,
        **torchreid_keywords: Any,
    ) -> None:
        counts = {name: torchreid_keywords.get(name, 1) for name in ("height", "width")}
        counts |= {"batch_size_train": batch_size_train, "batch_size_test": batch_size_test}
        for name, count in {**counts, "num_instances": num_instances}.items():
            within(name, count, lowest=1)
        within("workers", workers)
        _check_names(torchreid_keywords.get("transforms"), on_bad_image)
        _check_normalisation(torchreid_keywords.get("norm_mean"), torchreid_keywords.get("norm_std"))
        names = [*listed(torchreid_keywords.get("sources")), *listed(torchreid_keywords.get("targets"))]
        require_datasets(names)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), with_options(share(options, names)), said_once():
            super().__init__(train_sampler="RandomSampler", workers=0, **torchreid_keywords)
        logger.debug(printed.getvalue())
        made: Any = self
        self.train_set = made.train_loader.dataset
        self.test_sets: dict[str, dict[str, Any]] = {
            name: {part: loader.dataset for part, loader in parts.items()} for name, parts in made.test_loader.items()
        }
        self.on_bad_image, self.seed, self.rank, self.world_size = on_bad_image, seed, rank, world_size
        self.batch_size_test = batch_size_test
        self._options = {"num_workers": workers, "pin_memory": self.use_gpu}
        items, held = _hold_out(self.train_set.train, validation_identities, seed)
        first = {pid: path for path, pid, *_ in reversed(items)}
        self.identities = [Path(first[pid]).name for pid in range(len(first))]
        self.held_out = sorted(Path(p).name for p in {pid: p for p, pid, *_ in held.get("query", [])}.values())
        self._num_train_pids, self._num_train_cams = len(first), len({camera for _, _, camera, _ in items})
        self.sampler = EpochSampler(
            [pid for _, pid, *_ in items],
            batch=batch_size_train,
            instances=num_instances,
            name=train_sampler,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )
        self.train_loader = Loader(
            Images(items, self.transform_tr, substitute=on_bad_image == "skip", cache=cache),
            batch_sampler=self.sampler,
            persistent_workers=workers > 0,
            **self._options,
        )
        self.test_loader = {
            name: {part: self.loader(getattr(dataset, part)) for part, dataset in parts.items()}
            for name, parts in self.test_sets.items()
        }
        self.validation = {part: self.loader(rows) for part, rows in held.items()} if held else None
        self.summary = (
            f"{' + '.join(self.sources)}: {numbered('{count} [image|images]', len(items))} of "
            f"{numbered('{count} [identity|identities]', len(first))} by "
            f"{numbered('{count} [camera|cameras]', self._num_train_cams)} to train on, "
            f"{numbered('{count} [step|steps]', len(self.sampler))} an epoch"
            + (f"; {validation_identities} identities held out for validation" if held else "")
        )

    def loader(self, items: Sequence[Item], change: Change | None = None) -> Loader:
        """Test-time loader of any items, in order, each once; with several processes each loads every n-th image."""
        share = Images(items[self.rank :: self.world_size], self.transform_te, change=change)
        # workers start anew for each pass: between evaluations they would only hold memory
        return Loader(share, skip=self.on_bad_image == "skip", batch_size=self.batch_size_test, **self._options)

    @property
    def skipped(self) -> list[str]:
        """Paths of the images left out so far (``on_bad_image="skip"``), in order of name."""
        tested = [*self.test_loader.values(), self.validation or {}]
        loaders = [self.train_loader, *(loader for parts in tested for loader in parts.values())]
        return sorted(set().union(*(loader.skipped for loader in loaders)))


def _check_names(transforms: str | Sequence[str] | None, on_bad_image: str) -> None:
    for name in listed(transforms):
        if name.lower() not in TRANSFORMS:
            raise KeyError(f"unknown name {name!r} in data.transforms{nearest(name, TRANSFORMS)}")
        if name.lower() == "random_patch":
            logger.warning("random_patch keeps patches of earlier images: a resumed run will not be bit for bit equal")
    if on_bad_image not in ("error", "skip"):
        raise ValueError(f"data.on_bad_image is {on_bad_image!r}: use error or skip")


def _check_normalisation(mean: Sequence[float] | None, deviation: Sequence[float] | None) -> None:
    given = {"norm_mean": mean, "norm_std": deviation}
    for name, other in (("norm_mean", "norm_std"), ("norm_std", "norm_mean")):
        values = given[name]
        if values is None:
            continue
        if given[other] is None:
            raise ValueError(f"{name} is {values!r} and {other} is not given: give both, or neither for ImageNet's")
        if len(values) != 3:
            raise ValueError(f"{name} is {values!r}: one number for each of red, green and blue")
    if deviation is not None and not all(0 < value < math.inf for value in deviation):
        raise ValueError(f"norm_std is {deviation!r}: numbers above 0")


def _hold_out(items: Sequence[Item], count: int, seed: int) -> tuple[list[Item], dict[str, list[Item]]]:
    """Split off ``count`` identities; the rest are relabelled 0, 1, ... in the old order."""
    pids = sorted({pid for _, pid, *_ in items})
    if not count:
        return list(items), {}
    if not 2 <= count < len(pids):
        raise ValueError(f"data.validation_identities is {count}: hold out 2 or more of the {len(pids)} identities")
    out = set(np.random.default_rng([seed, len(pids)]).choice(pids, count, replace=False).tolist())
    label = {pid: new for new, pid in enumerate(pid for pid in pids if pid not in out)}
    kept = [(path, label[pid], camera, source) for path, pid, camera, source in items if pid in label]
    gallery = [item for item in items if item[1] in out]
    query = list({(pid, camera): item for item in reversed(gallery) for _, pid, camera, _ in [item]}.values())[::-1]
    return kept, {"query": query, "gallery": gallery}
