"""Folds of a labelled table: for each, training vehicles, and others that play query and gallery."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from torchreid_dfrst import files
from torchreid_dfrst.checks import within
from torchreid_dfrst.data.dataset import one_camera_vehicles, vehicles_called
from torchreid_dfrst.data.problems import warn
from torchreid_dfrst.data.table import read_columns, read_rows
from torchreid_dfrst.evaluation.weight import held_out
from torchreid_dfrst.messages import numbered

BESIDE = ("distances.csv", "cameras.csv")


def split_table(table: Path, folds: int = 5, seed: int = 0, out: Path | None = None) -> Iterator[tuple[Path, str]]:
    """Write ``<table>-fold1.csv`` and so on, which are tables with a column ``split``; yield each, and what is in it.

    Vehicles are drawn by ``seed`` into ``folds`` groups. Each is the test of one fold: one query for each vehicle and
    camera, where another camera saw the vehicle too, and all its images are the gallery; the images of all other
    vehicles are for training. Images without an identity are in every gallery. Other columns stay, a column ``split``
    is replaced. The folder ``out``, that of the table if None, gets the distances too.

    Raises:
        FileNotFoundError, ValueError: as ``Table``; there is no identity, too few vehicles, or none of two cameras.
    """
    within("folds", folds, lowest=2)
    within("seed", seed)
    seen, _, names, _ = read_rows(table, needed=("path", "camera"))
    columns = {name: words for name, words in read_columns(table, ()).items() if name != "split"}
    if not seen.known.any():
        raise ValueError(f"{table} has no identity in any row: folds are made of vehicles")
    first = np.sort(np.unique(names, return_index=True)[1])
    again = (np.setdiff1d(np.arange(len(names)), first) + 2).tolist()
    warn(f"{{count}} [row of {table} repeats another and is|rows of {table} repeat others and are] left out", again)
    alone = one_camera_vehicles(seen)
    text = f"{{count}} [vehicle of {table} is|vehicles of {table} are] seen by one camera and [gives|give] no query"
    warn(text, vehicles_called(seen, alone))
    nobody = first[~seen.known[first]]
    warn(f"{{count}} [image of {table} has|images of {table} have] no identity: in every gallery", seen.path[nobody])
    out = table.parent if out is None else out
    if not out.exists() or not os.path.samefile(out, table.parent):
        columns["path"] = [os.path.relpath(table.parent / path, out) for path in columns["path"]]
        there = [name for name in BESIDE if (table.parent / name).is_file()]
        if there:
            files.write({out / name: (table.parent / name).read_bytes() for name in there})
    for number, fold in enumerate(held_out(seen[first], folds, most=len(first), seed=seed), start=1):
        query = first[fold.query]
        query = query[~np.isin(seen.identity[query], alone)]
        parts = {"train": first[fold.fit], "query": query, "gallery": np.sort([*first[fold.gallery], *nobody])}
        if not len(query):
            raise ValueError(f"no vehicle of fold {number} of {table} is seen by two cameras: no query can be made")
        path = out / f"{table.stem}-fold{number}.csv"
        lines = [[*(words[row] for words in columns.values()), part] for part, rows in parts.items() for row in rows]
        files.write({path: files.as_csv([[*columns, "split"], *lines])})
        yield path, ", ".join(numbered(f"{{count}} {part} [image|images]", len(rows)) for part, rows in parts.items())
