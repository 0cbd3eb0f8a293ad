"""Whatever a file holds, a parser reads it or says in our own words why not; how a list was saved does not matter."""

import shutil
import traceback
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tiny import write_tiny_veri

import torchreid_dfrst
from torchreid_dfrst.data import CityFlow, Table, VehicleID, VeRiWild
from torchreid_dfrst.data.veri776 import parse_names, read_index, read_labels, read_network, read_veri

PACKAGE = str(Path(torchreid_dfrst.__file__).parent)
OURS = (ValueError, KeyError, FileNotFoundError)


def columns(sightings):
    """What a data set holds, in a form that can be compared."""
    return [
        [getattr(part, name).tolist() for name in ("camera", "identity", "track", "path")]
        + [np.nan_to_num(part.time_s, nan=-1).tolist()]
        for part in sightings
    ]


def veri(folder):
    read = read_veri(folder, images=False)
    return [*columns([read.train, read.query, read.gallery]), read.network and read.network.distance_m.tolist()]


def through_torchreid(dataset, folder):
    made = dataset(str(folder), verbose=False)
    return [*columns(made.sightings.values()), made.network and made.network.distance_m.tolist()]


def veri_labels(folder):
    return read_labels(folder)


def veri_index(folder):
    return [rows.tolist() for rows in read_index(folder / "gt_index.txt", 32)]


def veri_network(folder):
    network = read_network(folder)
    return network and (network.cameras.tolist(), network.distance_m.tolist())


def write_vehicleid(folder):
    lists = folder / "train_test_split"
    lists.mkdir(parents=True)
    (lists / "train_list.txt").write_text("".join(f"{7 * k:07d} {k // 3}\n" for k in range(9)))
    (lists / "test_list_800.txt").write_text("".join(f"{7 * k:07d} {k // 3}\n" for k in range(30, 39)))


def write_veriwild(folder):
    lists = folder / "train_test_split"
    lists.mkdir(parents=True)
    keys = [f"{k // 3:05d}/{k:06d}" for k in range(12)]
    rows = [f"{key};{k % 3};2018-03-11 0{k % 10}:15:30;Volkswagen; truck;gray" for k, key in enumerate(keys)]
    (lists / "vehicle_info.txt").write_text("\n".join(["id/image;Camera ID;Time;Model;Type;Color", *rows, ""]))
    for name, listed in (("train_list", keys[:6]), ("test_3000_query", keys[6:8]), ("test_3000", keys[6:])):
        (lists / f"{name}.txt").write_text("\n".join([*listed, ""]))


def write_cityflow(folder):
    items = [
        f'<Item imageName="{k:06d}.jpg" vehicleID="{k // 4:04d}" cameraID="c{k % 4 + 1:03d}" />' for k in range(16)
    ]
    text = '<?xml version="1.0" encoding="gb2312"?>\n<A>\n' + "\n".join(items) + "\n</A>\n"
    for name in ("train_label.xml", "test_label.xml"):
        (folder / name).write_text(text)
    (folder / "name_query.txt").write_text("000000.jpg\n000005.jpg\n")
    (folder / "name_test.txt").write_text("".join(f"{k:06d}.jpg\n" for k in range(8)))
    for name in ("train_track.txt", "test_track.txt"):
        (folder / name).write_text("000000.jpg 000004.jpg\n000001.jpg\n")


def write_table(folder):
    rows = [f"{k}.jpg,van {k // 4},{'north' if k % 2 else 'south'},{10 * k},{s},{k % 3}" for k, s in enumerate(SPLITS)]
    (folder / "table.csv").write_text("\n".join(["path,identity,camera,time,split,track", *rows, ""]))
    (folder / "distances.csv").write_text("south,north\n0,300\n300,0\n")


def write_table_with_places(folder):
    write_table(folder)
    (folder / "distances.csv").unlink()
    (folder / "cameras.csv").write_text("camera,x,y\nsouth,0,0\nnorth,30,40\n")


SPLITS = ["train"] * 4 + ["query"] * 2 + ["gallery"] * 4
WRITERS = {
    "veri": write_tiny_veri,
    "vehicleid": write_vehicleid,
    "veriwild": write_veriwild,
    "cityflow": write_cityflow,
    "table": write_table,
    "places": write_table_with_places,
}
LISTS = "train_test_split/"
READERS = {
    **{("veri", f): veri for f in ("name_train.txt", "name_query.txt", "name_test.txt", "test_track.txt")},
    ("veri", "camera_Dist.txt"): veri_network,
    ("veri", "camera_ID.txt"): veri_network,
    ("veri", "gt_index.txt"): veri_index,
    ("veri", "train_label.xml"): veri_labels,
    **{
        ("vehicleid", LISTS + f): partial(through_torchreid, VehicleID) for f in ("train_list.txt", "test_list_800.txt")
    },
    **{
        ("veriwild", LISTS + f): partial(through_torchreid, VeRiWild)
        for f in ("vehicle_info.txt", "train_list.txt", "test_3000_query.txt", "test_3000.txt")
    },
    **{
        ("cityflow", f): partial(through_torchreid, CityFlow)
        for f in (
            "train_label.xml",
            "test_label.xml",
            "name_query.txt",
            "name_test.txt",
            "train_track.txt",
            "test_track.txt",
        )
    },
    ("table", "table.csv"): partial(through_torchreid, Table),
    ("table", "distances.csv"): partial(through_torchreid, Table),
    ("places", "cameras.csv"): partial(through_torchreid, Table),
}
CASES = pytest.mark.parametrize("case", READERS, ids="-".join)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}
    for name, write in WRITERS.items():
        made[name] = tmp_path_factory.mktemp(name)
        write(made[name])
    return made


def read_or_refuse(read):
    """Read; an error must be one of ours, raised by a line of our own and with words."""
    try:
        read()
    except OURS as error:
        raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
        assert raised_in.startswith(PACKAGE), f"{error!r} comes from {raised_in}"
        assert len(str(error)) > 20


TOKENS = [
    *("0", "1", "7", "99999999999999999999", "-1", "1e999", "nan", "inf", "٣", "²", "x", "c001", "é", "红", ".jpg"),
    *(" ", "\t", "\n", "\r", "\r\n", "\0", "\u2028", "\x1c", "\x85", "\ufeff", ",", ";", "/", '"', "'", "=", "&"),
    *("<", ">", "<Item />", "0002_c002_00030600_0.jpg", "2018-03-11 08:15:30", "0001-01-01 00:00:00"),
    *("9999-12-31 23:59:59", "train", "query", "gallery", "path", "camera", "identity", "split", "time", "y", "id"),
]
WORDS = st.lists(st.sampled_from(TOKENS), max_size=30).map("".join)
CONTENT = st.one_of(
    WORDS.map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.binary(max_size=60),
    WORDS.map(lambda t: t.encode("utf-16")),
)


@CASES
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=CONTENT, place=st.floats(0, 1), length=st.integers(0, 12), whole=st.booleans())
@example(content=b"", place=0.0, length=0, whole=True)
@example(content=b"\xff\xfe\x00", place=0.0, length=0, whole=True)
@example(content=b"99999999999999999999 99999999999999999999\n", place=0.0, length=0, whole=False)
@example(content=b'<!DOCTYPE a [<!ENTITY b "bb">]><a>&b;</a>', place=0.0, length=0, whole=True)
def test_any_content_is_read_or_refused_in_our_own_words(case, folders, content, place, length, whole):
    dataset, file = case
    path = folders[dataset] / file
    sound = path.read_bytes()
    start = round(place * len(sound))
    try:
        path.write_bytes(content if whole else sound[:start] + content + sound[start + length :])
        read_or_refuse(lambda: READERS[case](folders[dataset]))
    finally:
        path.write_bytes(sound)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.one_of(WORDS, st.from_regex(r"\d{4}_c\d{3}_\d{8}_\d+\.jpg", fullmatch=True)), max_size=5))
def test_any_names(names):
    read_or_refuse(lambda: parse_names(names, "a folder"))


def edited(change):
    return lambda text: "\n".join(map(change, text.split("\n"))).encode()


SAVED = {
    "BOM": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "CRLF": lambda text: text.replace("\n", "\r\n").encode(),
    "CR": lambda text: text.replace("\n", "\r").encode(),
    "UTF-16": lambda text: text.encode("utf-16"),
    "BOM and CRLF": lambda text: b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(),
    "blank lines": lambda text: ("\n" + text.replace("\n", "\n \n\n")).encode(),
    "trailing blanks": edited(lambda line: line and line + " \t"),
    "no last line break": lambda text: text.rstrip("\n").encode(),
}


@CASES
@pytest.mark.parametrize("saved", SAVED)
def test_how_a_list_was_saved_does_not_matter(case, saved, folders):
    dataset, file = case
    if (saved, file) == ("blank lines", "gt_index.txt"):
        pytest.skip("there an empty line is a query without an answer")
    path = folders[dataset] / file
    sound = path.read_bytes()
    expected = READERS[case](folders[dataset])
    try:
        path.write_bytes(SAVED[saved](sound.decode("ascii").replace("\r\n", "\n")))
        assert READERS[case](folders[dataset]) == expected
    finally:
        path.write_bytes(sound)


@pytest.mark.parametrize("encoding", ["utf-8", "gb18030", "gb2312", "utf-16"])
def test_chinese_words_in_any_encoding(folders, tmp_path, encoding):
    shutil.copytree(folders["veriwild"], tmp_path / "w")
    path = tmp_path / "w" / LISTS / "vehicle_info.txt"
    path.write_bytes(path.read_text().replace("Volkswagen", "大众").replace("gray", "灰色").encode(encoding))
    assert through_torchreid(VeRiWild, tmp_path / "w")[0][0] == through_torchreid(VeRiWild, folders["veriwild"])[0][0]
    write_table(tmp_path)
    path = tmp_path / "table.csv"
    path.write_bytes(path.read_text().replace("van 0", "出租车").encode(encoding))
    assert through_torchreid(Table, tmp_path)[0][1] == [2] * 4, "sorted after the two other vans"


def test_latin_1_words(tmp_path):
    write_table(tmp_path)
    text = (tmp_path / "table.csv").read_text().replace("van 0", "blå").replace("north", "norrå")
    (tmp_path / "table.csv").write_bytes(text.encode("latin-1"))
    (tmp_path / "distances.csv").write_bytes("south,norrå\n0,300\n300,0\n".encode("latin-1"))
    assert through_torchreid(Table, tmp_path)[-1] == [[0, 300], [300, 0]]
