"""One photograph under two names is found: rows that contradict each other, the same bytes, the same embedding."""

import shutil

import numpy as np
import pytest
from PIL import Image

from torchreid_dfrst.data import Table, VeRiFormat
from torchreid_dfrst.data.table import read_rows
from torchreid_dfrst.doctor import check_dataset
from torchreid_dfrst.inference.import_features import import_features
from torchreid_dfrst.names import labels

HEADER = "path,identity,camera,time,split"
ROWS = ["1.png,a,1,5,train", "2.png,b,1,6,query", "2.png,b,1,6,gallery", "3.png,b,2,70,gallery", "4.png,c,2,80,gallery"]


def write(folder, rows, header=HEADER):
    (folder / "table.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    for k in range(1, 6):
        Image.new("RGB", (20, 20), (40 * k, 0, 90)).save(folder / f"{k}.png")
    return folder


def test_what_veri_does_is_fine(tmp_path):
    assert len(Table(str(write(tmp_path, ROWS)), verbose=False).gallery) == 3


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("2.png,b,c001,6,gallery", "2.png has camera '1' in row 3 and 'c001' in row 4"),
        ("2.png,b,Gate 1,6,gallery", "'1' in row 3 and 'Gate 1' in row 4"),
        ("2.png,c,1,6,gallery", "identity 'b' in row 3 and 'c' in row 4"),
        ("2.png,b,1,7,gallery", "time '6' in row 3 and '7' in row 4"),
        ("./2.png,b,2,6,gallery", "camera '1' in row 3 and '2' in row 4"),
        ("{here}/2.png,b,2,6,gallery", "camera '1' in row 3 and '2' in row 4"),
        (".\\2.png,b,2,6,gallery", "camera '1' in row 3 and '2' in row 4"),
    ],
)
def test_rows_that_contradict_each_other(tmp_path, row, said):
    write(tmp_path, [*ROWS[:2], row.format(here=tmp_path), *ROWS[3:]])
    with pytest.raises(ValueError, match=r"1 row of .*table\.csv contradicts an earlier one: .*" + said):
        read_rows(tmp_path / "table.csv")


@pytest.mark.parametrize("row", ["2.png,b,01,6.0,gallery", "2.png,b,1.0,,gallery", "2.png,nan,1,6,gallery"])
def test_rows_that_say_the_same_in_other_words_or_less(tmp_path, row):
    Table(str(write(tmp_path, [*ROWS[:2], row, *ROWS[3:]])), verbose=False)


def test_cameras_and_vehicles_in_other_spellings_are_one(tmp_path):
    rows = [
        "1.png,v,Su\u0308d,5,train",
        "2.png,va\u0308n,03,6,query",
        "3.png,v\u00e4n,S\u00fcd,7,gallery",
        "4.png,v\u00e4n,3.0,8,gallery",
    ]
    seen = read_rows(write(tmp_path, rows) / "table.csv")[0]
    assert seen.camera[0] == seen.camera[2] != seen.camera[1] == seen.camera[3]
    assert len(set(seen.identity[1:].tolist())) == 1
    assert labels(["3", "3.0", "03", "12"])[0].tolist() == [3, 3, 3, 12]
    assert labels(["3", "\u0663", "\uff13", "3\u200b", "\ufeff3"])[0].tolist() == [3] * 5
    assert len(labels(["Gate-3", "Gate\u20133", "Gate\u22123"])[1]) == 1


@pytest.mark.parametrize("row", ["5.png,b,2,6,gallery", "5.png,c,1,6,gallery"])
def test_the_same_bytes_under_two_names(tmp_path, row):
    write(tmp_path, [*ROWS[:2], row, *ROWS[3:]])
    shutil.copy(tmp_path / "2.png", tmp_path / "5.png")
    said = (
        r"1 query image stands in the gallery, byte for byte, .*2\.png \(query, camera 1, vehicle b\) = .*5\.png \(gall"
    )
    with pytest.raises(ValueError, match=said):
        Table(str(tmp_path), verbose=False)
    np.save(tmp_path / "e.npy", np.random.default_rng(0).normal(size=(5, 4)))
    with pytest.raises(ValueError, match="byte for byte"):
        import_features(tmp_path / "e.npy", tmp_path / "table.csv")
    assert check_dataset("table", tmp_path).exit_code == 2


def test_the_same_bytes_of_one_camera_and_vehicle_are_fine(tmp_path):
    write(tmp_path, [*ROWS[:2], "5.png,b,1,6,gallery", *ROWS[3:]])
    shutil.copy(tmp_path / "2.png", tmp_path / "5.png")
    assert len(Table(str(tmp_path), verbose=False).gallery) == 3


def test_veri_names_that_hide_a_copy(tiny_veri):
    folder = tiny_veri / "veri776"
    query = next(path for path in sorted((folder / "image_query").iterdir()) if "_c001_" in path.name)
    other = folder / "image_test" / query.name.replace("_c001_", "_c002_")
    shutil.copy(query, other)
    with pytest.raises(ValueError, match="byte for byte, under another camera"):
        VeRiFormat(str(folder), verbose=False)
    assert "the same image under two cameras" in check_dataset("veri_format", folder).text()


def test_equal_embeddings_are_said(tmp_path, caplog):
    rows = [row.replace("2.png,b,1,6,gallery", "5.png,b,3,6,gallery") for row in ROWS]
    write(tmp_path, rows)
    values = np.random.default_rng(0).normal(size=(5, 4))
    values[2] = values[1]
    np.save(tmp_path / "e.npy", values)
    import_features(tmp_path / "e.npy", tmp_path / "table.csv")
    assert "1 query has the embedding of a gallery image of another camera or vehicle, bit for bit" in caplog.text
    assert "2.png = " in caplog.text and "5.png" in caplog.text


def test_names_that_may_be_one_camera_are_said(tmp_path, caplog):
    rows = ["1.png,a,c003,5,train", "2.png,b,3,6,query", "3.png,b,North,7,gallery", "4.png,b,north,8,gallery"]
    read_rows(write(tmp_path, rows) / "table.csv")
    assert "2 cameras of" in caplog.text and "3 and c003" in caplog.text and "North and north" in caplog.text
    caplog.clear()
    rows = ["1.png,Van 7,1,5,train", "2.png,van_7,1.5,6,query", "3.png,-1,15,7,gallery", "4.png,1,4,8,gallery"]
    read_rows(write(tmp_path, rows) / "table.csv")
    assert [record.getMessage().partition(" may ")[0][:12] for record in caplog.records] == ["1 vehicle of"]
    assert "Van 7 and van_7" in caplog.text


def test_a_camera_twice_among_the_distances(tmp_path):
    write(tmp_path, ROWS)
    (tmp_path / "distances.csv").write_text("1,2,01\n0,5,0\n5,0,5\n0,5,0\n")
    with pytest.raises(ValueError, match="more than one row of camera 1"):
        Table(str(tmp_path), verbose=False)
