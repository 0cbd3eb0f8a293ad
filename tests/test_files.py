"""Whoever saves a file saves it whole: a full disk leaves the earlier one, and the message names the file."""

import errno
import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
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
    assert any(file.startswith(f"{tmp_path / name}.") and file.endswith(".part") for file in synced)
    assert (tmp_path / name).is_file()


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


def in_turn(target, count):
    """Call ``target(number)`` in so many threads at once, and raise what one raised."""
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(target, range(count)))


def test_a_pair_that_is_saved_by_many_at_once_belongs_together(tmp_path, monkeypatch):
    replace = os.replace

    def slow(source, target):
        replace(source, target)
        time.sleep(0.002)

    monkeypatch.setattr(os, "replace", slow)
    paths = [tmp_path / "a", tmp_path / "b"]
    in_turn(lambda number: files.write({path: str(number).encode() for path in paths}), 20)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_one_file_that_is_saved_by_many_at_once_is_one_of_theirs(tmp_path):
    in_turn(lambda number: files.write({tmp_path / "a": b"%d" % number * 100_000}), 20)
    assert len(set((tmp_path / "a").read_text())) <= 2 and len(list(tmp_path.iterdir())) == 1


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such locks")
def test_a_lock_is_held_by_one_and_by_no_dead_process(tmp_path):
    lock = tmp_path / "lock"
    with files.locked(lock):
        with pytest.raises(BlockingIOError), files.locked(lock, wait=False):
            pass
        child = os.fork()
        if not child:
            time.sleep(20)
            os._exit(0)
    # a child that was forked meanwhile holds nothing
    with files.locked(lock, wait=False):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert not lock.exists()
    with files.locked(lock, keep=True):
        pass
    assert lock.exists()


def test_what_was_left_over_is_taken_away_after_a_day(tmp_path):
    old, new, other = (tmp_path / name for name in ("a.host-1-0.part", "a.host-2-0.part", "b.host-1-0.part"))
    for path in (old, new, other):
        path.write_text("")
    for path in (old, other):
        os.utime(path, (0, 0))
    files.write({tmp_path / "a": b"x"})
    assert {path.name for path in tmp_path.iterdir()} == {"a", new.name, other.name}


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"{", "no whole card: it stops being JSON in line 1, column 2"), (b"[1]", "no card: it holds list where names"),
     (b"\xff\xfe", "it is not text"), (b"[" * 100_000, "no card"), (b"9" * 5000, "no card"), (b"", "no whole card")],
)  # fmt: skip
def test_json_that_is_no_object_is_said(content, words, tmp_path):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match=f"a is {words}.*; make it again" if "not text" not in words else words):
        files.read_json(tmp_path / "a", "card", "make it again")


def test_an_array_that_nobody_asks_for_is_not_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, wanted=np.arange(3), other=np.zeros(3_000_000, np.uint8))
    monkeypatch.setattr(files, "ROOM", 1_000_000)
    found = files.read_arrays(path, lambda name: name == "wanted")
    assert list(found) == ["wanted"] and found["wanted"].tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match=r"its arrays would fill 3 MB, more than 50 times the file's 0\.0 MB"):
        files.read_arrays(path)


@pytest.mark.parametrize(
    ("value", "kept"),
    [("/srv/me/data", "data"), ("~/x/y.pt", "y.pt"), ("C:\\Users\\me\\f.npz", "f.npz"), ("a/b", "a/b"), ("/", "/"),
     ({"a": ["/x/y", 1, None]}, {"a": ["y", 1, None]}), ("https://x.org/a", "https://x.org/a"), ("file:///x/y", "y")],
)  # fmt: skip
def test_what_is_shared_names_no_folder_of_its_maker(value, kept):
    assert files.without_folders(value) == kept


def test_what_is_no_file_is_named(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("")
    found = {name: files.what_is(tmp_path / name) for name in ("loop", "dangling", "pipe", "file", "none", "file/x")}
    assert found == {
        "loop": "a link that leads back to itself", "dangling": "a link to nothing", "pipe": "a pipe (FIFO)",
        "file": "", "none": None, "file/x": None,
    }  # fmt: skip
    assert files.what_is(tmp_path) == "a folder" and files.what_is("/dev/null") == "a device"
    with pytest.raises(ValueError, match=r"pipe is a pipe \(FIFO\), where a file is expected"):
        files.require_file(tmp_path / "pipe", "none")


def test_a_check_before_the_work_leaves_nothing_and_refuses_what_could_not_be_written_after_it(tmp_path):
    files.require_writable(tmp_path / "runs" / "audit" / "audit.json")
    assert not list(tmp_path.iterdir())
    (tmp_path / "runs").write_text("")
    with pytest.raises(OSError, match=r"audit\.json could not be written .*choose another place"):
        files.require_writable(tmp_path / "runs" / "audit" / "audit.json")
