"""Tables however they were saved, the distances beside them, and images under other spellings of their names."""

import unicodedata

import numpy as np
import pytest
from PIL import Image

from torchreid_dfrst.data import Table
from torchreid_dfrst.data.csv_parquet import open_parquet
from torchreid_dfrst.data.image_paths import find, on_disk
from torchreid_dfrst.data.numbers import numbers
from torchreid_dfrst.data.table import read_distances, read_rows
from torchreid_dfrst.data.text import read_text
from torchreid_dfrst.retrieval import Extraction, Features

WORDS = [
    ["path", "identity", "camera", "time", "split"],
    ["a/1.jpg", "van", "north", "10.5", "train"],
    ["a/2.jpg", "van", "south", "20.25", "train"],
    ["a/3.jpg", "cab", "north", "30.125", "query"],
    ["a/4.jpg", "cab", "south", "1234.5", "gallery"],
]


def saved(mark=",", encoding="utf-8", comma=False, change=lambda text: text):
    def write(path):
        words = [[word.replace(".", ",") if comma and k == 3 else word for k, word in enumerate(row)] for row in WORDS]
        rows = [mark.join(f'"{word}"' if mark in word else word for word in row) for row in words]
        path.write_bytes(change("\n".join(rows)).encode(encoding))

    return write


SAVED = {
    "commas": saved(),
    "semicolons": saved(";"),
    "tabs": saved("\t"),
    "semicolons and decimal commas": saved(";", comma=True),
    "tabs and decimal commas": saved("\t", comma=True),
    "quoted decimal commas": saved(comma=True),
    "mark": saved(";", "utf-8-sig"),
    "UTF-16": saved("\t", "utf-16"),
    "UTF-16 without a mark": saved("\t", "utf-16-le"),
    "UTF-16 without a mark, other order": saved(",", "utf-16-be"),
    "a spreadsheet's own line": saved(";", change=lambda text: "sep=;\n" + text),
    "capital letters": saved(change=lambda t: t.replace("path,identity", "Path,Identity").replace("time", "Time")),
    "a frame's index": saved(
        change=lambda t: "\n".join(f"{k - 1 if k else ''}," + r for k, r in enumerate(t.split("\n")))
    ),
    "bars": saved("|"),
    "Train": saved(change=lambda text: text.replace("train", "Train")),
}


@pytest.mark.parametrize("how", SAVED)
def test_how_a_table_was_saved_does_not_matter(tmp_path, how):
    SAVED[how](tmp_path / "table.csv")
    seen, split, words, cameras = read_rows(tmp_path / "table.csv")
    assert words == ["a/1.jpg", "a/2.jpg", "a/3.jpg", "a/4.jpg"] and cameras == ["north", "south"]
    assert seen.time_s.tolist() == [10.5, 20.25, 30.125, 1234.5] and split.tolist()[1:] == ["train", "query", "gallery"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04\x14\0\0\0", "no text but a zip archive, as .xlsx"),
        (b"PAR1\0\0", "no text but Parquet"),
        (b"\x89PNG\r\n\x1a\n\0\0\0", "a PNG image"),
        (b"path,identity\n\0\0\0\0\0\0\0", "binary data"),
    ],
)
def test_a_file_that_is_no_text_is_called_what_it_is(tmp_path, content, message):
    (tmp_path / "table.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_rows(tmp_path / "table.csv")


def test_a_folder_for_a_file_and_a_file_for_a_folder(tmp_path):
    saved()(tmp_path / "table.csv")
    for read in (read_rows, lambda path: read_text(path, "labels"), open_parquet, Extraction.load):
        with pytest.raises(ValueError, match=f"^{tmp_path} is a folder, where a file is expected"):
            read(tmp_path)
    from torchreid_dfrst.data import VeRi776

    with pytest.raises(FileNotFoundError, match="is a file: the folder that holds"):
        VeRi776(str(tmp_path / "table.csv"))


def test_a_frame_of_open_metric_learning(tmp_path):
    rows = [
        "label,path,split,is_query,is_gallery,category,camera",
        "1,a.jpg,train,,,car,n",
        "2,b.jpg,validation,True,True,car,n",
    ]
    (tmp_path / "table.csv").write_text("\n".join([*rows, "2,c.jpg,validation,False,True,car,s"]))
    seen, split, words, _ = read_rows(tmp_path / "table.csv")
    assert split.tolist() == ["train", "query", "gallery", "gallery"] and words == ["a.jpg", "b.jpg", "b.jpg", "c.jpg"]
    assert seen.identity.tolist() == [1, 2, 2, 2]
    (tmp_path / "table.csv").write_text("\n".join([*rows, "2,c.jpg,validation,False,maybe,car,s"]))
    with pytest.raises(ValueError, match=r"row 4 .*is_gallery 'maybe'"):
        read_rows(tmp_path / "table.csv")


def test_numbers_of_a_file_have_points_or_commas(caplog):
    assert numbers([["1,5", "2"], ["3", "0,25"]], "f.csv", "metres").tolist() == [[1.5, 3], [2, 0.25]]
    assert "read as decimal points" in caplog.text
    for words, message in ((["1,200", "850"], "thousands"), (["1_000"], "'1_000' in row 1"), (["٣"], "in row 1")):
        with pytest.raises(ValueError, match=message):
            numbers([words], "f.csv", "metres")


# Berlin, Hamburg and Munich; 255,250 and 504,220 m by the haversine formula with the mean radius 6,371,008.8 m
PLACES = "berlin,52.52,13.405\nhamburg,53.5511,9.9937\nmunich,48.1351,11.582\n"


@pytest.mark.parametrize(
    ("file", "header"),
    [
        ("cameras.csv", "camera,lat,lon"),
        ("cameras.csv", "Camera,Latitude,Longitude"),
        ("distances.csv", "camera,lat,lng"),
    ],
)
def test_degrees_give_great_circles_that_are_called_so(tmp_path, file, header, caplog):
    (tmp_path / file).write_text(f"{header}\n{PLACES}")
    network = read_distances(tmp_path, ["berlin", "hamburg", "munich"])
    lat, lon = np.radians([[52.52, 53.5511, 48.1351], [13.405, 9.9937, 11.582]])
    unit = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
    expected = 6_371_008.8 * np.arccos(np.clip(unit.T @ unit, -1, 1))
    np.testing.assert_allclose(network.distance_m, expected, atol=0.2)
    assert 255_000 < network.distance_m[0, 1] < 256_000 and (network.distance_m == network.distance_m.T).all()
    assert network.kind == "great circle, not road" and "great circles" in caplog.text
    part = Features(np.ones((2, 2)), read(tmp_path))
    Extraction(part, part, network=network).save(tmp_path / "f.npz")
    assert Extraction.load(tmp_path / "f.npz").network.kind == "great circle, not road"


def read(folder):
    (folder / "t.csv").write_text("path,identity,camera,split\na,1,1,query\nb,1,2,query\n")
    return read_rows(folder / "t.csv")[0]


def test_the_kind_of_other_distances(tmp_path):
    (tmp_path / "cameras.csv").write_text("camera;x;y\nn;0,5;0\ns;0,5;5,25\n")
    network = read_distances(tmp_path, ["n", "s"])
    assert network.kind == "straight line" and network.distance_m.tolist() == [[0, 5.25], [5.25, 0]]
    (tmp_path / "distances.csv").write_text("n,s\n0,7\n7,0\n")
    network = read_distances(tmp_path, ["n", "s"])
    assert network.kind == "road" and network.distance_m.tolist() == [[0, 7], [7, 0]]
    (tmp_path / "distances.csv").write_text(",s,n\nn,7,0\ns,0,7\n")
    assert read_distances(tmp_path, ["n", "s"]).distance_m.tolist() == [[0, 7], [7, 0]], "rows are named"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("camera,lat,lon\nn,95,13\ns,1,2\n", r"row 2 of .*cameras.csv \(camera n\) lies at lat 95.*swapped"),
        ("camera,lat,lon\nn,nan,13\ns,1,2\n", "row 2"),
        ("camera,lat,Lom\nn,1,13\ns,1,2\n", "no column 'lon'.*did you mean 'lom'"),
        ("camera,lat,lon\nnroth,1,13\ns,1,2\n", "not in .*cameras.csv: n"),
        ("camera,lat,lon\nn,52.5,13.4\ns,0,0\nw,52.6,13.4\n", r"row 3 .*camera s\) lies at lat 0, lon 0"),
        ("camera,x,y\nn,13.40,52.51\ns,13.41,52.52\n", r"all cameras within 0.014 m: .*degrees as camera,lat,lon"),
    ],
)
def test_places_that_are_none(tmp_path, text, message):
    (tmp_path / "cameras.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_distances(tmp_path, ["n", "s"])


def test_rows_of_distances_may_have_names_in_another_spelling(tmp_path):
    (tmp_path / "distances.csv").write_text(",1,2,3\n03,30,20,0\n01,0,10,30\n02,10,0,20\n")
    distance = read_distances(tmp_path, ["1", "2", "3"]).distance_m
    assert distance.tolist() == [[0, 10, 30], [10, 0, 20], [30, 20, 0]]


def test_a_table_without_a_header_and_one_in_another_encoding(tmp_path, caplog):
    (tmp_path / "table.csv").write_text("a/1.jpg,1,1,train\na/2.jpg,1,1,train\n")
    with pytest.raises(ValueError, match=r"begins with a/1.jpg, 1, 1 .*: a header with path, camera, split is needed"):
        read_rows(tmp_path / "table.csv")
    assert not caplog.records
    (tmp_path / "table.csv").write_bytes("path,identity,camera,split\nsüd/1.jpg,1,1,train\n".encode("latin-1"))
    read_rows(tmp_path / "table.csv")
    assert "table.csv is not UTF-8, but read as gb18030, such as 's" in caplog.text


def test_a_misspelt_camera_over_distances_is_named(tmp_path):
    (tmp_path / "distances.csv").write_text("nroth,south\n0,1\n1,0\n")
    with pytest.raises(ValueError, match=r"north \(did you mean 'nroth'\?\)"):
        read_distances(tmp_path, ["north", "south"])


NFD = unicodedata.normalize("NFD", "Süd/1.jpg")
SPELT = {
    "a/1.jpg": "a/1.jpg",
    r"a\1.jpg": "a/1.jpg",
    "./a//1.jpg": "a/1.jpg",
    "A/1.jpg": "a/1.jpg",
    "a/1": "a/1.jpg",
    "a/1.JPG": "a/1.jpg",
    "a/1.jpeg": "a/1.jpg",
    NFD: unicodedata.normalize("NFC", NFD),
    r"D:\data\a\1.jpg": "a/1.jpg",
    "file:///data/a/1.jpg": "a/1.jpg",
    "/data/me/a/1.jpg": "a/1.jpg",
    "1.jpg": "a/1.jpg",
    "a/1.jpg#xywh=1,2,3,4": "a/1.jpg",
    "a/x/../1.jpg": "a/1.jpg",
}


@pytest.mark.parametrize("written", SPELT)
def test_another_spelling_is_found_and_said(written):
    held = SPELT[written]
    others = ["b/2.jpg", held, "c/3.png"]
    for wanted, among in ((written, others), (held, ["b/2.jpg", written, "c/3.png"])):
        match = find([wanted], among, "there")
        assert match.row.tolist() == [1]
        assert match.respelt == (written != held)


@pytest.mark.parametrize(
    ("wanted", "held"),
    [
        ("a/1.jpg", "a/1.png"),
        ("a/1.jpg", "b/1.jpg"),
        ("a/1.jpg", "a/11.jpg"),
        ("a/1.5", "a/1.jpg"),
        ("1.jpg", "x1.jpg"),
        ("a.jpg#xywh=1,2,3,4", "a.jpg#xywh=1,2,3,5"),
    ],
)
def test_another_image_is_not_taken_for_it(wanted, held):
    assert find([wanted], [held], "there").row.tolist() == [-1]


@pytest.mark.parametrize(
    ("wanted", "held", "message"),
    [
        (["1.jpg"], ["a/1.jpg", "b/1.jpg"], "1.jpg may be each of a/1.jpg, b/1.jpg in there"),
        (["a/1"], ["a/1.jpg", "a/1.png"], "each of a/1.jpg, a/1.png"),
        (["a/1.jpg", "b/1.jpg"], ["1"], "a/1.jpg and b/1.jpg may both be 1 in there"),
        (["a/1.JPG", "a/1.jpg"], ["a/1.jpg"], "a/1.jpg and a/1.JPG may both be"),
    ],
)
def test_two_candidates_are_both_named(wanted, held, message):
    with pytest.raises(ValueError, match=message):
        find(wanted, held, "there")


def test_the_nearest_spelling_counts():
    assert find(["a/1.jpg"], ["z/a/1.jpg", "a/1.JPG"], "there").row.tolist() == [1]
    assert find(["z/a/1.jpg", "z/b/1.jpg"], ["a/1.jpg", "b/1.jpg"], "there").row.tolist() == [0, 1]
    one, other = [f"/data/me/x/{k}.jpg" for k in "abc"], [f"/mnt/you/{k}.jpg" for k in "cba"]
    assert find(one, other, "there").row.tolist() == [2, 1, 0]


def test_images_of_a_table_are_looked_for(tmp_path, caplog):
    (tmp_path / "deep" / "a").mkdir(parents=True)
    for k in range(1, 4):
        Image.new("RGB", (4, 4)).save(tmp_path / "deep" / "a" / f"{k}.jpg")
    words = [r"a\1.jpg", "a/2", "deep/a/3.jpg", "a/4.jpg"]
    found = on_disk(tmp_path, words, "table.csv")
    assert found == [*(str(tmp_path / "deep" / "a" / f"{k}.jpg") for k in (1, 2, 3)), str(tmp_path / "a/4.jpg")]
    assert "2 paths of table.csv were found in another spelling" in caplog.text
    with pytest.raises(ValueError, match=r"a/3.jpg of table.csv is missing; the nearest file, deep/a/3.jpg, belongs"):
        on_disk(tmp_path, ["a/3.jpg", "deep/a/3.jpg"], "table.csv")
    saved(";")(tmp_path / "table.csv")
    (tmp_path / "deep" / "a" / "4.jpg").write_bytes((tmp_path / "deep" / "a" / "1.jpg").read_bytes() + b"\0")
    made = Table(str(tmp_path), verbose=False)
    assert [item[0] for item in made.gallery] == [str(tmp_path / "deep" / "a" / "4.jpg")]
