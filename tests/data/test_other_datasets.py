"""VehicleID, VERI-Wild, CityFlow and tables, each written in its published format, CRLF and blank lines included."""

import sys

import numpy as np
import pytest
from PIL import Image

from torchreid_dfrst.data import DATASETS, CityFlow, Table, VehicleID, VeRiWild
from torchreid_dfrst.data.table import read_table
from torchreid_dfrst.data.veriwild import Record, read_records, read_times
from torchreid_dfrst.doctor import check_dataset
from torchreid_dfrst.evaluation.protocols import build, of_dataset
from torchreid_dfrst.retrieval import Features


def test_vehicleid_standard_and_reversed(vehicleid):
    standard = VehicleID(str(vehicleid), verbose=False)
    assert {pid for _, pid, *_ in standard.train} == set(range(4))
    assert sorted(pid for _, pid, *_ in standard.gallery) == [9, 10, 11, 12, 13]
    assert len(standard.query) == 2 + 3 + 4 + 2 + 3 - 5
    assert {camid for _, _, camid, *_ in standard.query} == {0} and {c for _, _, c, *_ in standard.gallery} == {1}
    backwards = VehicleID(str(vehicleid), reverse=True, verbose=False)
    assert [i[0] for i in backwards.query] == [i[0] for i in standard.gallery]
    assert standard[0]["img"].size == (8, 8)


def test_vehicleid_repeats_are_the_draws_of_the_protocol(vehicleid):
    sets = [VehicleID(str(vehicleid), split_id=k, verbose=False) for k in range(4)]
    assert len({tuple(i[0] for i in s.gallery) for s in sets}) > 1
    parts = [sets[2].sightings[name] for name in ("query", "gallery")]
    query, gallery = (Features(np.random.default_rng(0).normal(size=(len(p), 3)), p) for p in parts)
    for dataset, (_, drawn) in zip(sets, build("vehicleid", draws=4).pairs(query, gallery), strict=True):
        assert sorted(drawn.sightings.path) == [i[0] for i in dataset.gallery]


def test_every_size_and_its_protocol(vehicleid):
    assert len(DATASETS["vehicleid1600"](str(vehicleid), verbose=False).gallery) == 5
    with pytest.raises(FileNotFoundError, match=r"test_list_13164\.txt"):
        DATASETS["vehicleid13164"](str(vehicleid))
    assert of_dataset("vehicleid2400") == "vehicleid" and of_dataset("veriwild5000") == "veriwild"
    assert of_dataset("veri776") == of_dataset(None) == "image-to-image"


@pytest.mark.parametrize(
    ("text", "message"),
    [("0000001", "not of the form"), ("a 1\n", "not of the form"), ("\n", "empty"), ("1 2\n1 3\n", "contradict")],
)
def test_a_vehicleid_list_that_is_none(vehicleid, text, message):
    (vehicleid / "VehicleID_V1.0" / "train_test_split" / "train_list.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        VehicleID(str(vehicleid))


def test_veriwild(veriwild, caplog):
    dataset = VeRiWild(str(veriwild), verbose=False)
    assert (len(dataset.train), len(dataset.query), len(dataset.gallery)) == (9, 2, 3)
    assert {camid for _, _, camid, *_ in dataset.train} == {0, 5, 173}
    time = dataset.sightings["train"].time_s
    assert time[1] - time[0] == 3600
    assert "1 of 2 queries" in caplog.text
    assert dataset.labels["00001/000000"] == (0, "2018-03-11 00:15:30", "Volkswagen", "small-sized truck", "dark gray")
    assert len(dataset.labels) == 14
    result = build(of_dataset("veriwild")).score(
        np.zeros((2, 3)), dataset.sightings["query"], dataset.sightings["gallery"]
    )
    assert (result.used, result.skipped) == (1, 1)


def test_veriwild_times_of_unknown_form_are_counted(veriwild, caplog):
    path = veriwild / "VERI-Wild" / "train_test_split" / "vehicle_info.txt"
    path.write_text(path.read_text().replace("2018-03-11 ", "11.03.2018 at "))
    assert np.isnan(VeRiWild(str(veriwild), verbose=False).sightings["train"].time_s).all()
    assert "14 of 14 times" in caplog.text and "time_format" in caplog.text
    read = VeRiWild(str(veriwild), time_format="%d.%m.%Y at %H:%M:%S", verbose=False)
    assert not np.isnan(read.sightings["train"].time_s).any()


@pytest.mark.parametrize(
    "time", ["2018-03-11 08:15:30", "2018/03/11 08:15:30", "20180311081530", "2018-03-11T08:15:30.0"]
)
def test_times_are_parsed_leniently(tmp_path, time):
    (tmp_path / "vehicle_info.txt").write_text(f"id/image;Camera ID;Time;M;T;C\n00001/000001;3;{time};a;b;c\n")
    records = read_records(tmp_path / "vehicle_info.txt")
    assert records["00001/000001"].camera == 3
    assert read_times(records, tmp_path / "vehicle_info.txt") == {"00001/000001": 1520756130.0}


def test_information_without_model_type_and_colour(tmp_path):
    (tmp_path / "vehicle_info.txt").write_text("00001/000001.jpg;3;now;BAIC\n")
    assert read_records(tmp_path / "vehicle_info.txt") == {"00001/000001": Record(3, "now", "BAIC", "", "")}


def test_veriwild_without_its_parts(veriwild):
    lists = veriwild / "VERI-Wild" / "train_test_split"
    with pytest.raises(FileNotFoundError, match="test_10000_query"):
        DATASETS["veriwild10000"](str(veriwild))
    (lists / "test_3000.txt").write_text("00009/999999\n")
    with pytest.raises(ValueError, match=r"not in vehicle_info\.txt \(00009/999999\)"):
        VeRiWild(str(veriwild))
    (lists / "test_3000.txt").write_text("999999\n")
    with pytest.raises(ValueError, match="not of the form"):
        VeRiWild(str(veriwild))
    (lists / "vehicle_info.txt").rename(veriwild / "VERI-Wild" / "vehicle_info.txt")
    (veriwild / "VERI-Wild" / "vehicle_info.txt").write_text("00001/1;x;now\n")
    with pytest.raises(ValueError, match="line 1"):
        VeRiWild(str(veriwild))


def test_cityflow_without_test_labels_holds_vehicles_out(cityflow):
    dataset = CityFlow(str(cityflow), hold_out=3, verbose=False)
    assert (dataset.num_train_pids, len(dataset.train), len(dataset.gallery), len(dataset.query)) == (4, 16, 8, 8)
    assert set(dataset.sightings["gallery"].identity) == {3, 6}
    assert set(dataset.sightings["train"].camera) == {5, 6, 7, 8}
    assert dataset.sightings["train"].track[:4].tolist() == [0, 0, 1, -1]


def test_cityflow_with_test_labels_of_your_own(cityflow):
    folder = cityflow / "AIC20_track2_reid"
    (folder / "test_label.xml").write_text((folder / "train_label.xml").read_text())
    (folder / "name_query.txt").write_text("000001.jpg\r\n")
    (folder / "name_test.txt").write_text("000002.jpg\r\n000009.jpg\r\n")
    dataset = CityFlow(str(cityflow), verbose=False)
    assert (len(dataset.train), len(dataset.query), len(dataset.gallery)) == (24, 1, 2)
    (folder / "name_test.txt").write_text("999999.jpg\n")
    with pytest.raises(ValueError, match=r"no label.*999999"):
        CityFlow(str(cityflow))


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ('<Item vehicleID="1" cameraID="c001" />', "imageName"),
        ('<Item imageName="a" vehicleID="x" cameraID="c1" />', "item 1"),
    ],
)
def test_a_cityflow_label_that_is_none(cityflow, item, message):
    (cityflow / "AIC20_track2_reid" / "train_label.xml").write_text(f"<A>{item}</A>")
    with pytest.raises(ValueError, match=message):
        CityFlow(str(cityflow))


HEADER = "path,identity,camera,time,split,track"
ROWS = [
    "a.jpg,blue van,north,10,train,1",
    "b.jpg,blue van,south,70.5,train,1",
    "c.jpg,cab,north,1000,query,2",
    "d.jpg,cab,south,,gallery,",
    "e.jpg,bus,south,5,gallery,2",
]


def write_table(folder, header=HEADER, rows=ROWS, encoding="utf-8-sig"):
    (folder / "table.csv").write_bytes("\r\n".join([header, *rows, "", " "]).encode(encoding))
    return folder


@pytest.mark.parametrize(
    ("word", "seconds"),
    [("20260501160000", 1777651200), ("2026-05-01 16:00:00.5", 1777651200.5), ("1777651200", 1777651200), ("7.5", 7.5)],
)
def test_times_of_a_table_are_seconds(tmp_path, word, seconds):
    write_table(
        tmp_path, "path,identity,camera,time,split", [f"z.jpg,bus,north,{word},train", "y.jpg,bus,north,,train"]
    )
    assert read_table(tmp_path / "table.csv")[0]["train"].time_s[0] == seconds


def test_a_table(tmp_path):
    write_table(tmp_path)
    (tmp_path / "distances.csv").write_text("south,north,west\n0,300,9\n300,0,9\n9,9,0\n")
    dataset = Table(str(tmp_path), verbose=False)
    train, query, gallery = (dataset.sightings[name] for name in ("train", "query", "gallery"))
    assert train.identity.tolist() == [0, 0] and query.identity.tolist() == [2] and gallery.identity.tolist() == [2, 1]
    assert train.time_s.tolist() == [10, 70.5] and np.isnan(gallery.time_s).tolist() == [True, False]
    assert train.camera.tolist() == [0, 1]
    assert train.track[0] != train.track[1], "the same number at another camera is another track"
    assert gallery.track[0] == -1
    assert dataset.network.between(np.array([0]), np.array([1]))[0, 0] == 300
    assert dataset.train[0][0] == str(tmp_path / "a.jpg")


def test_camera_places_give_straight_distances(tmp_path):
    write_table(tmp_path)
    (tmp_path / "cameras.csv").write_text("camera,x,y\nnorth,0,0\nsouth,30,40\n")
    assert Table(str(tmp_path), verbose=False).network.distance_m.tolist() == [[0, 50], [50, 0]]


@pytest.mark.parametrize(("file", "text"), [
    ("distances.csv", "004,2,001\n0,9,5\n9,0,9\n5,9,0\n"), ("cameras.csv", "camera,x,y\n4,0,0\n001,3,4\n"),
])  # fmt: skip
def test_cameras_with_leading_zeros_have_their_distances(tmp_path, file, text):
    rows = [f"{k}.jpg,1,{c},{k},{s}" for k, (c, s) in enumerate([("001", "train"), ("4", "query"), ("1", "gallery")])]
    write_table(tmp_path, "path,identity,camera,time,split", rows)
    (tmp_path / file).write_text(text)
    network = Table(str(tmp_path), verbose=False).network
    assert network.cameras.tolist() == [1, 4] and network.distance_m.tolist() == [[0, 5], [5, 0]]


def test_numbers_stay_as_they_are(tmp_path):
    rows = [
        f"{k}.jpg,{v},{c},{k},{s}" for k, (v, c, s) in enumerate([(7, 3, "train"), (9, 3, "query"), (9, 12, "gallery")])
    ]
    splits, cameras = read_table(write_table(tmp_path, "path,identity,camera,time,split", rows) / "table.csv")
    assert splits["gallery"].identity.tolist() == [9] and splits["gallery"].camera.tolist() == [12]
    assert cameras == ["3", "12"]


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        ("path,identiy,camera,split", ["a,1,1,train"], "did you mean 'identiy'"),
        (HEADER, [], "no row"),
        ("", [], "is empty"),
        (HEADER + ",time", [], "more than one column of the name time"),
        (HEADER, [*ROWS, "f.jpg,x,y,1,test,"], "another split.*row 7: 'test'"),
        ("path,vehicle_id,camera,split", ["a,1,1,train"], "no column 'identity' .did you mean 'vehicle_id'"),
        (HEADER, [*ROWS, "f.jpg,1,unknown,1,train,"], "1 row .* has an unknown camera .*cameras none.*: row 7"),
        (HEADER, [*ROWS, ROWS[0]], "more than once"),
        (HEADER, [*ROWS, "f.jpg,x"], "row 7"),
        (HEADER, [*ROWS, "f.jpg,x,y,noon,train,"], "row 7: 'noon'"),
        (HEADER, [*ROWS, "f.jpg,x,y,inf,train,"], "row 7: 'inf'"),
    ],
)
def test_a_table_that_is_none(tmp_path, header, rows, message):
    write_table(tmp_path, header, rows)
    with pytest.raises(ValueError, match=message):
        Table(str(tmp_path))


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("distances.csv", "south,west\n0,1\n1,0\n", "not in .*distances.csv: north"),
        ("distances.csv", "south,north\n0,1\n", "2 cameras in its header"),
        ("distances.csv", "south,north\n0,x\nx,0\n", "holds 'x'"),
        ("distances.csv", "south;north\n0;1.263\n898;0\n", "1.263 beside whole numbers, which may be thousands"),
        ("distances.csv", "south,north\n0,1\n2,0\n", "symmetrise"),
        ("distances.csv", "", "0 cameras"),
        ("cameras.csv", "camera,x\nnorth,1\n", "no column 'y'"),
    ],
)
def test_distances_that_are_none(tmp_path, file, text, message):
    write_table(tmp_path)
    (tmp_path / file).write_text(text)
    with pytest.raises(ValueError, match=message):
        Table(str(tmp_path))


def test_no_table_and_parquet_without_its_reader(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"docs/data\.md"):
        Table(str(tmp_path))
    (tmp_path / "table.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match="pip install pyarrow"):
        Table(str(tmp_path))


@pytest.mark.parametrize("name", ["vehicleid", "veriwild", "cityflow"])
def test_an_empty_root_says_where_it_looked(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=r"--root"):
        DATASETS[name](str(tmp_path))


# two of three of VERI-Wild's test cameras have no training image here, one query no match, most of CityFlow's no track
KNOWN = {
    "vehicleid": set(),
    "veriwild": {"cameras never seen in training", "queries without a match"},
    "cityflow": {"lists and files"},
}


@pytest.mark.parametrize("name", KNOWN)
def test_the_doctor_knows_them(name, request):
    report = check_dataset(name, request.getfixturevalue(name))
    assert {found.check for found in report.findings if found.severity != "note"} == KNOWN[name], report.text()
    assert report.exit_code == bool(KNOWN[name])


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("vehicleid", "VehicleID_V1.0/image/0999999.jpg"),
        ("veriwild", "VERI-Wild/images/00001/999999.jpg"),
        ("cityflow", "AIC20_track2_reid/image_train/999999.jpg"),
    ],
)
def test_an_image_in_no_list_is_reported(name, extra, request):
    folder = request.getfixturevalue(name)
    Image.new("RGB", (4, 4)).save(folder / extra)
    (found,) = (found for found in check_dataset(name, folder).findings if found.check == "images in no list")
    assert (found.severity, found.count) == ("warning", 1) and "999999" in found.examples[0]


def test_a_line_of_several_images_is_refused(veriwild):
    path = veriwild / "VERI-Wild" / "train_test_split" / "train_list.txt"
    path.write_text(path.read_text().replace("\n", " "))
    with pytest.raises(ValueError, match=r"1 of 1 lines .*train_list.txt are not of the form"):
        VeRiWild(str(veriwild), verbose=False)


def test_lines_with_vehicle_and_camera_behind_the_name(veriwild):
    path = veriwild / "VERI-Wild" / "train_test_split" / "train_list.txt"
    expected = VeRiWild(str(veriwild), verbose=False).train
    path.write_text("".join(f"{line}.jpg 0 61\n" for line in path.read_text().split()))
    assert VeRiWild(str(veriwild), verbose=False).train == expected


@pytest.mark.parametrize(("name", "misspelt"), [("time", "Timestamp"), ("track", "track_id")])
def test_a_misspelt_optional_column_is_reported(tmp_path, caplog, name, misspelt):
    read_table(write_table(tmp_path, HEADER.replace(name, misspelt)) / "table.csv")
    assert f"no column '{name}', but one called '{misspelt}'" in caplog.text
    caplog.clear()
    read_table(write_table(tmp_path, HEADER) / "table.csv")
    assert not caplog.text


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is an optional extra")
    columns = {"path": ["a", "b", "c"], "identity": [1, 2, 2], "camera": [1, 1, 2], "time": [0.5, None, 2.0]}
    table = pyarrow.table({**columns, "split": ["train", "query", "gallery"]})
    __import__("pyarrow.parquet")
    pyarrow.parquet.write_table(table, tmp_path / "table.parquet")
    splits, _ = read_table(tmp_path / "table.parquet")
    assert splits["train"].time_s.tolist() == [0.5] and np.isnan(splits["query"].time_s).all()
    (tmp_path / "table.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(ValueError, match="cannot be read as Parquet"):
        read_table(tmp_path / "table.parquet")
