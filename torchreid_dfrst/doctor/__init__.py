"""One pass over a data set before anyone trains on it: what is wrong, how often, where, and what to do."""

from __future__ import annotations

import logging
import sys
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import Any

import numpy as np

from torchreid_dfrst.data import DATASETS
from torchreid_dfrst.data.dataset import (
    UNKNOWN_ARE,
    Splits,
    VehicleDataset,
    lone_queries,
    one_camera,
    one_camera_vehicles,
    vehicles_called,
)
from torchreid_dfrst.data.images import image_files
from torchreid_dfrst.data.manager import share_options
from torchreid_dfrst.data.problems import MISTAKES, single_errors
from torchreid_dfrst.data.veri776 import FOLDERS, LISTS, VeRiFormat, read_index, read_labels
from torchreid_dfrst.doctor.findings import ERROR, NOTE, WARNING, Finding, Report, finding
from torchreid_dfrst.doctor.images import Bar, check_images, read_all
from torchreid_dfrst.doctor.times import check_times
from torchreid_dfrst.messages import error_text, nearest
from torchreid_dfrst.sightings import Sightings, same_vehicle

TRUTH = "right answers and junk"


def check_dataset(name: str, root: str | Path, images: bool = True, bar: Bar = iter, **options: Any) -> Report:
    """Examine a data set of this package; of VeRi-776's format, lists without images too, as far as lists go.

    Args:
        name: a key of ``DATASETS``.
        root: as for training.
        images: open every image (for VeRi-776 some minutes); False looks at names, cameras and times only.
        bar: progress bar around the images, such as ``tqdm.tqdm``.
        options: those of the data set, see ``manager.known_options``; errors as ``manager.share_options`` has them.
    """
    if name not in DATASETS:
        raise KeyError(f"no data set {name!r}{nearest(name, DATASETS)}")
    share_options(options, [name])
    warned = BufferingHandler(sys.maxsize)
    warned.setLevel(logging.WARNING)
    logger = logging.getLogger("torchreid_dfrst.data")
    logger.addHandler(warned)
    try:
        counts, findings = _examine_splits(DATASETS[name], root, options, images, bar)
    finally:
        logger.removeHandler(warned)
    advice = "correct the list or the folder; if the difference is meant, nothing"
    findings += [Finding(WARNING, "lists and files", record.getMessage(), 1, [], advice) for record in warned.buffer]
    return Report(
        name, str(root), counts, sorted(findings, key=lambda found: (ERROR, WARNING, NOTE).index(found.severity))
    )


def _examine_splits(
    dataset: type[VehicleDataset], root: str | Path, options: dict[str, Any], images: bool, bar: Bar
) -> tuple[dict[str, dict[str, int]], list[Finding]]:
    folder, veri, have_images = None, issubclass(dataset, VeRiFormat), True
    try:
        folder = dataset.find(root, (*FOLDERS.values(), *LISTS.values())) if veri else dataset.find(root)
        if veri:
            have_images = any((folder / split).is_dir() for split in FOLDERS.values())
            options = {"images": have_images}
        splits = dataset.read(folder, **options)
        splits.require_images(dataset.__name__)
    except MISTAKES as error:
        advice = "repair this; vehicles, cameras and times could not be checked yet"
        findings = [Finding(ERROR, "loading", error_text(one), 1, [], advice) for one in single_errors(error)]
        if veri and folder is not None:
            findings += _check_label_files(folder)
            paths = [path for split in FOLDERS.values() for path in image_files(folder / split)]
            findings += read_all(paths, bar)[1] if images else []
        return {}, findings
    parts = splits.parts()
    findings = _check_labels(splits)
    if veri:
        findings += _check_label_files(folder) + _check_index(folder, splits)
    findings += check_times(parts, splits.network)
    if not have_images:
        findings.append(Finding(NOTE, "images", "there are no images here: only lists were checked", 0, [], ""))
    elif images:
        findings += check_images(parts, bar, cameras=not splits.protocol.startswith("vehicleid"))
        findings += finding(
            WARNING,
            "images in no list",
            "{count} [image is|images are] in the folder but in no list: nothing uses [it|them]",
            dataset.unlisted(folder, splits),
            "add them to a list if they belong to the data set; otherwise nothing",
        )
    return {
        split: {"images": len(s), "vehicles": len(s.vehicles), "cameras": len(np.unique(s.camera))}
        for split, s in parts.items()
    }, findings


def _check_labels(splits: Splits) -> list[Finding]:
    train, query, gallery = splits.train, splits.query, splits.gallery
    test, vehicles = Sightings.concatenate([query, gallery]), train.vehicles
    lone = lone_queries(query, gallery)
    unseen = [f"camera {test.camera_called(camera)}" for camera in np.setdiff1d(test.camera, train.camera)]
    many = len(np.unique(train.camera)) > 1
    first, last = vehicles[[0, -1]].tolist() if len(vehicles) else (0, -1)
    gaps = last + 1 - first - len(vehicles)
    nobody = Finding(WARNING, "nothing to train on", "no training image has an identity", 1, [], "rank only")
    unscored = Finding(NOTE, "nothing to score", "no query has an identity", 1, [], "dfrst rank needs none")
    advice = "nothing, if they are not known; otherwise give the vehicle"
    alone = one_camera(query, gallery)
    return [
        *([] if len(vehicles) else [nobody]),
        *([] if query.known.any() else [unscored]),
        *(
            found
            for split, part in splits.parts().items()
            for found in finding(WARNING, "no identity", UNKNOWN_ARE[split], part.path[~part.known], advice)
        ),
        *([Finding(ERROR, "one camera", alone, 1, [], "see there")] if alone else []),
        *finding(
            ERROR,
            "vehicles in training and test",
            "{count} [vehicle is|vehicles are] in both: a result on [it|them] says nothing",
            vehicles_called(train, np.intersect1d(vehicles, test.identity)),
            "give the same vehicle to one side only; if the numbers merely start anew, relabel one side",
        ),
        *finding(
            ERROR if len(lone) == query.known.sum() else WARNING,
            "queries without a match",
            f"{{count}} of {len(query)} queries [shows|show] a vehicle that no other camera saw in the gallery: every "
            "evaluator skips them, and some divide by all queries",
            query.path[lone],
            "leave them out, or know that the number of queries used is smaller",
        ),
        *finding(
            WARNING,
            "one-camera vehicles",
            f"{{count}} of {len(vehicles)} training vehicles [was|were] seen by a single camera: [it teaches|they "
            "teach] appearance, but nothing about other cameras or travel times",
            vehicles_called(train, one_camera_vehicles(train)) if many else [],
            "fine if they are few; otherwise look at how the vehicles were numbered",
        ),
        *finding(
            WARNING,
            "cameras never seen in training",
            "{count} [camera|cameras] of query and gallery [has|have] no training image",
            unseen if many else [],
            "expect lower accuracy there; models per camera pair fall back to their mean",
        ),
        *finding(
            NOTE,
            "label gaps",
            f"training vehicles are numbered {first} to {last} with {{count}} [number|numbers] not used; "
            "torchreid needs 0, 1, 2, ..., and this package relabels them so when it loads them",
            gaps,
            "nothing here; your own loader has to relabel too",
        ),
    ]


def _check_label_files(folder: Path) -> list[Finding]:
    try:
        read_labels(folder)
    except ValueError as error:
        advice = "colours and types are optional: repair the file or remove it"
        return [Finding(ERROR, "labels", str(error), 1, [], advice)]
    return []


def _check_index(folder: Path, splits: Splits) -> list[Finding]:
    """VeRi's lists of right answers and junk against the junk rule."""
    query, gallery = splits.query, splits.gallery
    found: list[Finding] = []
    for file, same_camera in (("gt_index.txt", False), ("jk_index.txt", True)):
        if not (folder / file).is_file():
            continue
        try:
            rows = read_index(folder / file, len(gallery))
            if len(rows) != len(query):
                raise ValueError(f"{file} has {len(rows)} lines for {len(query)} queries")
        except ValueError as error:
            advice = "the gallery or the queries are not those that the file counts: take all from one release"
            found.append(Finding(ERROR, TRUTH, str(error), 1, [], advice))
            continue
        columns = zip(query.identity, query.camera, query.path, rows, strict=True)
        wrong = [
            path
            for vehicle, camera, path, listed in columns
            if not np.array_equal(
                np.flatnonzero(same_vehicle(vehicle, gallery.identity) & ((gallery.camera == camera) == same_camera)),
                np.sort(listed),
            )
        ]
        found += finding(
            ERROR,
            TRUTH,
            f"{file} differs from the rule 'same vehicle, {'same' if same_camera else 'another'} camera' for {{count}} "
            "[query|queries]",
            wrong,
            "the gallery is not in the order of name_test.txt, or names were changed: take one release",
        )
    return found
