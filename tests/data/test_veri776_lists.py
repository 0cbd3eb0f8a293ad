"""VeRi-776's files as arrays: on the real lists, and on a tiny folder that each test spoils in one way."""

import shutil
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from tiny import CAMERA_ORDER, DISTANCE_M

from torchreid_dfrst.data.veri776 import (
    VERI_ORDER,
    Label,
    cut_tracks,
    parse_names,
    read_index,
    read_labels,
    read_network,
    read_tracks,
    read_veri,
)
from torchreid_dfrst.sightings import UNKNOWN


@pytest.fixture(scope="module")
def real(veri_lists):
    return read_veri(veri_lists, images=False)


def test_real_counts(real):
    assert [len(real.train), len(real.query), len(real.gallery)] == [37_778, 1_678, 11_579]
    assert len(np.unique(real.train.identity)) == 576
    assert len(np.unique(real.gallery.identity)) == 200
    assert not set(real.train.identity) & set(real.gallery.identity)
    assert set(real.query.path) <= set(real.gallery.path)
    assert set(real.train.camera) == set(range(20))
    assert set(real.gallery.camera) == set(range(19))


def test_real_times_are_frames_at_25_per_second(real):
    first = list(real.query.path).index("0002_c002_00030600_0.jpg")
    assert (real.query.identity[first], real.query.camera[first], real.query.time_s[first]) == (2, 1, 30_600 / 25)
    everything = np.concatenate([real.train.time_s, real.gallery.time_s])
    assert (everything.min(), everything.max()) == (0.0, 89_990 / 25)


def test_real_tracks(real):
    assert (np.bincount(real.gallery.track) > 0).all()
    assert len(np.unique(real.gallery.track)) == 2_021
    of_name = dict(zip(real.gallery.path, real.gallery.track, strict=True))
    assert [of_name[name] for name in real.query.path] == list(real.query.track)
    assert not set(real.train.track) & set(real.gallery.track)


def test_cutting_at_gaps_gives_the_real_tracks(real, veri_lists):
    cut = cut_tracks(real.gallery.identity, real.gallery.camera, np.rint(real.gallery.time_s * 25).astype(int))
    ours = {frozenset(real.gallery.path[cut == track]) for track in np.unique(cut)}
    official = {frozenset(names) for names in read_tracks(veri_lists / "test_track.txt")}
    assert len(ours) == len(official) == 2_021
    assert len(ours & official) == 1_998


def test_the_junk_rule_is_the_real_junk_list(real, veri_lists):
    truth = read_index(veri_lists / "gt_index.txt", len(real.gallery))
    junk = read_index(veri_lists / "jk_index.txt", len(real.gallery))
    assert len(truth) == len(junk) == len(real.query) == 1_678
    for row in range(len(real.query)):
        same = real.gallery.identity == real.query.identity[row]
        here = real.gallery.camera == real.query.camera[row]
        np.testing.assert_array_equal(truth[row], np.flatnonzero(same & ~here))
        np.testing.assert_array_equal(junk[row], np.flatnonzero(same & here))
        assert len(truth[row]) and len(junk[row])


def test_real_camera_order(real):
    assert tuple(real.network.cameras + 1) == VERI_ORDER
    between = real.network.between(np.array([6]), np.array([4, 7, 15]))  # camera 7 to 5, 8 and 16
    np.testing.assert_array_equal(between, [[40, 170, 880]])
    np.testing.assert_array_equal(real.network.distance_m, real.network.distance_m.T)
    assert real.network.distance_m.max() == 1_330


def test_real_order_is_known_without_camera_id(veri_lists, tmp_path):
    shutil.copy(veri_lists / "camera_Dist.txt", tmp_path)
    assert read_network(tmp_path).fingerprint == read_network(veri_lists).fingerprint


def test_another_matrix_without_camera_id_is_an_error(tiny_veri):
    (tiny_veri / "veri776" / "camera_ID.txt").unlink()
    with pytest.raises(FileNotFoundError, match="camera_ID"):
        read_network(tiny_veri / "veri776")


def test_real_labels(veri_lists):
    labels = read_labels(veri_lists)
    assert len(labels) == 37_778
    assert labels["0001_c001_00016450_0.jpg"] == Label(color=1, type=4)


def test_city_a_reads_like_veri(city_a):
    veri = read_veri(city_a)
    assert [len(veri.train), len(veri.query), len(veri.gallery)] == [2695, 207, 1344]
    assert len(np.unique(veri.gallery.track)) == 251
    assert tuple(veri.network.cameras[:3] + 1) == (9, 8, 2)


def test_images_and_lists_agree(tiny_veri, caplog):
    folder = tiny_veri / "veri776"
    seen, listed = read_veri(folder), read_veri(folder, images=False)
    assert not caplog.records
    for split in ("train", "query", "gallery"):
        a, b = getattr(seen, split), getattr(listed, split)
        for column in ("camera", "time_s", "identity", "track"):
            np.testing.assert_array_equal(getattr(a, column), getattr(b, column))
        assert all(Image.open(path).size == (64, 64) for path in a.path)
        assert [path.split("/")[-1] for path in a.path] == list(b.path)
    assert len(np.unique(seen.gallery.track)) == 16
    rows = seen.network.rows(np.array(CAMERA_ORDER) - 1)
    np.testing.assert_array_equal(seen.network.distance_m[np.ix_(rows, rows)], DISTANCE_M + DISTANCE_M.T)


def test_cut_tracks_equals_the_definition():
    rng = np.random.default_rng(0)
    identity, camera, frame = rng.integers(0, 3, 200), rng.integers(0, 2, 200), rng.integers(0, 20_000, 200)
    track = cut_tracks(identity, camera, frame)
    assert 6 < len(np.unique(track)) < 200, "a reference of one track per pair would prove nothing"
    for i in range(3):
        for c in range(2):
            rows = np.flatnonzero((identity == i) & (camera == c))
            rows = rows[np.argsort(frame[rows], kind="stable")]
            for before, after in pairwise(rows):
                assert (track[before] == track[after]) == (frame[after] - frame[before] <= 250)


@pytest.mark.parametrize("missing", ["image_train", "image_query", "image_test"])
def test_a_missing_folder_is_named(tiny_veri, missing):
    shutil.rmtree(tiny_veri / "veri776" / missing)
    with pytest.raises(FileNotFoundError, match=missing):
        read_veri(tiny_veri / "veri776")


@pytest.mark.parametrize("missing", ["name_train.txt", "name_query.txt", "name_test.txt"])
def test_a_missing_list_is_named_when_lists_are_all(tiny_veri, missing):
    (tiny_veri / "veri776" / missing).unlink()
    with pytest.raises(FileNotFoundError, match=missing):
        read_veri(tiny_veri / "veri776", images=False)


@pytest.mark.parametrize("name", ["0001_c001_0000100_0.jpg", "1_c1.jpg", "0001_c000_00000100_0.jpg", "x.png"])
def test_a_name_that_does_not_parse_is_named(tiny_veri, name):
    Image.new("RGB", (4, 4)).save(tiny_veri / "veri776" / "image_train" / name)
    with pytest.raises(ValueError, match=rf"1 of 33 names.*{name}"):
        read_veri(tiny_veri / "veri776")


def test_an_empty_query_list(tiny_veri):
    folder = tiny_veri / "veri776"
    (folder / "name_query.txt").write_text("\r\n\r\n")
    with pytest.raises(ValueError, match=r"name_query\.txt is empty"):
        read_veri(folder, images=False)
    for path in (folder / "image_query").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="image_query holds no image"):
        read_veri(folder)


def test_a_camera_without_a_distance_row(tiny_veri):
    name = "0001_c007_00000100_0.jpg"
    Image.new("RGB", (4, 4)).save(tiny_veri / "veri776" / "image_train" / name)
    with pytest.raises(ValueError, match=rf"c007 has 1 image .*{name}.*camera_Dist\.txt"):
        read_veri(tiny_veri / "veri776")


def test_differences_from_the_lists_are_counted(tiny_veri, caplog):
    folder = tiny_veri / "veri776"
    names = sorted(path.name for path in (folder / "image_train").iterdir())
    (folder / "name_train.txt").write_text("\n".join([*names[2:], "0009_c001_00000000_0.jpg", names[-1]]))
    (folder / "image_train" / "Thumbs.db").write_text("")
    assert len(read_veri(folder).train) == 32
    text = caplog.text
    assert "2 images are not in" in text and names[0] in text
    assert "1 image is missing that stands in" in text and "0009_c001" in text
    assert "1 name stands more than once" in text and names[-1] in text
    assert "Thumbs.db" in text


def test_a_name_listed_twice(tiny_veri):
    path = tiny_veri / "veri776" / "name_test.txt"
    names = path.read_text().split()
    path.write_text("\n".join(names + names[:1]))
    with pytest.raises(ValueError, match=rf"1 name stands more than once .*{names[0]}"):
        read_veri(tiny_veri / "veri776", images=False)


def test_without_track_list_the_gallery_is_cut(tiny_veri, caplog):
    with_list = read_veri(tiny_veri / "veri776").gallery.track
    (tiny_veri / "veri776" / "test_track.txt").unlink()
    np.testing.assert_array_equal(read_veri(tiny_veri / "veri776").gallery.track, with_list)
    assert "test_track.txt" in caplog.text


def test_an_image_in_no_track_is_unknown_and_counted(tiny_veri, caplog):
    path = tiny_veri / "veri776" / "test_track.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[1:]))
    assert (read_veri(tiny_veri / "veri776").gallery.track == UNKNOWN).sum() == 2
    assert "2 images are in no track" in caplog.text


@pytest.mark.parametrize("line", ["0002_c001_t0001", "0002_c001_t0001 0004_c001_00000100_0.jpg"])
def test_a_track_line_that_is_none(tmp_path, line):
    (tmp_path / "test_track.txt").write_text(line)
    with pytest.raises(ValueError, match="track 1 of"):
        read_tracks(tmp_path / "test_track.txt")


def test_an_image_twice_in_its_track_is_counted(tiny_veri, caplog):
    path = tiny_veri / "veri776" / "test_track.txt"
    lines = path.read_text().splitlines()
    name = lines[0].split()[1]
    path.write_text("\n".join([f"{lines[0]} {name}", *lines[1:]]))
    read_veri(tiny_veri / "veri776")
    assert "1 row of" in caplog.text and "repeats an earlier one" in caplog.text and name in caplog.text


def test_an_image_in_two_tracks(tiny_veri):
    path = tiny_veri / "veri776" / "test_track.txt"
    first = path.read_text().splitlines()[0]
    path.write_text(path.read_text() + first)
    with pytest.raises(ValueError, match=r"contradict.*\(track 1 and track 17\)"):
        read_veri(tiny_veri / "veri776")


@pytest.mark.parametrize(
    "matrix, message",
    [
        ("0 1\n0 0 0", "square"),
        ("", "square"),
        ("0 x\n0 0", "not a number"),
        ("0 1\n2 0", "row 1, column 2"),
        ("0 -1\n0 0", "-1"),
        ("0 nan\n0 0", "nan"),
        ("3 1\n0 0", "itself"),
    ],
)
def test_a_matrix_that_is_none(tmp_path, matrix, message):
    (tmp_path / "camera_Dist.txt").write_text(matrix)
    (tmp_path / "camera_ID.txt").write_text("2 1")
    with pytest.raises(ValueError, match=message):
        read_network(tmp_path)


@pytest.mark.parametrize(
    "order, message", [("1 2 3", "3 cameras"), ("1 a", "holds a"), ("0 1", "holds 0"), ("1 1", "2 rows")]
)
def test_a_camera_order_that_is_none(tmp_path, order, message):
    (tmp_path / "camera_Dist.txt").write_text("0 5\n0 0")
    (tmp_path / "camera_ID.txt").write_text(order)
    with pytest.raises(ValueError, match=message):
        read_network(tmp_path)


@pytest.mark.parametrize(
    "matrix",
    ["0 5 7\n0 0 9\n0 0 0", "0 0 0\n5 0 0\n7 9 0", "0 5 7\r\n5 0 9\r\n7 9 0\r\n\r\n", "0,5,7\n5,0,9\n7,9,0"],
)
def test_triangles_and_whole_matrices_are_the_same(tmp_path, matrix):
    (tmp_path / "camera_Dist.txt").write_bytes(matrix.encode())
    (tmp_path / "camera_ID.txt").write_text("1 2 3")
    np.testing.assert_array_equal(read_network(tmp_path).distance_m, [[0, 5, 7], [5, 0, 9], [7, 9, 0]])


def test_no_matrix_no_network(tiny_veri):
    (tiny_veri / "veri776" / "camera_Dist.txt").unlink()
    assert read_veri(tiny_veri / "veri776").network is None


def test_labels_are_optional_and_zero_is_unknown(tiny_veri):
    folder = tiny_veri / "veri776"
    assert len(read_labels(folder)) == 64
    text = (folder / "train_label.xml").read_text().replace('typeID="1"', 'typeID="0"', 1)
    (folder / "train_label.xml").write_text(text)
    name = sorted(path.name for path in (folder / "image_train").iterdir())[0]
    assert read_labels(folder)[name] == Label(color=1, type=UNKNOWN)
    (folder / "test_label.xml").unlink()
    assert len(read_labels(folder)) == 32


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "gb18030"])
def test_labels_in_any_encoding(tmp_path, encoding):
    text = '<?xml version="1.0" encoding="gb2312" ?>\r\n<A note="车"><Item imageName="a.jpg" colorID="3" /></A>'
    (tmp_path / "train_label.xml").write_bytes(text.encode(encoding))
    assert read_labels(tmp_path) == {"a.jpg": Label(color=3, type=UNKNOWN)}


@pytest.mark.parametrize(
    "text, message",
    [
        ("<A><Item", "well-formed"),
        ("", "well-formed"),
        ('<A><Item colorID="1" /></A>', "item 1"),
        ('<A><Item imageName="a" colorID="red" /></A>', "red"),
        ('<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]><A>&c;</A>', "entities"),
    ],
)
def test_a_label_file_that_is_none(tmp_path, text, message):
    (tmp_path / "train_label.xml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_labels(tmp_path)


@pytest.mark.parametrize("word", ["0", "5", "x", "-1", "9" * 5000])
def test_an_index_outside_the_gallery(tmp_path, word):
    (tmp_path / "gt_index.txt").write_text(f"1 2 \r\n{word} \r\n")
    with pytest.raises(ValueError, match="line 2"):
        read_index(tmp_path / "gt_index.txt", 4)


def test_a_query_may_have_an_empty_line(tmp_path):
    (tmp_path / "gt_index.txt").write_bytes(b"1 4 \r\n\r\n2 \r\n\r\n")
    assert [rows.tolist() for rows in read_index(tmp_path / "gt_index.txt", 4)] == [[0, 3], [], [1], []]


def test_no_names_at_all():
    assert [len(column) for column in parse_names([], "nowhere")] == [0, 0, 0]
    assert len(cut_tracks(*parse_names([], "nowhere"))) == 0
