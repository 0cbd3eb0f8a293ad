"""Several processes give the lists and the card of one, and end together with one line that says which failed."""

import json
import os
import re
import signal
import sys

import numpy as np
import pytest

from tests.retrieval.scenes import TableTransit, clusters, slow_distance, symmetric_transit
from tests.training.processes import launch, together
from torchreid_dfrst import processes
from torchreid_dfrst.retrieval import Extraction, Features, neighbors, shards
from torchreid_dfrst.sightings import CameraNetwork, Sightings

ROOM = 600_000
"""Bytes in which only small tiles fit: many blocks, most of which cross no shard."""
X, Y = clusters(203)[0], clusters(150, seed=1)[0]
X[[7, 90, 151, 202]] = X[3]
X[100:110] = X[0:10]
Y[:20] = X[:20]
ONE_WAY = TableTransit(np.random.default_rng(2).uniform(0, 2, (203, 203)))
CASES = {
    "one list": (X, X, {}),
    "two lists": (Y, X, {}),
    "transit there and back": (X, X, {"transit": symmetric_transit(203), "weight": 0.3}),
    "transit one way": (X, X, {"transit": ONE_WAY, "weight": 0.3}),
    "transit of two lists": (Y, X, {"transit": TableTransit(ONE_WAY.table[:150]), "weight": 0.3}),
    "every image": (X[:9], X[:9], {"memory_limit": None, "count": 9}),
}
COLUMNS = ("index", "distance", "farthest", "near_ties")


def search_all(folder=None):
    group = processes.start()
    for number, (rows, columns, given) in enumerate(CASES.values()):
        options = {"count": 8, "memory_limit": ROOM, "group": group, **given}
        near = neighbors(rows, columns, **options)
        found = {name: getattr(near, name) for name in COLUMNS}
        if folder is None:
            yield found
        else:
            np.savez(folder / f"{group.rank}-{number}.npz", **found)


def searched(folder):
    list(search_all(folder))
    processes.stop()


def test_one_process_finds_the_lists_of_the_definition_and_they_have_ties():
    for (rows, columns, given), found in zip(CASES.values(), search_all(), strict=True):
        transit = given.get("transit")
        slow = slow_distance(rows, columns, transit and transit.table, given.get("weight", 0))
        np.testing.assert_array_equal(
            found["index"], np.argsort(slow, axis=1, kind="stable")[:, : len(found["index"][0])]
        )
        assert given or (np.diff(found["distance"], axis=1) == 0).any()


@pytest.mark.parametrize("count", [2, 3, 8])
def test_several_processes_find_the_lists_of_one(count, tmp_path):
    together(searched, count, tmp_path, folder=tmp_path)
    for number, whole in enumerate(search_all()):
        for rank in range(count):
            with np.load(tmp_path / f"{rank}-{number}.npz") as part:
                for name in ("index", "near_ties"):
                    np.testing.assert_array_equal(part[name], whole[name])
                for name in ("distance", "farthest"):
                    # tiles of other shapes sum in another order: as near as numbers that a change must keep
                    np.testing.assert_allclose(part[name], whole[name], rtol=0, atol=1e-6)


def drive(vehicles, rng):
    camera = np.tile(np.arange(4), len(vehicles))
    time = np.repeat(rng.uniform(0, 4000, len(vehicles)), 4) + camera * 40 * rng.lognormal(0, 0.2, len(camera))
    names = np.array([f"{v}_{c}" for v, c in zip(np.repeat(vehicles, 4), camera, strict=True)])
    return Sightings(camera, time, np.repeat(vehicles, 4), path=names)


@pytest.fixture
def features(tmp_path):
    """A features file of 40 queries and 120 gallery images, with space and time."""
    rng = np.random.default_rng(3)
    train, test = drive(np.arange(100, 140), rng), drive(np.arange(30), rng)
    looks = rng.normal(size=(30, 16))[test.identity] + 1.6 * rng.normal(size=(len(test), 16))
    gallery = Features(looks.astype(np.float32), test)
    network = CameraNetwork(np.arange(4), 400.0 * abs(np.subtract.outer(np.arange(4), np.arange(4))))
    path = tmp_path / "features.npz"
    Extraction(gallery[np.arange(0, 120, 3)], gallery, train, network=network, source={"data": "toy"}).save(path)
    return path


def evaluate(file, out, change=None):
    from torchreid_dfrst.cli import main

    rank = int(os.environ.get("RANK", 0))
    if change is not None:
        file = change(rank, file) or file
    main(["evaluate", str(file), "rerank.k1", "6", "rerank.k2", "3", "--lists", "0", "--out", str(out)])


def test_several_processes_write_the_card_of_one(features, tmp_path):
    evaluate(features, tmp_path / "1")
    whole = json.loads((tmp_path / "1" / "card.json").read_text())
    assert whole["rows"]["+ ST + re-ranking"]["mAP"] > 5
    for count in (2, 3):
        logs = tmp_path / f"logs-{count}"
        logs.mkdir()
        together(evaluate, count, features, tmp_path / str(count), folder=logs)
        card = json.loads((tmp_path / str(count) / "card.json").read_text())
        for content in (whole, card):
            content.pop("date", None), content.pop("command", None)
        assert card == whole
        assert [bool(log.read_text()) for log in sorted(logs.iterdir())] == [True] + [False] * (count - 1)


def killed(rank, file):
    if rank == 1:
        shards.Share.take = lambda *_: os.kill(os.getpid(), signal.SIGKILL)


def failed(rank, file):
    def take(*_):
        raise MemoryError("for a tile")

    if rank == 1:
        shards.Share.take = take


def other_version(rank, file):
    shards.__version__ = f"1.{rank}"


def other_features(rank, file):
    if rank == 1:
        other = file.with_name("other.npz")
        other.write_bytes(file.read_bytes() + b"\0")
        return other


def no_features(rank, file):
    return file.with_name("absent.npz") if rank == 1 else None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (killed, r"process 1 has ended without a message .* killed, often because memory ran out"),
        (failed, r"process 1: for a tile"),
        (other_version, r"process 1 runs version 1\.1 of this package, process 0 1\.0: install one everywhere"),
        (other_features, r"process 1 has other features than process 0 \(hash \w{16}, \w{16}\): copy one file"),
        (no_features, r"process 1: no features at .*absent\.npz: every machine needs them"),
    ],
)
def test_what_one_process_cannot_do_ends_all_with_one_line_that_names_it(change, says, features, tmp_path):
    started, logs = launch(evaluate, 3, features, tmp_path / "out", change, folder=tmp_path)
    for process in started:
        process.join(60)
    assert [process.exitcode for process in started] == [2, -signal.SIGKILL if change is killed else 2, 2]
    # torch itself warns where process 0 kept the store that passes messages on; with torchrun it outlives all of them
    lines = [line for log in logs for line in log.read_text().splitlines() if "error" in line and "c10" not in line]
    assert len(lines) == 1 and re.match(f"error: {says}", lines[0]), lines
    assert not (tmp_path / "out").exists()


def refused(group, rows, columns):
    try:
        neighbors(rows, columns, 2, group=group)
    except (ValueError, OSError) as error:
        print(error)
        sys.exit(3)


def too_many(folder):
    refused(processes.start(), X[:2], X[:2])


def test_more_processes_than_rows_are_refused(tmp_path):
    started, logs = launch(too_many, 3, tmp_path, folder=tmp_path)
    for process in started:
        process.join(60)
    assert "3 processes for 2 rows: process 2 would have none, start 2 or fewer" in logs[0].read_text()
    assert [process.exitcode for process in started] == [3, 3, 3]


def bad_rows(folder):
    group = processes.start()
    rows = X.copy()
    rows[5, 0] += np.nan if group.rank == 1 else 0
    refused(group, rows, X)


def test_what_is_wrong_with_the_arrays_of_one_process_is_said_by_the_others(tmp_path):
    started, logs = launch(bad_rows, 2, tmp_path, folder=tmp_path)
    for process in started:
        process.join(120)
    assert "process 1: 1 of 203 rows of rows hold NaN or infinity" in logs[0].read_text()
    assert [process.exitcode for process in started] == [3, 3]
