"""Whoever saves a file saves it whole: a full disk leaves the earlier one, and the message names the file."""

import errno
import os
import re
from pathlib import Path

import numpy as np
import pytest

from torchreid_dfrst import files
from torchreid_dfrst.evaluation.card import Card
from torchreid_dfrst.retrieval import Extraction, Features
from torchreid_dfrst.sightings import CameraNetwork, Sightings
from torchreid_dfrst.spatiotemporal import build
from torchreid_dfrst.training import checkpoint

SIGHTINGS = Sightings(np.arange(4) % 2, np.arange(4) * 60.0, np.array([0, 0, 1, 1]))
FEATURES = Features(np.ones((4, 250_000), np.float32), SIGHTINGS)


def model():
    network = CameraNetwork(np.arange(2), np.array([[0.0, 500.0], [500.0, 0.0]]))
    return build("transition").fit(SIGHTINGS, network)


SAVED = {
    "model.json": (lambda path: model().save(path), r"0\.0 MB"),
    "features.npz": (lambda path: Extraction(FEATURES, FEATURES).save(path), r"8\.0 MB"),
    "card.json": (lambda path: Card({}, {"draw": np.arange(9)}).save(path), r"0\.0 MB"),
    "card.queries.npz": (lambda path: Card({}, {"draw": np.arange(9)}).save(path.with_name("card.json")), r"0\.0 MB"),
    "a.pt": (lambda path: checkpoint.save(path, {"a": [FEATURES.embedding.tolist()[0][:10]]}), None),
}


@pytest.mark.parametrize("name", SAVED)
def test_a_full_disk_leaves_the_earlier_file_and_is_said(name, tmp_path, monkeypatch):
    save, needed = SAVED[name]
    path = tmp_path / name
    save(path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    first = next(iter(sorted(before, reverse=True)))

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    words = f"{needed} are needed and " if needed else ""
    with pytest.raises(
        OSError, match=rf"cannot save {re.escape(str(tmp_path / first))}: No space left on device: {words}[\d,.]+ MB"
    ):
        save(path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize(("size", "words"), [(8_000_000, r": 8\.0 MB are needed\. Make"), (0, r"\. Make")])
def test_what_the_file_system_has_free_is_not_what_a_quota_leaves(size, words, tmp_path, monkeypatch):
    def exceeded(handle):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "fsync", exceeded)
    with pytest.raises(OSError, match=rf"/a: Disk quota exceeded{words} room there, or choose another folder$"):
        files.write({tmp_path / "a": lambda file: file.write(b"x")}, size=size)


def test_a_full_disk_without_room_for_the_folder_is_said(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(OSError, match=r"cannot save .*/no/a: No space left on device: 0\.0 MB are needed\. Make room"):
        files.write({tmp_path / "no" / "a": b"x"})


@pytest.mark.parametrize("name", [name for name in SAVED if name != "card.json"])
def test_a_file_is_on_the_disk_before_it_has_its_name(name, tmp_path, monkeypatch):
    synced = []
    replace = os.replace

    def sync(handle):
        synced.append(os.readlink(f"/proc/self/fd/{handle}"))

    def rename(source, target):
        assert str(source) in synced, f"{source} was named before it was written"
        replace(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", rename)
    SAVED[name][0](tmp_path / name)
    assert str(tmp_path / f"{name}.part") in synced and (tmp_path / name).is_file()


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, RuntimeError])
def test_what_will_not_do_does_not_take_the_place_of_the_earlier_file(kind, tmp_path):
    files.write({tmp_path / "a": b"earlier"})

    def refuse(part):
        assert part.read_bytes() == b"later"
        raise kind("no")

    with pytest.raises(kind, match="no"):
        files.write({tmp_path / "a": lambda file: file.write(b"later")}, check=refuse)
    assert [file.name for file in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_bytes() == b"earlier"


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot save .*file/a: .*(File exists|Not a directory)"):
        files.write({tmp_path / "file" / "a": b"x"})
