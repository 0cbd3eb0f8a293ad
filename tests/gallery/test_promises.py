"""What a gallery promises whoever adds to it, deletes from it and reads it at the same time."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="galleries need pyarrow, an optional extra")

from tests.gallery.crops import SOURCE, WIDTH, crops
from torchreid_dfrst.gallery import Gallery, gallery, store
from torchreid_dfrst.gallery.spacetime import Trips
from torchreid_dfrst.gallery.store import FORMAT, VERSION, Content
from torchreid_dfrst.sightings import Sightings

ROOT = Path(__file__).parents[2]


@pytest.fixture
def made(tmp_path):
    found = Gallery.create(tmp_path / "g", SOURCE, WIDTH)
    found.add(crops(300), SOURCE)
    return found


def all_rows(address):
    """Paths of all rows, as searching for everything finds them."""
    opened = Gallery.open(address)
    return opened.search(np.ones((1, WIDTH)), top=10**6).columns["path"]


def listed(opened):
    return {file.path for file in opened.content.files}


def on_disk(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.parquet")}


def test_what_was_added_is_found_and_lies_in_its_day_and_hour(made, tmp_path):
    times = np.array([1777654323.25, 1777654400.5, 1777650000.0, np.nan])
    assert made.add(crops(4, 1, times, "new-"), SOURCE) == 4
    info = Gallery.open(tmp_path / "g").info()
    assert info["images"] == 304 and info["without a time"] == 1 and info["last_s"] == 1777654400.5
    assert info["cameras"] == ["gate 0", "gate 1", "gate 2"] and not info["damaged"]
    folders = {str(Path(path).parent) for path in on_disk(tmp_path / "g")}
    assert {"day=2026-05-01/hour=16", "day=2026-05-01/hour=15", store.UNKNOWN_HOUR} <= folders
    hits = made.search(crops(4, 1).embedding[:1], top=1).columns
    assert hits["path"] == ["new-0.jpg"] and hits["time_s"] == [1777654323.25] and hits["distance"][0] < 1e-6


@pytest.mark.parametrize("kills", [int(os.environ.get("DFRST_KILLS", "3"))])
def test_an_acknowledged_add_survives_sigkill_and_no_half_add_is_seen(tmp_path, kills):
    Gallery.create(tmp_path / "g", SOURCE, WIDTH)
    rng, acknowledged = np.random.default_rng(int.from_bytes(os.urandom(4), "little")), []
    for kill in range(kills):
        words = [sys.executable, "-m", "tests.gallery.adder", str(tmp_path / "g"), str(1000 * kill)]
        writer = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        first = writer.stdout.readline()
        time.sleep(rng.uniform(0, 0.3))
        writer.send_signal(signal.SIGKILL)
        acknowledged += [line.split()[0] for line in (first + writer.stdout.read()).splitlines()]
        assert writer.wait() == -signal.SIGKILL
        count = Counter(path.partition("-")[0] for path in all_rows(tmp_path / "g"))
        assert set(count.values()) == {20}, "an add is there whole or not at all"
        assert set(acknowledged) <= set(count)
    opened = Gallery.open(tmp_path / "g")
    opened.add(crops(1), SOURCE)
    assert on_disk(tmp_path / "g") == listed(opened), "the next writer takes away what the killed ones left"


def test_a_reader_keeps_its_list_and_takes_the_next_one_when_it_searches_again(made, tmp_path):
    reader = Gallery.open(tmp_path / "g")
    before = reader.content
    made.add(crops(50, 5, names="later-"), SOURCE)
    assert reader.content is before
    found = reader.search(crops(50, 5).embedding[:1], top=1)
    assert found.columns["path"] == ["later-0.jpg"] and reader.content.number == before.number + 1


def test_an_add_that_fails_leaves_the_gallery_as_it_was(made, tmp_path, monkeypatch):
    before = (tmp_path / "g" / "gallery.json").read_bytes(), on_disk(tmp_path / "g")
    monkeypatch.setattr(store.Store, "publish", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        made.add(crops(50, 5), SOURCE)
    assert (tmp_path / "g" / "gallery.json").read_bytes() == before[0]
    assert len(all_rows(tmp_path / "g")) == 300


def test_the_second_writer_is_told(made, tmp_path):
    with made.store.writer(), pytest.raises(ValueError, match=r"another program is writing to .*g: wait"):
        Gallery.open(tmp_path / "g").add(crops(3), SOURCE)
    assert Gallery.open(tmp_path / "g").add(crops(3), SOURCE) == 3


@pytest.mark.parametrize(
    ("features", "source", "words"),
    [
        (crops(3, width=8), SOURCE, "embeddings have 8 numbers, those of .* 16"),
        (crops(3), {**SOURCE, "weights_sha256": "cd" * 32}, "embeddings of tiny, weights cdcdcdcd.*weights abababab"),
        (crops(3), {**SOURCE, "input": [96, 96]}, "images of 96 x 96 cannot be compared .*images of 64 x 64"),
    ],
)
def test_embeddings_of_another_network_width_or_size_are_refused(made, features, source, words):
    with pytest.raises(ValueError, match=words):
        made.add(features, source)
    assert len(made) == 300


def test_deletes_are_final_after_compact(made, tmp_path):
    held = crops(300).sightings
    gone = held.camera_name == "gate 1"
    reader = Gallery.open(tmp_path / "g")
    assert made.delete(camera="gate 1") == gone.sum()
    assert sorted(reader.search(np.ones((1, WIDTH)), top=999).columns["path"]) == sorted(held.path[~gone])
    with pytest.raises(ValueError, match="compact the gallery first"):
        made.export()
    assert made.compact()["erased"] == gone.sum() and made.content.deletions == ()
    whole = b"".join((tmp_path / "g" / name).read_bytes() for name in on_disk(tmp_path / "g"))
    assert b"gate 1" not in whole and b"gate 2" in whole
    made.add(crops(10, 9, names="new-"), SOURCE)
    assert len(all_rows(tmp_path / "g")) == 300 - gone.sum() + 10, "what comes later is not deleted"


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        ({"identity": "car 3"}, lambda s: s.vehicle_name == "car 3"),
        ({"path": "crop-7.jpg"}, lambda s: s.path == "crop-7.jpg"),
        ({"from_s": 3600.0, "until_s": 7200.0}, lambda s: (s.time_s >= 3600) & (s.time_s < 7200)),
        ({"camera": "gate 0", "until_s": 5000.0}, lambda s: (s.camera_name == "gate 0") & (s.time_s < 5000)),
    ],
)
def test_deletes_by_camera_time_identity_and_path(made, tmp_path, wanted, chosen):
    held = crops(300).sightings
    assert made.delete(**wanted) == chosen(held).sum() > 0
    assert sorted(all_rows(tmp_path / "g")) == sorted(held.path[~chosen(held)])


def test_nothing_said_deletes_nothing(made):
    with pytest.raises(ValueError, match="say what to delete"):
        made.delete()
    assert made.delete(camera="gate 77") == 0 and made.content.deletions == ()


def test_expiry_removes_whole_hours(made, tmp_path):
    held = crops(300).sightings
    files, rows = made.expire(2 * 3600 + 60)
    assert (files, rows) == (2, (held.time_s < 7200).sum())
    assert on_disk(tmp_path / "g") == listed(made) and len(all_rows(tmp_path / "g")) == 300 - rows
    assert not (tmp_path / "g" / "day=1970-01-01" / "hour=00").exists()


def test_small_files_are_put_together_within_memory(made, tmp_path):
    for number in range(10):
        made.add(crops(20, number, names=f"{number}-"), SOURCE)
    before = sorted(all_rows(tmp_path / "g"))
    sizes = max(file.bytes for file in made.content.files)
    done = made.compact(memory_limit=gallery.COPIES * 3 * sizes)
    assert done["files before"] == 44 and 4 < done["files"] < 44, "some files at a time"
    assert made.compact()["files"] == 4 and sorted(all_rows(tmp_path / "g")) == before
    assert on_disk(tmp_path / "g") == listed(made)


@pytest.mark.parametrize("spoil", ["cut", "flip", "lost"])
def test_a_damaged_file_is_named_and_the_rest_serves(made, tmp_path, spoil, caplog):
    file = made.content.files[1]
    path = tmp_path / "g" / file.path
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 0xFF
    path.unlink() if spoil == "lost" else path.write_bytes(whole[:-50] if spoil == "cut" else whole)
    found = Gallery.open(tmp_path / "g").search(np.ones((1, WIDTH)), top=999)
    assert len(found) == 300 - file.rows and any("1 file of the gallery could not be read" in n for n in found.notes)
    assert file.path in caplog.text
    info = made.info(check=True)
    assert list(info["damaged"]) == [file.path] and info["images"] == 300 - file.rows
    if spoil != "lost":
        assert made.compact()["damaged"] == 0, "a file alone is not read"
        assert file.path in on_disk(tmp_path / "g")


def test_a_reader_that_finds_files_expired_reads_the_new_list(made, tmp_path, monkeypatch):
    reader = Gallery.open(tmp_path / "g")
    monkeypatch.setattr(store.Store, "stamp", lambda self: 0)  # it believes that nothing has changed
    reader._stamp = 0
    made.expire(7200)
    monkeypatch.undo()
    assert len(reader.search(np.ones((1, WIDTH)), top=999)) == len(made)


@pytest.mark.parametrize(("change", "words"), [
    (lambda held: {**held, "version": 2}, "'torchreid_dfrst gallery' version 2, this package reads"),
    (lambda held: {"format": "other", "version": 1}, "'other' version 1"),
    (lambda held: [], "is not the list of a gallery"),
])  # fmt: skip
def test_the_schema_has_a_version(made, tmp_path, change, words):
    path = tmp_path / "g" / "gallery.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(ValueError, match=words):
        Gallery.open(tmp_path / "g")


def test_a_folder_that_is_no_gallery(tmp_path):
    with pytest.raises(FileNotFoundError, match="none does not exist: make one"):
        Gallery.open(tmp_path / "none")
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(FileNotFoundError, match="is no gallery"):
        Gallery.open(tmp_path)
    with pytest.raises(ValueError, match="is there and no gallery"):
        Gallery.create(tmp_path, SOURCE, WIDTH)


def test_any_address_of_fsspec_will_do(made):
    other = Gallery.create("memory://crops/g", SOURCE, WIDTH)
    other.add(crops(300), SOURCE)
    x = crops(5, 3).embedding
    assert other.search(x, top=7).columns == made.search(x, top=7).columns
    other.delete(camera="gate 0")
    assert other.compact()["files"] == 4
    with other.store.writer(), pytest.raises(ValueError, match=r"another program is writing .* remove .*writer.lock"):
        other.add(crops(1), SOURCE)


def test_numbers_stand_for_cameras_and_vehicles_without_names(made):
    plain = crops(2, 4, names="plain-")
    seen = plain.sightings
    made.add(type(plain)(plain.embedding, Sightings(seen.camera, seen.time_s, [5, -1], path=seen.path)), SOURCE)
    hits = made.search(plain.embedding, top=1).columns
    assert hits["camera"] == [str(c) for c in seen.camera] and hits["identity"] == ["5", ""]


def test_other_engines_read_the_exported_files(made):
    import pyarrow.dataset

    names = [name.removeprefix("file://") for name in made.export()]
    table = pyarrow.dataset.dataset(names, format="parquet").to_table()
    assert len(table) == 300 and sorted(table["path"].to_pylist()) == sorted(crops(300).sightings.path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"files": None}, "is damaged: it lacks something"),
        ({"more": 1}, "is damaged: it lacks something"),
        ({"network": "abc"}, "network is 'abc', expected names and values"),
        ({"spacetime": [1]}, r"spacetime is \[1\], expected names and values or null"),
    ],
)
def test_a_list_of_another_form_is_named(change, said):
    content = {"format": FORMAT, "version": VERSION, "number": 1, "network": {}, "width": 4, "dtype": "float32",
               "files": [], "deletions": []}  # fmt: skip
    assert Content.decode(json.dumps(content).encode(), "gallery.json").width == 4
    with pytest.raises(ValueError, match=rf"gallery\.json:? {said}"):
        Content.decode(json.dumps({**content, **change}).encode(), "gallery.json")


def test_space_and_time_that_are_damaged_are_said():
    with pytest.raises(ValueError, match=r"space and time of the gallery are damaged .*'names'.*: fit them anew"):
        Trips.load({})


def test_readers_see_whole_adds_while_others_add_compact_and_expire(tmp_path):
    made = Gallery.create(tmp_path / "g", SOURCE, WIDTH)
    made.add(crops(20, 0, np.arange(20) * 360.0, "0-"), SOURCE)
    problems, done = [], threading.Event()

    def write():
        try:
            for number in range(1, 10):
                made.add(crops(20, number, np.arange(20) * 360.0, f"{number}-"), SOURCE)
                if number % 3 == 0:
                    made.compact()
        finally:
            done.set()

    def read():
        reader, most = Gallery.open(tmp_path / "g"), 0
        while not done.is_set() and not problems:
            found = reader.search(np.ones((1, WIDTH)), top=10**6)
            count = Counter(path.partition("-")[0] for path in found.columns["path"])
            if set(count.values()) != {20} or len(count) < most or found.notes:
                problems.append((count, found.notes))
            most = len(count)

    threads = [threading.Thread(target=what) for what in (write, read, read)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == [] and len(all_rows(tmp_path / "g")) == 10 * 20


def test_a_window_of_ten_million_images_reads_its_files_alone(made):
    """Files that are listed and not there: one that is opened outside the window would be named."""
    held = made.content
    many = [
        store.File(f"day=2020-01-01/hour={k}/x.parquet", 1000, 1, 1e8 + 60.0 * k, 1e8 + 60.0 * k + 59, 1)
        for k in range(10_000)
    ]
    with made.store.writer():
        made.store.publish(store.without(held, (), many))
    opened = Gallery.open(made.store.address)
    assert len(opened) == 10_000_300
    found = opened.search(np.ones(WIDTH), time_s=[7200.0], before_s=3600, top=999)
    seen = crops(300).sightings.time_s
    assert found.notes == () and len(found) == ((seen >= 3600) & (seen <= 7200)).sum()
