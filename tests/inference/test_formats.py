"""Files of other toolboxes: rows are found by whatever names them, and what contradicts the table is refused."""

import json
import os
import shutil
import zipfile

import numpy as np
import pytest
import scipy.io
import torch
from test_command_line import run
from tiny import write_tiny_veri

from torchreid_dfrst.data import VeRi776
from torchreid_dfrst.inference.import_arrays import read_embeddings
from torchreid_dfrst.inference.import_features import import_features
from torchreid_dfrst.retrieval import Extraction

RNG = np.random.default_rng(0)
ROWS = [(v, c, "query" if c == 0 else "gallery") for v in range(4) for c in range(3)]
PATHS = [f"images/{v}_{c}.jpg" for v, c, _ in ROWS]
VALUES = RNG.normal(size=(len(ROWS), 6)).astype(np.float32)
ORDER = RNG.permutation(len(ROWS))
VEHICLE, CAMERA = (np.array([row[k] for row in ROWS]) for k in (0, 1))
QUERY = np.array([row[2] == "query" for row in ROWS])
HEAD = ",".join(f"f{k}" for k in range(6))


@pytest.fixture
def table(tmp_path):
    rows = [f"{path},{v},{c},{split}" for path, (v, c, split) in zip(PATHS, ROWS, strict=True)]
    (tmp_path / "table.csv").write_text("\n".join(["path,identity,camera,split", *rows]))
    return tmp_path / "table.csv"


def right(extraction):
    """Every image has its own embedding."""
    for part, rows in ((extraction.query, QUERY), (extraction.gallery, ~QUERY)):
        np.testing.assert_allclose(part.embedding, VALUES[rows], rtol=1e-6)
    return extraction.source["rows"]


def pt(held):
    def write(folder):
        torch.save(held, folder / "e.pt")
        return folder / "e.pt"

    return write


def npz(**held):
    def write(folder):
        np.savez(folder / "e.npz", **held)
        return folder / "e.npz"

    return write


def text(name, content):
    def write(folder):
        (folder / name).write_text(content, encoding="utf-8")
        return folder / name

    return write


def h5(**held):
    def write(folder):
        with pytest.importorskip("h5py", reason="h5py is not installed").File(folder / "e.h5", "w") as file:
            for name, value in held.items():
                file[name] = value
        return folder / "e.h5"

    return write


def mat(**held):
    def write(folder):
        __import__("scipy.io").io.savemat(folder / "e.mat", held)
        return folder / "e.mat"

    return write


def parquet(**held):
    def write(folder):
        pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is an optional extra")
        __import__("pyarrow.parquet")
        pyarrow.parquet.write_table(pyarrow.table(held), folder / "e.parquet")
        return folder / "e.parquet"

    return write


def folders(folder):
    for path, values in zip(PATHS, VALUES, strict=True):
        place = folder / "npy" / path.replace(".jpg", ".npy")
        place.parent.mkdir(parents=True, exist_ok=True)
        np.save(place, values[None])
    return folder / "npy"


def lines(header, rows, mark=","):
    return "\n".join([header, *(mark.join(map(str, row)) for row in rows)])


NAMES, MIXED, TENSOR = [PATHS[k] for k in ORDER], VALUES[ORDER], torch.tensor(VALUES[ORDER])
KEYS = (
    "path",
    "paths",
    "img_paths",
    "impath",
    "image",
    "images",
    "names",
    "filenames",
    "file",
    "img_path",
    "ImagePath",
    "keys",
    "whatever",
)
PARTS = {"query_f": VALUES[QUERY], "gallery_f": VALUES[~QUERY]}
LABELS = {
    "query_label": VEHICLE[QUERY],
    "gallery_label": VEHICLE[~QUERY],
    "query_cam": CAMERA[QUERY] + 1,
    "gallery_cam": CAMERA[~QUERY] + 1,
}
VECTORS = dict(zip(NAMES, MIXED, strict=True))
BY_NAME = {
    **{f"pt {key}": pt({"embedding": TENSOR, key: NAMES}) for key in KEYS},
    **{f"npz {key}": npz(features=MIXED, **{key: np.array(NAMES)}) for key in KEYS if key != "file"},
    "pt of paths": pt({path: torch.tensor(row) for path, row in VECTORS.items()}),
    "npz of paths": npz(**VECTORS),
    "json of paths": text("e.json", json.dumps({path: row.tolist() for path, row in VECTORS.items()})),
    "json of records": text("e.json", json.dumps([{"image": p, "embedding": r.tolist()} for p, r in VECTORS.items()])),
    "h5": h5(features=MIXED, path=NAMES),
    "h5 of paths": h5(**VECTORS),
    "mat": mat(f=MIXED, names=np.array(NAMES, dtype=object)),
    "parts": pt(
        {
            "query": {"features": torch.tensor(VALUES[QUERY]), "paths": [PATHS[k] for k in np.flatnonzero(QUERY)]},
            "gallery": {"features": torch.tensor(VALUES[~QUERY]), "paths": [PATHS[k] for k in np.flatnonzero(~QUERY)]},
        }
    ),
    "csv and a frame's index": text(
        "e.csv", lines(f",image,{HEAD}", [[k, p, *r] for k, (p, r) in enumerate(VECTORS.items())])
    ),
    "csv without a header": text("e.csv", lines("", [[p, *r] for p, r in VECTORS.items()])),
    "csv with numbers as header": text("e.csv", lines("path,0,1,2,3,4,5", [[p, *r] for p, r in VECTORS.items()])),
    "csv of lists": text(
        "e.csv", lines("image;embedding", [[p, f"[{', '.join(map(str, r))}]"] for p, r in VECTORS.items()], ";")
    ),
    "csv with labels": text(
        "e.csv",
        lines(
            f"pid,camid,img_path,{HEAD},Unnamed: 0",
            [[VEHICLE[k], CAMERA[k], PATHS[k], *VALUES[k], row] for row, k in enumerate(ORDER)],
        ),
    ),
    "csv with names as index": text("e.csv", lines(f",{HEAD}", [[p, *r] for p, r in VECTORS.items()])),
    "parquet with names as index": parquet(__index_level_0__=NAMES, **{f"f{k}": MIXED[:, k] for k in range(6)}),
    "json split of pandas": text(
        "e.json", json.dumps({"columns": [*range(6)], "index": NAMES, "data": MIXED.tolist()})
    ),
    "jsonl": text("e.jsonl", "\n".join(json.dumps({"file": p, "vector": r.tolist()}) for p, r in VECTORS.items())),
    "tsv": text("e.tsv", lines("path\t" + HEAD.replace(",", "\t"), [[p, *r] for p, r in VECTORS.items()], "\t")),
    "parquet": parquet(path=NAMES, **{f"f{k}": MIXED[:, k] for k in range(6)}, __index_level_0__=ORDER),
    "parquet of lists": parquet(filename=NAMES, embedding=[*MIXED.tolist()]),
    "folders": folders,
    "backslashes": pt({"embedding": TENSOR, "path": [rf"C:\data\{name}".replace("/", "\\") for name in NAMES]}),
}
BY_ORDER = {
    "layumi": mat(**PARTS, **LABELS),
    "two parts": npz(**PARTS),
    "q and g": npz(
        qf=VALUES[QUERY], gf=VALUES[~QUERY], q_pids=VEHICLE[QUERY], g_pids=VEHICLE[~QUERY], distmat=np.ones((4, 8))
    ),
    "fast-reid": pt({"features": torch.tensor(VALUES), "pids": torch.tensor(VEHICLE), "camids": torch.tensor(CAMERA)}),
    "relabelled": pt(
        {"features": torch.tensor(VALUES), "pids": torch.tensor(VEHICLE + 10), "camids": torch.tensor(CAMERA + 1)}
    ),
    "list": pt([torch.tensor(row) for row in VALUES]),
    "cube": npz(feat=VALUES[:, :, None, None]),
    "several, one named": pt({"embedding": torch.tensor(VALUES), "logits": torch.zeros(12, 4), "epoch": 3}),
    "csv": text("e.csv", lines(",0,1,2,3,4,5", [[k, *row] for k, row in enumerate(VALUES)])),
    "csv of pandas without index": text("e.csv", lines("0,1,2,3,4,5", VALUES)),
    "csv and its index without a header": text("e.csv", lines("", [[k, *row] for k, row in enumerate(VALUES)])),
    "semicolons": text("e.csv", "\n".join(";".join(str(v).replace(".", ",") for v in row) for row in VALUES)),
    "txt": text("e.txt", "\n".join(" ".join(map(str, row)) for row in VALUES)),
    "h5": h5(features=VALUES),
    "parquet": parquet(**{f"f{k}": VALUES[:, k] for k in range(6)}, label=VEHICLE),
}


@pytest.mark.parametrize("name", BY_NAME)
def test_rows_are_found_by_whatever_names_them(table, tmp_path, name):
    assert right(import_features(BY_NAME[name](tmp_path), table)) == "rows found by name"


@pytest.mark.parametrize("name", BY_ORDER)
def test_rows_without_names_are_taken_in_order_and_it_is_said(table, tmp_path, name):
    assert right(import_features(BY_ORDER[name](tmp_path), table)) == "rows taken in the order of table.csv"


REFUSED = {
    "identities in another order": (
        pt({"f": TENSOR, "pids": torch.tensor(VEHICLE[ORDER])}),
        r"row \d+ has identity '\d' for row \d+, images/",
    ),
    "cameras in another order": (
        pt({"f": TENSOR, "camids": torch.tensor(CAMERA[ORDER])}),
        r"row \d+ has camera '\d' for row \d+",
    ),
    "relabelled, another order": (
        pt({"f": TENSOR, "pids": torch.tensor(VEHICLE[ORDER] + 10)}),
        r"has identity '1\d' for .* and row \d+ '1\d' for row",
    ),
    "labels of a part": (npz(**PARTS, gallery_label=VEHICLE[~QUERY][::-1]), "contradicts"),
    "labels beside names": (pt({"f": TENSOR, "path": NAMES, "pids": torch.tensor(VEHICLE)}), "contradicts"),
    "a label before the numbers": (text("e.csv", lines("", np.c_[VEHICLE, VALUES])), "number 1 of each embedding"),
    "a label after them": (npz(f=np.c_[VALUES, VEHICLE].astype(np.float32)), "number 7 of each .* label or a count"),
    "index in another order": (
        parquet(**{f"f{k}": MIXED[:, k] for k in range(6)}, index=ORDER),
        "not in the order of their numbers, the column 'index'",
    ),
    "names of others": (
        pt({"f": TENSOR, "names": [f"x{name}" for name in range(12)]}),
        "4 of 4 query and 8 of 8 gallery images .*it has x0, x1, x2 and 9 more",
    ),
    "names in part": (
        pt({"f": TENSOR, "names": [*NAMES[:-1], "x"]}),
        "1 of . (query|gallery) images .* have no embedding",
    ),
    "5,000 others": (pt({f"images/{k}.jpg": torch.ones(6) for k in range(5000)}), "it has images/0.jpg, images/1.jpg"),
    "names under a word for something else": (npz(f=VALUES, frame=np.array(NAMES)), "names of images in frame"),
    "names of all beside parts": (
        npz(query_f=VALUES[QUERY], gallery_f=VALUES[~QUERY], paths=np.array(NAMES)),
        "names of images in paths, but not whose they are",
    ),
    "a pipe": (lambda folder: os.mkfifo(folder / "e.npy") or folder / "e.npy", "is a pipe"),
    "two lists of names": (pt({"f": TENSOR, "a": NAMES, "b": NAMES}), "several lists of names, a, b"),
    "one part too few": (npz(query_f=VALUES[QUERY]), "8 of 8 gallery images .* it has query only"),
    "a part too short": (
        npz(query_f=VALUES[QUERY][1:], gallery_f=VALUES[~QUERY]),
        "3 embeddings of query, but .* 4 rows of query",
    ),
    "parts of other widths": (npz(query_f=VALUES[QUERY], gallery_f=VALUES[~QUERY][:, :3]), "other widths"),
    "a pickle": (
        lambda folder: (folder / "e.pkl").write_bytes(b"\x80\x04N.") and folder / "e.pkl",
        r"is a pickle, .*np.savez",
    ),
    "text as .npy": (text("e.npy", "1,2\n3,4\n"), "is text, no array of NumPy"),
    "text as .h5": (text("e.h5", "1,2\n3,4\n"), "not a whole HDF5 file"),
    "text as .mat": (text("e.mat", "1,2\n3,4\n" * 99), "not a whole .mat file"),
    "a column too many": (
        text("e.csv", lines(f"path,quality,{HEAD}", [[p, 0.5, *r] for p, r in VECTORS.items()])),
        "'quality': is that one",
    ),
    "lists cut short": (text("e.csv", lines("image;v", [[p, "[0.1 0.2 ... 0.3]"] for p in NAMES], ";")), "cut short"),
    "sparse": (pt({"f": TENSOR.to_sparse()}), "sparse"),
    "zeros": (npz(f=np.where(np.arange(12)[:, None] == 4, 0, VALUES)), r"1 of 8 gallery embeddings .* zero .*1_1.jpg"),
    "NaN": (
        npz(f=np.where(np.arange(12)[:, None] == 4, np.nan, VALUES)),
        r"gallery of .*1 of 8 embeddings hold NaN .*1_1.jpg",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_contradicts_or_is_no_embedding_is_refused(table, tmp_path, name):
    write, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as error:
        import_features(write(tmp_path), table)
    assert len(str(error.value)) < 800


def test_query_rows_that_do_not_come_first_are_told_of(table, tmp_path, caplog):
    import_features(npz(f=VALUES)(tmp_path), table)
    assert "table.csv has not its query rows first: embeddings are taken in its order" in caplog.text


def test_a_column_that_is_not_used_is_named(table, tmp_path, caplog):
    import_features(BY_ORDER["several, one named"](tmp_path), table)
    assert "not used of" in caplog.text and "logits" in caplog.text


def test_hdf5_that_would_fill_the_memory(tmp_path):
    with pytest.importorskip("h5py", reason="h5py is not installed").File(tmp_path / "e.h5", "w") as file:
        file.create_dataset("features", (10**7, 2048), "f4", chunks=(1000, 2048))
    with pytest.raises(ValueError, match="would fill"):
        read_embeddings(tmp_path / "e.h5")


@pytest.fixture
def veri(tmp_path):
    """VeRi-776's own layout: each query image stands in the gallery as well."""
    write_tiny_veri(tmp_path / "veri776")
    return VeRi776(str(tmp_path), verbose=False)


def npy_of(dataset, folder, name):
    values = {}
    for part in ("query", "gallery"):
        for path in dataset.sightings[part].path.tolist():
            place = folder / name(path)
            place.parent.mkdir(parents=True, exist_ok=True)
            values.setdefault(path.rpartition("/")[2], RNG.normal(size=4).astype(np.float32))
            np.save(place, values[path.rpartition("/")[2]][None])
    return values


STEM = {
    "bare": lambda path: path.rpartition("/")[2].replace(".jpg", ".npy"),
    "with the ending": lambda path: path.rpartition("/")[2] + ".npy",
    "subfolders": lambda path: "/".join(path.split("/")[-2:]).replace(".jpg", ".npy"),
}


@pytest.mark.parametrize("name", STEM)
@pytest.mark.parametrize("images", [True, False])
def test_npy_files_of_a_data_set(veri, tmp_path, name, images):
    values = npy_of(veri, tmp_path / "npy", STEM[name])
    if not images:
        for part in ("image_train", "image_query", "image_test"):
            shutil.rmtree(tmp_path / "veri776" / part)
    extraction = import_features(tmp_path / "npy", data="veri776", root=tmp_path)
    for part in ("query", "gallery"):
        found, expected = getattr(extraction, part), veri.sightings[part]
        assert found.sightings.time_s.tolist() == expected.time_s.tolist()
        assert (found.embedding == [values[path.rpartition("/")[2]] for path in expected.path.tolist()]).all()
    assert (extraction.network.distance_m == veri.network.distance_m).all() and len(extraction.train) == len(veri.train)
    assert extraction.source["data"] == "veri776" and extraction.train_features is None


def test_two_images_of_one_name_are_told_apart_by_what_is_known(table, tmp_path):
    """The same name, vehicle, camera and time is one photograph; without times, only the same bytes are."""
    rows = ["q/1.jpg,1,1,{0},query", "g/1.jpg,1,1,{1},gallery", "g/2.jpg,1,2,9,gallery"]
    np.savez(tmp_path / "e.npz", f=VALUES[:2], path=["1", "2"])

    def write(*times):
        text = "\n".join(["path,identity,camera,time,split", *rows]).format(*times)
        (tmp_path / "table.csv").write_text(text)

    write("5", "5")
    extraction = import_features(tmp_path / "e.npz", table)
    assert (extraction.gallery.embedding[0] == extraction.query.embedding[0]).all()
    for times in (("5", "6"), ("", "")):
        write(*times)
        with pytest.raises(ValueError, match=r"q/1.jpg and g/1.jpg may both be 1 in"):
            import_features(tmp_path / "e.npz", table)
    for folder in "qg":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.jpg").write_bytes(b"the same")
    assert len(import_features(tmp_path / "e.npz", table).query) == 1


def test_the_command_takes_data_sets_and_says_what_it_did(veri, table, tmp_path):
    npy_of(veri, tmp_path / "npy", STEM["bare"])
    words = ["--embeddings", tmp_path / "npy", "--out", tmp_path / "f.npz"]
    assert "rows found by name" in run("import", *words, "--data", "veri776", "--root", tmp_path).err
    assert Extraction.load(tmp_path / "f.npz").source["imported_from"] == "npy"
    (tmp_path / "cameras.csv").write_text("camera,lat,lon\n0,52,13\n1,52.1,13\n2,52.2,13\n")
    done = run("import", "--embeddings", BY_ORDER["two parts"](tmp_path), "--table", table, "--out", tmp_path / "f.npz")
    assert "rows taken in the order of table.csv; distances: great circle, not road" in done.err
    for more, message in (
        (["--data", "nonsense", "--root", tmp_path], "no data set 'nonsense'"),
        (["--data", "veri77", "--table", table], "did you mean 'veri776'"),
        ([], "give either --table TABLE, or --root DIR"),
        (["--table", table, "--root", tmp_path], "give either"),
        (["--table", table, "data.options.hold_out", "3"], "no option 'hold_out'"),
    ):
        done = run("import", *words, *more, ok=False)
        assert done.code == 2 and message in done.err
    with pytest.raises(ValueError, match=r"does not end in \.npz"):
        Extraction.load(tmp_path / "f.npz").save(tmp_path / "f.csv")
    done = run("import", "--embeddings", tmp_path / "npy", "--table", table, "--out", tmp_path / "f.csv", ok=False)
    assert done.code == 2 and "does not end in .npz" in done.err


def packed_parquet(path):
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({f"n{k}": np.zeros(5_000_000) for k in range(8)}), path)


def repeated_parquet(path):
    """A text of a megabyte that stands 400 times."""
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"path": ["x" * 1_000_000] * 400, "n": np.zeros(400)}), path)


def packed_torch(path):
    torch.save(torch.zeros(70_000_000), path)
    with zipfile.ZipFile(path) as plain:
        parts = {part.filename: plain.read(part) for part in plain.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in parts.items():
            file.writestr(name, content)


PACKED = {
    "e.parquet": packed_parquet,
    "repeated.parquet": repeated_parquet,
    "e.mat": lambda path: scipy.io.savemat(path, {"f": np.zeros((5_000_000, 8))}, do_compression=True),
    "e.pt": packed_torch,
}


@pytest.mark.parametrize("name", PACKED)
def test_what_would_fill_far_more_than_its_file_is_not_unpacked(name, tmp_path):
    PACKED[name](tmp_path / name)
    assert (tmp_path / name).stat().st_size < 4 << 20
    with pytest.raises(ValueError, match=rf"{name}.*its arrays would fill .* MB, more than 50 times the file's"):
        read_embeddings(tmp_path / name)


def test_one_number_for_many_and_one_name_for_two_are_refused(tmp_path):
    torch.save({"embedding": torch.zeros(1, 1).expand(1 << 30, 4)}, tmp_path / "e.pt")
    with pytest.raises(ValueError, match=r"e\.pt holds 'embedding' expanded"):
        read_embeddings(tmp_path / "e.pt")
    np.save(tmp_path / "a.npy", np.ones((2, 2)))
    with zipfile.ZipFile(tmp_path / "e.npz", "w") as file, pytest.warns(UserWarning, match="Duplicate"):
        for _ in range(2):
            file.write(tmp_path / "a.npy", "embedding.npy")
    with pytest.raises(ValueError, match=r"e\.npz .*the array 'embedding' stands there twice"):
        read_embeddings(tmp_path / "e.npz")
