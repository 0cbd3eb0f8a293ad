"""torchreid's data manager with loaders that can stop and resume anywhere, and that name a file they cannot read."""

from __future__ import annotations

import contextlib
import io
import logging
import random
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchreid
from PIL import Image
from torch.utils.data import DataLoader, Dataset, default_collate

from torchreid_dfrst.data.images import BadImageError, read_image
from torchreid_dfrst.data.once import said_once
from torchreid_dfrst.data.options import share
from torchreid_dfrst.data.sampling import EpochSampler
from torchreid_dfrst.names import nearest
from torchreid_dfrst.registry import require_datasets, with_options

logger = logging.getLogger(__name__)

Item = tuple[str, int, int, int]
Change = Callable[[Image.Image, str], Image.Image]
TRANSFORMS = ("random_flip", "random_crop", "random_patch", "color_jitter", "random_erase")


class Images(Dataset):
    """Images on disk as torchreid's items: a dict of ``img``, ``pid``, ``camid``, ``impath``, ``dsetid``, ``bad``.

    An index is an image number, or ``(image number, seed)`` for a random transform that depends on nothing else. A
    file that cannot be read comes back as a ``BadImageError``, or, with ``substitute``, as the next readable image of
    the same identity, so that a batch keeps its P identities with K images; ``bad`` then holds the file left out.

    Args:
        items: ``(path, identity, camera, data set)`` per image.
        transform: PIL image to tensor; its first step is a resize to a fixed size if ``cache`` is set.
        substitute: replace unreadable images instead of reporting them.
        cache: keep the resized images in memory (in each worker process its own).
        change: what happens to each image as it was read, given its path, such as a ``Contamination``.
    """

    def __init__(
        self,
        items: Sequence[Item],
        transform: Any,
        substitute: bool = False,
        cache: bool = False,
        change: Change | None = None,
    ) -> None:
        self.items, self.transform, self.substitute, self.change = list(items), transform, substitute, change
        self.cache: dict[int, Any] | None = {} if cache else None
        self.siblings: dict[int, list[int]] = {}
        if substitute:
            for index, item in enumerate(self.items):
                self.siblings.setdefault(item[1], []).append(index)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.items)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any] | BadImageError:
        """The item, or the error that says why there is none."""
        index, seed = key if isinstance(key, tuple) else (key, None)
        path, identity, camera, source = self.items[index]
        bad = ""
        try:
            image = self._read(index)
        except BadImageError as error:
            if not self.substitute:
                return error
            found = self._sibling(index)
            if found is None:
                return BadImageError(
                    path, f"cannot be replaced, for identity {identity} has no readable image ({error})"
                )
            bad, (path, image) = path, found
        with _seeded(seed):
            tensor = self._transform(image)
        return {"img": tensor, "pid": identity, "camid": camera, "impath": path, "dsetid": source, "bad": bad}

    def _read(self, index: int) -> Any:
        if self.cache is None:
            return self._decoded(self.items[index][0])
        if index not in self.cache:
            # the first step is the resize, the only one that is the same every time
            self.cache[index] = self.transform.transforms[0](self._decoded(self.items[index][0]))
        return self.cache[index]

    def _decoded(self, path: str) -> Image.Image:
        image = read_image(path)
        return image if self.change is None else self.change(image, path)

    def _transform(self, image: Any) -> torch.Tensor:
        steps = self.transform.transforms[1:] if self.cache is not None else [self.transform]
        image = image.copy() if self.cache is not None else image
        for step in steps:
            image = step(image)
        return image

    def _sibling(self, index: int) -> tuple[str, Any] | None:
        family = self.siblings[self.items[index][1]]
        place = family.index(index)
        for other in family[place + 1 :] + family[:place]:
            try:
                return self.items[other][0], self._read(other)
            except BadImageError:
                continue
        return None


class Loader(DataLoader):
    """A ``DataLoader`` of ``Images`` that raises what went wrong, in one line, in the main process.

    Args:
        images: what to load.
        skip: leave unreadable images out of a batch (their paths are added to ``skipped``) instead of raising.
        **options: ``DataLoader``'s own.

    Raises:
        BadImageError: while iterating, an image cannot be read and ``skip`` is not set.
        ChildProcessError: while iterating, a worker process died.
    """

    def __init__(self, images: Images, skip: bool = False, **options: Any) -> None:
        # with a generator of its own, a pass over the data leaves the global one as it was
        super().__init__(
            images, collate_fn=_collate, generator=torch.Generator(), worker_init_fn=_ignore_interrupts, **options
        )
        self.skip = skip
        self.skipped: set[str] = set()

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        """Batches as torchreid's loaders give them."""
        batches = super().__iter__()
        while True:
            try:
                batch, errors = next(batches)
            except StopIteration:
                return
            except (RuntimeError, OSError, EOFError) as error:
                # an error inside a loading process comes with its traceback; without one the process itself is gone
                if not self.num_workers or str(error).startswith("Caught "):
                    raise
                raise ChildProcessError(
                    f"a data loading process died ({error}): often memory ran out; lower data.workers "
                    "(0 loads in the main process) or the batch size"
                ) from error
            for bad in errors:
                if not self.skip:
                    raise BadImageError(
                        bad.path,
                        f"{bad.args[1]}; repair it, or leave such images out: data.on_bad_image skip in training, "
                        "--on-bad-image skip in extraction",
                    )
                self.skipped.add(bad.path)
            if batch is not None:
                self.skipped.update(path for path in batch["bad"] if path)
                yield batch


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
        **torchreid_keywords: as in torchreid.

    Attributes:
        train_set: torchreid's training data set (the sum of the sources).
        test_sets: ``test_sets[name]["query" | "gallery"]``, torchreid's data sets of each target.
        validation: ``{"query": Loader, "gallery": Loader}``, or None.
        identities: the name of one image per training label, in label order: what the classifier's rows mean.
        summary: what there is to train on, in a line.

    Raises:
        KeyError: an unknown data set, option, transform or sampler.
        ValueError: no batch can be made, an option is of another type, or too many identities are held out.
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
        _check_names(torchreid_keywords.get("transforms"), on_bad_image)
        names = [*_listed(torchreid_keywords.get("sources")), *_listed(torchreid_keywords.get("targets"))]
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
            f"{' + '.join(self.sources)}: {len(items)} images of {len(first)} identities by {self._num_train_cams} "
            f"cameras to train on, {len(self.sampler)} steps an epoch"
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


def _collate(items: list[dict[str, Any] | BadImageError]) -> tuple[dict[str, Any] | None, list[BadImageError]]:
    good = [item for item in items if isinstance(item, dict)]
    return default_collate(good) if good else None, [item for item in items if isinstance(item, BadImageError)]


def _ignore_interrupts(worker: int) -> None:
    """Ctrl-C reaches the loading processes too; the main process decides when they end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """Torchreid's transforms draw from the global generators: lend them a seeded state and put the old one back."""
    if seed is None:
        yield
        return
    python, torched = random.getstate(), torch.get_rng_state()
    random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        torch.set_rng_state(torched)


def _listed(words: str | Sequence[str] | None) -> list[str]:
    return [words] if isinstance(words, str) else list(words or [])


def _check_names(transforms: str | Sequence[str] | None, on_bad_image: str) -> None:
    for name in _listed(transforms):
        if name.lower() not in TRANSFORMS:
            raise KeyError(f"unknown name {name!r} in data.transforms{nearest(name, TRANSFORMS)}")
        if name.lower() == "random_patch":
            logger.warning("random_patch keeps patches of earlier images: a resumed run will not be bit for bit equal")
    if on_bad_image not in ("error", "skip"):
        raise ValueError(f"data.on_bad_image is {on_bad_image!r}: use error or skip")


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
