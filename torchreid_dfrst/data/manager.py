"""torchreid's data manager with loaders that can stop and resume anywhere, and that name a file they cannot read."""

from __future__ import annotations

import contextlib
import io
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torchreid

from torchreid_dfrst.checks import check, listed, within
from torchreid_dfrst.config import keywords
from torchreid_dfrst.data import DATASETS
from torchreid_dfrst.data.images import Change, Images, Item
from torchreid_dfrst.data.loader import Loader
from torchreid_dfrst.data.problems import warn
from torchreid_dfrst.data.sampling import EpochSampler
from torchreid_dfrst.messages import nearest, numbered
from torchreid_dfrst.sightings import UNKNOWN
from torchreid_dfrst.torchreid_tables import make_dataset, require_datasets

logger = logging.getLogger(__name__)

TRANSFORMS = ("random_flip", "random_crop", "random_patch", "color_jitter", "random_erase")


class DataManager(torchreid.data.datamanager.DataManager):
    """torchreid's ``ImageDataManager`` with our loaders: same data sets, each built once, same transforms.

    Beyond torchreid's own keywords, which mean what they mean there:

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
        batch_size_train: images per step over all processes together; of these ``num_instances`` per identity.
        batch_size_test: images per forward pass of one process in evaluation.
        workers: loading processes per training process; 0 loads in the process itself.
        rank: this process, of ``world_size``.

    Attributes:
        train_set: torchreid's training data set (the sum of the sources), and ``test_sets`` that of each target.
        validation: ``{"query": Loader, "gallery": Loader}``, or None.
        identities: the name of one image per training label, in label order: what the classifier's rows mean.
        summary: what there is to train on, in a line; where no training image has an identity, there is neither this
            nor ``identities`` nor ``sampler``.
        held_out: the name of one image per held-out identity.

    Raises:
        KeyError: an unknown data set, option, transform or sampler.
        ValueError: no source is named, no batch can be made, too many identities are held out, or a value is of another
            type or out of its range.
    """

    data_type = "image"
    _train_loader: Loader | None = None

    def __init__(
        self,
        root: str = "",
        sources: str | Sequence[str] = (),
        targets: str | Sequence[str] | None = None,
        height: int = 256,
        width: int = 128,
        transforms: str | Sequence[str] | None = "random_flip",
        norm_mean: Sequence[float] | None = None,
        norm_std: Sequence[float] | None = None,
        use_gpu: bool = True,
        split_id: int = 0,
        combineall: bool = False,
        cuhk03_labeled: bool = False,
        cuhk03_classic_split: bool = False,
        market1501_500k: bool = False,
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
    ) -> None:
        numbers = {"height": height, "width": width, "num_instances": num_instances}
        numbers |= {"batch_size_train": batch_size_train, "batch_size_test": batch_size_test}
        for name, number in numbers.items():
            within(name, number, lowest=1)
        within("workers", workers)
        _check_names(sources, transforms, on_bad_image)
        check_normalisation(norm_mean, norm_std)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            super().__init__(listed(sources), targets, height, width, transforms, norm_mean, norm_std, use_gpu)
            shared: dict[str, Any] = {"root": root, "split_id": split_id, "combineall": combineall}
            shared |= {"cuhk03_labeled": cuhk03_labeled, "cuhk03_classic_split": cuhk03_classic_split}
            shared |= {"market1501_500k": market1501_500k}
            names = dict.fromkeys([*self.sources, *self.targets])
            require_datasets([*names])
            own = share_options(options, names)
            # once each: torchreid's manager builds three of each, and reads every list three times
            made = {name: make_dataset(name, **shared, **own.get(name, {})) for name in names}
        logger.debug(printed.getvalue())
        self.train_set: Any = sum(made[name] for name in self.sources)
        self.test_sets = {name: made[name] for name in self.targets}
        self.on_bad_image, self.rank, self.world_size = on_bad_image, rank, world_size
        self._test_options = {"batch_size": batch_size_test, "num_workers": workers, "pin_memory": self.use_gpu}
        items, held = _hold_out(_labelled(self.train_set.train), validation_identities, seed)
        self._add_test_loaders(held)
        if items:
            rows = [pid for _, pid, *_ in items], batch_size_train, num_instances
            self.sampler = EpochSampler(*rows, train_sampler, seed, rank, world_size)
            images = Images(items, self.transform_tr, substitute=on_bad_image == "skip", cache=cache)
            loading = {"num_workers": workers, "persistent_workers": workers > 0, "pin_memory": self.use_gpu}
            self._train_loader = Loader(images, batch_sampler=self.sampler, **loading)
            self._describe(items, held)

    @property
    def train_loader(self) -> Loader:
        """Batches to train on; a ``ValueError`` where no training image has an identity."""
        if self._train_loader is None:
            raise ValueError(
                f"{' + '.join(self.sources)} has no training image with an identity: there is nothing to train on "
                "(dfrst extract and dfrst rank need none)"
            )
        return self._train_loader

    def _add_test_loaders(self, held: Mapping[str, Sequence[Item]]) -> None:
        parts = ("query", "gallery")
        # what torchreid's engine draws ranked lists of
        self.test_dataset = {n: {part: getattr(d, part) for part in parts} for n, d in self.test_sets.items()}
        self.test_loader = {
            name: {part: self.loader(rows) for part, rows in lists.items()} for name, lists in self.test_dataset.items()
        }
        self.validation = {part: self.loader(rows) for part, rows in held.items()} if held else None

    def _describe(self, items: Sequence[Item], held: Mapping[str, Sequence[Item]]) -> None:
        first = {pid: path for path, pid, *_ in reversed(items)}
        self.identities = [Path(first[pid]).name for pid in range(len(first))]
        out = {pid: path for path, pid, *_ in held.get("query", [])}
        self.held_out = sorted(Path(path).name for path in out.values())
        self._num_train_pids, self._num_train_cams = len(first), len({camera for _, _, camera, _ in items})
        self.summary = (
            f"{' + '.join(self.sources)}: {numbered('{count} [image|images]', len(items))} of "
            f"{numbered('{count} [identity|identities]', len(first))} by "
            f"{numbered('{count} [camera|cameras]', self._num_train_cams)} to train on, "
            f"{numbered('{count} [step|steps]', len(self.sampler))} an epoch"
            + (f"; {len(out)} identities held out for validation" if held else "")
        )

    def loader(self, items: Sequence[Item], change: Change | None = None) -> Loader:
        """Test-time loader of any items, in order, each once; with several processes each loads every n-th image."""
        share = Images(items[self.rank :: self.world_size], self.transform_te, change=change)
        # workers start anew for each pass: between evaluations they would only hold memory
        return Loader(share, skip=self.on_bad_image == "skip", **self._test_options)

    @property
    def skipped(self) -> list[str]:
        """Paths of the images left out so far (``on_bad_image="skip"``)."""
        return sorted(set().union(*(loader.skipped for loader in self._loaders)))

    @property
    def clipped(self) -> list[str]:
        """Paths of the images read so far whose boxes stick out of them."""
        return sorted(set().union(*(loader.clipped for loader in self._loaders)))

    @property
    def _loaders(self) -> list[Loader]:
        tested = [*self.test_loader.values(), self.validation or {}]
        return [*filter(None, [self._train_loader]), *(loader for parts in tested for loader in parts.values())]


def known_options(name: str) -> dict[str, Any]:
    """Options that a data set takes beside those every data set has, and their types; torchreid's own have none."""
    return keywords(DATASETS[name].read, leave_out=("split_id", "images")).expected if name in DATASETS else {}


def share_options(options: Mapping[str, Any] | None, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Data set to its options, for those of ``names`` that get any: each option goes to all that take it.

    Raises:
        KeyError: no data set of these takes an option; the message has the nearest one.
        ValueError: a value is of another type than the data set's ``read`` says.
    """
    options, taken = options or {}, {name: known_options(name) for name in names}
    types = {option: kind for mine in taken.values() for option, kind in mine.items()}
    for option, value in options.items():
        if option not in types:
            hint = nearest(str(option), types) if types else ", nor any other"
            raise KeyError(f"{' and '.join(taken)} has no option {option!r}{hint}")
        check(f"option {option} of {' and '.join(n for n in taken if option in taken[n])}", value, types[option])
    shared = {name: {o: v for o, v in options.items() if o in mine} for name, mine in taken.items()}
    return {name: mine for name, mine in shared.items() if mine}


def _check_names(sources: str | Sequence[str], transforms: str | Sequence[str] | None, on_bad_image: str) -> None:
    if not listed(sources):
        raise ValueError(f"sources is {sources!r}: name a data set to train on, such as veri776")
    for name in listed(transforms):
        if name.lower() not in TRANSFORMS:
            raise KeyError(f"unknown name {name!r} in data.transforms{nearest(name, TRANSFORMS)}")
        if name.lower() == "random_patch":
            logger.warning("random_patch keeps patches of earlier images: a resumed run will not be bit for bit equal")
    if on_bad_image not in ("error", "skip"):
        raise ValueError(f"data.on_bad_image is {on_bad_image!r}: use error or skip")


def check_normalisation(mean: Sequence[float] | None, deviation: Sequence[float] | None, where: str = "") -> None:
    """Raise a ``ValueError`` if a mean and deviation of red, green and blue are none; None is ImageNet's."""
    mine, other = (f"{where}norm_mean", mean), (f"{where}norm_std", deviation)
    for (name, values), (missing, others) in ((mine, other), (other, mine)):
        if values is None:
            continue
        check(name, values, Sequence[float])
        if others is None:
            raise ValueError(f"{name} is {values!r} and {missing} is not given: give both, or neither for ImageNet's")
        if len(values) != 3 or (values is mean and not all(map(math.isfinite, values))):
            raise ValueError(f"{name} is {values!r}: one number for each of red, green and blue")
    if deviation is not None and not all(0 < value < math.inf for value in deviation):
        raise ValueError(f"{other[0]} is {deviation!r}: numbers above 0")


def _labelled(items: Sequence[Item]) -> list[Item]:
    """The images with an identity, which are 0, 1, ... again where other data sets' lists held unknown ones."""
    kept = [item for item in items if item[1] != UNKNOWN]
    lost = [path for path, pid, *_ in items if pid == UNKNOWN]
    warn(f"{{count}} of {len(items)} training images [has|have] no identity: not trained on", lost)
    label = {pid: new for new, pid in enumerate(sorted({pid for _, pid, *_ in kept}))}
    return [(path, label[pid], camera, source) for path, pid, camera, source in kept]


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
    if len({camera for _, _, camera, _ in gallery}) == 1:
        # of one camera, or of data without cameras, every match would be junk: each side gets its own
        asked = {path for path, *_ in query}
        gallery = [(path, pid, camera + 1, source) for path, pid, camera, source in gallery if path not in asked]
    return kept, {"query": query, "gallery": gallery}
