"""Image files to batches: seeded one by one, an unreadable file named or replaced, a dead process named."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, default_collate
from torch.utils.data._utils import signal_handling

from torchreid_dfrst.data.images import BadImageError, read_image

Item = tuple[str, int, int, int]
Key = int | tuple[int, int] | tuple[int, int, tuple[int, ...]]
Change = Callable[[Image.Image, str], Image.Image]


class Images(Dataset):
    """Images on disk as torchreid's items: a dict of ``img``, ``pid``, ``camid``, ``impath``, ``dsetid``.

    Each also has its ``number``, in ``bad`` the file that it stands in for, else nothing, and in ``clipped`` its path
    if its box stuck out of the image.

    An index is an image number, ``(image number, seed)`` for a random transform that depends on nothing else, or
    ``(image number, seed, batch)`` with the numbers of the whole batch. A file that cannot be read comes back as a
    ``BadImageError``, or, with ``substitute``, as the next readable image of the same identity that the batch does
    not hold yet (if there is one), so that a batch keeps its P identities with K images.

    Args:
        items: ``(path, identity, camera, data set)`` per image.
        transform: PIL image to tensor; its first step is a resize to a fixed size if ``cache`` is set.
        substitute: replace unreadable images instead of reporting them.
        cache: keep the resized images in memory (in each worker process its own).
        change: what happens to each image as it was read, given its path, such as damage.
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

    def __getitem__(self, key: Key) -> dict[str, Any] | BadImageError:
        """The item, or the error that says why there is none."""
        index, seed, *batch = key if isinstance(key, tuple) else (key, None)
        path, identity, camera, source = self.items[index]
        bad = ""
        try:
            image = self._read(index)
        except BadImageError as error:
            if not self.substitute:
                return error
            other = self._sibling(index, *batch)
            if other is None:
                return BadImageError(
                    path,
                    f"cannot be replaced, for its identity has no readable image in training ({error.args[1]}); "
                    "repair one of them, or take the identity out of the list of training images",
                )
            image, bad = self._read(other), path
            path, identity, camera, source = self.items[other]
        with _seeded(seed):
            tensor = self._transform(image)
        found = {"img": tensor, "pid": identity, "camid": camera, "impath": path, "dsetid": source}
        return {**found, "number": index, "bad": bad, "clipped": path if image.info.get("clipped") else ""}

    def _read(self, index: int) -> Any:
        if self.cache is not None and index in self.cache:
            return self.cache[index]
        path = self.items[index][0]
        image = read_image(path) if self.change is None else self.change(read_image(path), path)
        if self.cache is not None:
            # the first step is the resize, the only one that is the same every time
            image = self.cache[index] = self.transform.transforms[0](image)
        return image

    def _transform(self, image: Any) -> torch.Tensor:
        if self.cache is None:
            return self.transform(image)
        image = image.copy()
        for step in self.transform.transforms[1:]:
            image = step(image)
        return image

    def _sibling(self, index: int, batch: Sequence[int] = ()) -> int | None:
        """What replaces an unreadable image: a function of the batch alone, whichever process asks."""
        family = self.siblings[self.items[index][1]]
        mates = list(dict.fromkeys(mate for mate in batch if mate in family)) or [index]
        taken, chosen = set(mates), None
        # unreadable ones earlier in the batch choose first
        for bad in mates[: mates.index(index) + 1]:
            if bad != index and self._readable(bad):
                continue
            place = family.index(bad)
            others = family[place + 1 :] + family[:place]
            # one that the batch holds already is better than none
            chosen = next(filter(self._readable, sorted(others, key=taken.__contains__)), None)
            if chosen is not None:
                taken.add(chosen)
        return chosen

    def _readable(self, index: int) -> bool:
        try:
            self._read(index)
        except BadImageError:
            return False
        return True


class Loader(DataLoader):
    """A ``DataLoader`` of ``Images`` that raises what went wrong, in one line, in the main process.

    Args:
        images: what to load.
        skip: leave unreadable images out of a batch (their paths are added to ``skipped``) instead of raising.
        **options: ``DataLoader``'s own.

    Raises:
        BadImageError: while iterating, an image cannot be read and ``skip`` is not set.
        ChildProcessError: while iterating, a worker process died. PyTorch's handler of SIGCHLD, which would raise this
            anywhere in the main process, in the middle of a step or of a save, is taken out; one of your own stays.
    """

    def __init__(self, images: Images, skip: bool = False, **options: Any) -> None:
        # with a generator of its own, a pass over the data leaves the global one as it was
        super().__init__(
            images, collate_fn=_collate, generator=torch.Generator(), worker_init_fn=_ignore_interrupts, **options
        )
        self.images, self.skip = images, skip
        self.skipped: set[str] = set()
        self.clipped: set[str] = set()

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        """Batches as torchreid's loaders give them."""
        batches: Iterator[Any] | None = None
        while True:
            try:
                if batches is None:
                    before = signal.getsignal(signal.SIGCHLD)
                    batches = super().__iter__()
                    if self.num_workers and threading.current_thread() is threading.main_thread():
                        # next() finds the dead by itself
                        signal.signal(signal.SIGCHLD, signal.SIG_DFL if _is_pytorchs(before) else before)
                batch, errors = next(batches)
            except StopIteration:
                return
            except (RuntimeError, ConnectionError, EOFError) as error:
                if not (self.num_workers and _of_a_dead_process(error)):
                    raise
                raise ChildProcessError(
                    f"a data loading process died ({error}): often memory ran out; lower data.workers "
                    "(0 loads in the main process) or the batch size"
                ) from error
            for bad in errors:
                if self.images.substitute:
                    raise bad
                if not self.skip:
                    raise BadImageError(
                        bad.path,
                        f"{bad.args[1]}; repair it, or leave such images out: data.on_bad_image skip in training, "
                        "--on-bad-image skip in extraction",
                    )
                self.skipped.add(bad.path)
            if batch is not None:
                self.skipped.update(path for path in batch["bad"] if path)
                self.clipped.update(path for path in batch["clipped"] if path)
                yield batch


def _is_pytorchs(handler: Any) -> bool:
    """Is it PyTorch's handler of SIGCHLD, from an earlier loader, or none of Python's?"""
    return handler is None or getattr(handler, "__module__", None) == signal_handling.__name__


def _of_a_dead_process(error: Exception) -> bool:
    """Does the error say that a loading process is gone, unlike one raised inside of it or beside it?"""
    if isinstance(error, RuntimeError):
        # the words of PyTorch, and of its pinning thread, which ends with its source
        return str(error).startswith(("DataLoader worker", "Pin memory thread exited"))
    # a broken connection; what a loading process reports itself is of the same type, and quotes its traceback
    return not str(error).startswith("Caught ")


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
