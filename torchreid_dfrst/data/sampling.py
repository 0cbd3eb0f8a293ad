"""Which images make which batch: a pure function of the seed and the epoch, the same for any number of processes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import numpy as np

from torchreid_dfrst.messages import nearest

logger = logging.getLogger(__name__)

SAMPLERS = ("RandomIdentitySampler", "RandomSampler")


def balanced_epoch(labels: np.ndarray, batch: int, instances: int, seed: int, epoch: int) -> np.ndarray:
    """Identity-balanced batches of one epoch: ``batch / instances`` identities with ``instances`` images each.

    An identity is drawn with a chance proportional to the images it has left, at most once per batch, so that an
    epoch sees nearly every image once. One that runs out before the epoch ends is shuffled and starts again; one with
    fewer images than ``instances`` repeats some of them within a batch.

    Args:
        labels: ``(N,)`` identity of each training image.
        batch: images in a batch over all processes; a multiple of ``instances``.
        instances: images per identity in a batch.
        seed: the run's.
        epoch: from 0.

    Returns:
        ``(N // batch, batch)`` int64 image numbers (at least one row), identity by identity within a row.

    Raises:
        ValueError: ``batch`` is no multiple of ``instances``, or there are too few identities.
    """
    if instances < 1 or batch % instances:
        raise ValueError(f"a batch of {batch} images cannot hold {instances} images per identity: use a multiple")
    identities, group = np.unique(labels, return_inverse=True)
    wanted = batch // instances
    if len(identities) < wanted:
        raise ValueError(
            f"a batch of {batch} with {instances} images per identity needs {wanted} identities, the training set has "
            f"{len(identities)}: lower data.batch_size_train or raise data.num_instances"
        )
    rng = np.random.default_rng([seed, epoch])
    members = np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])
    decks = [_deck(images, instances, rng) for images in members]
    left = np.array([len(deck) for deck in decks], dtype=np.float64)
    rows = np.empty((max(1, len(labels) // batch), wanted, instances), dtype=np.int64)
    for row in rows:
        # the smallest of exponentials with rate `left` draw without replacement, in proportion to `left`
        keys = rng.exponential(size=len(left)) / np.where(left > 0, left, 1e-9)
        # of argpartition the order, and so each process's share, would depend on the processor
        chosen = np.argsort(keys, kind="stable")[:wanted] if wanted < len(keys) else rng.permutation(len(keys))
        for place, identity in enumerate(chosen):
            if not decks[identity]:
                decks[identity] = _deck(members[identity], instances, rng)
                left[identity] = 0.0
            row[place] = decks[identity].pop()
            left[identity] = max(0.0, left[identity] - 1.0)
    return rows.reshape(len(rows), batch)


def shuffled_epoch(count: int, batch: int, seed: int, epoch: int) -> np.ndarray:
    """Batches of one epoch without regard to identity: ``(count // batch, batch)`` int64, no image twice.

    Raises:
        ValueError: there are fewer images than one batch needs.
    """
    if count < batch:
        raise ValueError(f"{count} training images do not fill one batch of {batch}: lower data.batch_size_train")
    order = np.random.default_rng([seed, epoch]).permutation(count)
    return order[: count // batch * batch].reshape(-1, batch)


class EpochSampler:
    """Batches for a ``DataLoader``: lists of ``(image, seed of its augmentation, all images of the whole batch)``.

    All of it is a pure function of seed, epoch and place in the epoch: neither the number of worker processes nor
    where a run was interrupted changes what the model sees. Of several processes, each (``rank`` of ``world_size``)
    takes its slice of the same global batch. The last images of an epoch, too few to fill a batch, are dropped, so that
    every epoch has the same number of steps.

    Args:
        labels: as ``balanced_epoch`` takes them, ``batch``, ``instances`` and ``seed`` too.
        name: ``RandomIdentitySampler`` or ``RandomSampler``, torchreid's names.
        rank: this process.
        world_size: number of processes; ``batch`` must be a multiple of it.

    Raises:
        KeyError: unknown ``name``.
        ValueError: the batch cannot be filled or divided.
    """

    def __init__(
        self,
        labels: Sequence[int],
        batch: int,
        instances: int,
        name: str = "RandomIdentitySampler",
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if name not in SAMPLERS:
            raise KeyError(f"unknown data.train_sampler {name!r}{nearest(name, SAMPLERS)}")
        if batch % world_size:
            raise ValueError(f"data.batch_size_train is {batch}, not a multiple of the {world_size} processes")
        self.labels, self.batch, self.instances = np.asarray(labels), batch, instances
        self.name, self.seed, self.rank, self.world_size = name, seed, rank, world_size
        self.epoch, self.start = 0, 0
        self.steps = len(self.epoch_rows(0))
        counts = np.unique(self.labels, return_counts=True)[1]
        if name == "RandomIdentitySampler" and counts.min() < instances:
            logger.warning(
                f"{(counts < instances).sum()} of {len(counts)} training identities have fewer than "
                f"data.num_instances={instances} images: theirs are repeated"
            )

    def seek(self, epoch: int, start: int = 0) -> None:
        """Make the next iteration begin at batch ``start`` of ``epoch``."""
        self.epoch, self.start = epoch, start

    def epoch_rows(self, epoch: int) -> np.ndarray:
        """The global batches of ``epoch``: ``(steps, batch)`` image numbers."""
        if self.name == "RandomSampler":
            return shuffled_epoch(len(self.labels), self.batch, self.seed, epoch)
        return balanced_epoch(self.labels, self.batch, self.instances, self.seed, epoch)

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return self.steps

    def __iter__(self) -> Iterator[list[tuple[int, int, tuple[int, ...]]]]:
        """This process's part of each batch from ``start`` on."""
        rows = self.epoch_rows(self.epoch)
        seeds = np.random.SeedSequence([self.seed, self.epoch, 1]).generate_state(rows.size).reshape(rows.shape)
        share = self.batch // self.world_size
        part = slice(self.rank * share, (self.rank + 1) * share)
        for images, keys in zip(rows[self.start :].tolist(), seeds[self.start :, part].tolist(), strict=True):
            batch = tuple(images)
            yield [(image, key, batch) for image, key in zip(images[part], keys, strict=True)]


def _deck(images: np.ndarray, instances: int, rng: np.random.Generator) -> list[np.ndarray]:
    """The images of one identity, shuffled and cut into hands of ``instances``; a short last hand is filled up."""
    order = rng.permutation(images)
    short = -len(order) % instances
    if short:
        # the hand's own images are not drawn again if avoidable
        others = order[: len(order) - len(order) % instances]
        filler = rng.choice(others, short, replace=False) if len(others) >= short else rng.choice(order, short)
        order = np.concatenate([order, filler])
    return list(order.reshape(-1, instances))
