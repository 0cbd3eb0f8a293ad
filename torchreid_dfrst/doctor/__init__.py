"""One pass over a data set before anyone trains on it: what is wrong, how often, where, and what to do."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from torchreid_dfrst.checks import nearest, numbered
from torchreid_dfrst.data import DATASETS
from torchreid_dfrst.data.dataset import find_folder
from torchreid_dfrst.data.matches import lone_queries, one_camera_vehicles
from torchreid_dfrst.data.options import share
from torchreid_dfrst.data.problems import MISTAKES, apart, words
from torchreid_dfrst.data.veri776 import VeRi776, VeRiFormat, report_counts
from torchreid_dfrst.data.veri_format import LISTS, SPLITS, image_files, read_veri
from torchreid_dfrst.data.veri_labels import read_index, read_labels
from torchreid_dfrst.doctor.findings import ERROR, EXAMPLES, NOTE, WARNING, Finding, finding
from torchreid_dfrst.doctor.images import check_images, unreadable
from torchreid_dfrst.doctor.times import check_times
from torchreid_dfrst.sightings import CameraNetwork, Sightings


@dataclass(frozen=True, eq=False)
class Report:
    """What the doctor found.

    Args:
        dataset: registered name.
        root: where it was looked for.
        counts: split to ``images``, ``vehicles``, ``cameras``.
        findings: errors first.
    """

    dataset: str
    root: str
    counts: dict[str, dict[str, int]]
    findings: list[Finding]

    @property
    def exit_code(self) -> int:
        """0 clean, 1 warnings, 2 errors."""
        severities = {found.severity for found in self.findings}
        return 2 if ERROR in severities else 1 if WARNING in severities else 0

    def to_json(self, examples: int | None = EXAMPLES) -> dict[str, Any]:
        """JSON types only, with so many examples of each finding, None for all."""
        listed = [{**asdict(found), "examples": found.examples[:examples]} for found in self.findings]
        return {**asdict(self), "findings": listed, "exit_code": self.exit_code}

    def text(self, examples: int | None = EXAMPLES) -> str:
        """The report for a person, with so many examples of each finding, None for all."""
        lines = [f"{self.dataset} in {self.root}"]
        for split, counts in self.counts.items():
            lines.append(
                f"  {split:8}" + ", ".join(numbered(f"{{count}} [{what[:-1]}|{what}]", n) for what, n in counts.items())
            )
        for found in self.findings:
            lines += ["", f"{found.severity.upper()}: {found.check}", f"  {found.message}"]
            if examples is None:
                lines += [f"    {example}" for example in found.examples]
            elif found.examples:
                lines.append(f"  for example: {', '.join(found.examples[:examples])}")
            if found.advice:
                lines.append(f"  what to do: {found.advice}")
        number = {severity: sum(f.severity == severity for f in self.findings) for severity in (ERROR, WARNING)}
        verdict = {0: "clean", 1: "usable, with warnings", 2: "do not train on this before it is repaired"}
        counted = ", ".join(numbered(f"{{count}} [{word}|{word}s]", count) for word, count in number.items())
        lines += ["", f"{counted}: {verdict[self.exit_code]}"]
        return "\n".join(lines)


def check_dataset(
    name: str,
    root: str | Path,
    images: bool = True,
    bar: Callable[[Iterable[Path]], Iterable[Path]] = iter,
    **options: Any,
) -> Report:
    """Examine a data set of this package.

    A folder in VeRi-776's format without images but with its lists is examined as far as lists go.

    Args:
        name: a key of ``DATASETS``.
        root: as for training.
        images: open every image (for VeRi-776 some minutes); False looks at names, cameras and times only.
        bar: progress bar around the images, such as ``tqdm.tqdm``.
        options: keyword arguments of the data set.

    Raises:
        KeyError: an unknown name of a data set or an option.
        ValueError: an option is of another type.
    """
    if name not in DATASETS:
        raise KeyError(f"no data set {name!r}{nearest(name, DATASETS)}")
    share(options, [name])
    heard = _Listener()
    logger = logging.getLogger("torchreid_dfrst.data")
    logger.addHandler(heard)
    try:
        counts, findings = _examine(name, root, options, images, bar)
    finally:
        logger.removeHandler(heard)
    advice = "correct the list or the folder; if the difference is meant, nothing"
    findings += [Finding(WARNING, "lists and files", text, 1, [], advice) for text in heard.texts]
    order = {ERROR: 0, WARNING: 1, NOTE: 2}
    return Report(name, str(root), counts, sorted(findings, key=lambda found: order[found.severity]))


def _examine(
    name: str, root: str | Path, options: dict[str, Any], images: bool, bar: Callable[[Iterable[Path]], Iterable[Path]]
) -> tuple[dict[str, dict[str, int]], list[Finding]]:
    try:
        sightings, network, folder, have_images, unlisted = _open(name, root, options)
    except MISTAKES as error:
        return {}, _unloaded(name, root, apart(error), images, bar)
    findings = _check_labels(sightings)
    if folder is not None:
        findings += _check_label_files(folder) + _check_index(folder, sightings)
    findings += check_times(sightings, network)
    if not have_images:
        findings.append(Finding(NOTE, "images", "there are no images here: only lists were checked", 0, [], ""))
    elif images:
        findings += check_images(sightings, bar)
        findings += finding(
            WARNING,
            "images in no list",
            "{count} [image is|images are] in the folder but in no list: nothing uses [it|them]",
            unlisted(),
            "add them to a list if they belong to the data set; otherwise nothing",
        )
    counts = {
        split: {"images": len(s), "vehicles": len(np.unique(s.identity)), "cameras": len(np.unique(s.camera))}
        for split, s in sightings.items()
    }
    return counts, findings


def _unloaded(
    name: str, root: str | Path, errors: list[Exception], images: bool, bar: Callable[[Iterable[Path]], Iterable[Path]]
) -> list[Finding]:
    """Everything that kept the data set from loading, and what can be looked at all the same."""
    advice = "repair this; vehicles, cameras and times could not be checked yet"
    found = [Finding(ERROR, "loading", words(error), 1, [], advice) for error in errors]
    made = DATASETS[name]
    if issubclass(made, VeRiFormat):
        try:
            folder = find_folder(root, made.folder_names, (*SPLITS.values(), *LISTS.values()), made.advice)
        except FileNotFoundError:
            return found
        found += _check_label_files(folder)
        if images:
            found += unreadable([path for split in SPLITS.values() for path in image_files(folder / split)], bar)
    return found


class _Listener(logging.Handler):
    """Collects what the loaders warn of, except what the doctor counts itself."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the text."""
        if not record.name.endswith(".matches") and record.getMessage() not in self.texts:
            self.texts.append(record.getMessage())


def _open(
    name: str, root: str | Path, options: dict[str, Any]
) -> tuple[dict[str, Sightings], CameraNetwork | None, Path | None, bool, Callable[[], list[str]]]:
    made = DATASETS[name]
    if issubclass(made, VeRiFormat):
        marker = (*SPLITS.values(), *LISTS.values())
        folder = find_folder(root, made.folder_names, marker, made.advice)
        have_images = any((folder / split).is_dir() for split in SPLITS.values())
        veri = read_veri(folder, images=have_images)
        sightings = {"train": veri.train, "query": veri.query, "gallery": veri.gallery}
        if issubclass(made, VeRi776):
            report_counts(folder, sightings)
        # here the folders count, and the loader itself says what the lists lack
        return sightings, veri.network, folder, have_images, list
    dataset = made(root=str(root), verbose=False, **options)
    return dataset.sightings, dataset.network, None, True, dataset.unlisted


def _check_labels(sightings: dict[str, Sightings]) -> list[Finding]:
    train, query, gallery = (sightings[split] for split in ("train", "query", "gallery"))
    test = np.union1d(query.identity, gallery.identity)
    both = np.intersect1d(train.identity, test)
    lone, alone = lone_queries(query, gallery), one_camera_vehicles(train)
    unseen = np.setdiff1d(np.union1d(query.camera, gallery.camera), train.camera)
    many = len(np.unique(train.camera)) > 1
    span = np.arange(train.identity.min(), train.identity.max() + 1)
    gaps = len(span) - len(np.unique(train.identity))
    return [
        *finding(
            ERROR,
            "vehicles in training and test",
            "{count} [vehicle is|vehicles are] in both: a result on [it|them] says nothing",
            both,
            "give the same vehicle to one side only; if the numbers merely start anew, relabel one side",
        ),
        *finding(
            ERROR if len(lone) == len(query) else WARNING,
            "queries without a match",
            "{count} of "
            + str(len(query))
            + " queries [shows|show] a vehicle that no other camera saw in the gallery: every "
            "evaluator skips them, and some divide by all queries",
            query.path[lone],
            "leave them out, or know that the number of queries used is smaller",
        ),
        *finding(
            WARNING,
            "one-camera vehicles",
            "{count} of " + str(len(np.unique(train.identity))) + " training vehicles [was|were] seen by a single "
            "camera: [it teaches|they teach] appearance, but nothing about other cameras or travel times",
            alone if many else [],
            "fine if they are few; otherwise look at how the vehicles were numbered",
        ),
        *finding(
            WARNING,
            "cameras never seen in training",
            "{count} [camera|cameras] of query and gallery [has|have] no training image",
            [f"camera {camera}" for camera in unseen] if many else [],
            "expect lower accuracy there; models per camera pair fall back to their mean",
        ),
        *finding(
            NOTE,
            "label gaps",
            f"training vehicles are numbered {span[0]} to {span[-1]} with {{count}} [number|numbers] not used; "
            "torchreid needs 0, 1, 2, ..., and this package relabels them so when it loads them",
            range(gaps),
            "nothing here; your own loader has to relabel too",
            show=False,
        ),
    ]


def _check_label_files(folder: Path) -> list[Finding]:
    try:
        read_labels(folder)
    except ValueError as error:
        advice = "colours and types are optional: repair the file or remove it"
        return [Finding(ERROR, "labels", str(error), 1, [], advice)]
    return []


def _check_index(folder: Path, sightings: dict[str, Sightings]) -> list[Finding]:
    """VeRi's lists of right answers and junk against the junk rule."""
    query, gallery = sightings["query"], sightings["gallery"]
    found: list[Finding] = []
    for file, same_camera in (("gt_index.txt", False), ("jk_index.txt", True)):
        path = folder / file
        if not path.is_file():
            continue
        try:
            rows = read_index(path, len(gallery))
        except ValueError as error:
            advice = "the gallery is not the one that the file counts: take both from one release"
            found.append(Finding(ERROR, "right answers and junk", str(error), 1, [], advice))
            continue
        if len(rows) != len(query):
            message, advice = f"{file} has {len(rows)} lines for {len(query)} queries", "take both from one release"
            found.append(Finding(ERROR, "right answers and junk", message, 1, [], advice))
            continue
        wrong = []
        for number, listed in enumerate(rows):
            mine = (gallery.identity == query.identity[number]) & (
                (gallery.camera == query.camera[number]) == same_camera
            )
            if not np.array_equal(np.flatnonzero(mine), np.sort(listed)):
                wrong.append(str(query.path[number]))
        rule = "same" if same_camera else "another"
        found += finding(
            ERROR,
            "right answers and junk",
            f"{file} differs from the rule 'same vehicle, {rule} camera' for {{count}} [query|queries]",
            wrong,
            "the gallery is not in the order of name_test.txt, or names were changed: take one release",
        )
    return found
