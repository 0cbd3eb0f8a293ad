"""Embeddings of other programs in every kind of file, and files that must not be believed."""

import os
import pickle

import numpy as np
import pytest
import torch
from test_command_line import run

from torchreid_dfrst import evaluation
from torchreid_dfrst.inference.import_features import import_features, read_embeddings
from torchreid_dfrst.retrieval import Extraction

SPLITS = ["train"] * 6 + ["query"] * 4 + ["gallery"] * 8
PATHS = [f"{split}/{number:02d}.jpg" for number, split in enumerate(SPLITS)]
VALUES = np.random.default_rng(0).normal(size=(len(SPLITS), 5)).astype(np.float32)


@pytest.fixture
def table(tmp_path):
    """Two vehicles per split, three cameras, splits in mixed order."""
    rows = [
        f"{path},{k % 2},{k % 3},{10 * k},{split}" for k, (path, split) in enumerate(zip(PATHS, SPLITS, strict=True))
    ]
    order = np.random.default_rng(1).permutation(len(rows))
    (tmp_path / "table.csv").write_text("\n".join(["path,identity,camera,time,split", *(rows[k] for k in order)]))
    (tmp_path / "distances.csv").write_text("0,1,2\n0,300,700\n300,0,500\n700,500,0\n")
    return tmp_path / "table.csv", order


def as_npy(path, values, paths):
    np.save(path.with_suffix(".npy"), values)
    return path.with_suffix(".npy")


def as_npz(path, values, paths):
    np.savez(path.with_suffix(".npz"), feat=values.astype(np.float64), path=np.array(paths))
    return path.with_suffix(".npz")


def as_tensor(path, values, paths):
    torch.save(torch.from_numpy(values), path.with_suffix(".pt"))
    return path.with_suffix(".pt")


def as_dict(path, values, paths):
    torch.save({"embeddings": torch.from_numpy(values), "path": list(paths)}, path.with_suffix(".pth"))
    return path.with_suffix(".pth")


def as_bare_csv(path, values, paths):
    np.savetxt(path.with_suffix(".csv"), values, delimiter=",", fmt="%.9g")
    return path.with_suffix(".csv")


def as_csv(path, values, paths):
    lines = [
        "path,a,b,c,d,e",
        *(",".join([p, *(f"{v:.9g}" for v in row)]) for p, row in zip(paths, values, strict=True)),
    ]
    path.with_suffix(".csv").write_bytes("\r\n".join(["\ufeff" + lines[0], *lines[1:], ""]).encode())
    return path.with_suffix(".csv")


def as_folder(path, values, paths):
    path.mkdir()
    for name, row in zip(paths, values, strict=True):
        np.save(path / (name.split("/")[1].removesuffix(".jpg") + ".npy"), row[None])
    return path


BY_ORDER, BY_PATH = [as_npy, as_tensor, as_bare_csv], [as_npz, as_dict, as_csv, as_folder]


def check(extraction, order, test_only=False):
    for part in ("query", "gallery"):
        features = getattr(extraction, part)
        numbers = [int(path[-6:-4]) for path in features.sightings.path]
        assert numbers == [k for k in order if SPLITS[k] == part]
        assert (features.embedding == VALUES[numbers]).all()
        assert features.sightings.time_s.tolist() == [10 * k for k in numbers]
    assert len(extraction.train) == 6 and (extraction.train_features is None) is test_only
    assert extraction.network.distance_m.tolist() == [[0, 300, 700], [300, 0, 500], [700, 500, 0]]


@pytest.mark.parametrize("write", BY_ORDER)
@pytest.mark.parametrize("test_only", [False, True])
def test_rows_in_the_order_of_the_table(table, tmp_path, write, test_only):
    path, order = table
    rows = [k for k in order if not test_only or SPLITS[k] != "train"]
    check(import_features(write(tmp_path / "e", VALUES[rows], None), path), order, test_only)


@pytest.mark.parametrize("write", BY_PATH)
def test_rows_found_by_path(table, tmp_path, write, caplog):
    path, order = table
    check(import_features(write(tmp_path / "e", VALUES, PATHS), path), order)
    assert not caplog.records
    half = tmp_path / "half"
    half.mkdir()
    check(import_features(write(half / "e", VALUES[6:], PATHS[6:]), path), order, test_only=True)


def test_an_image_may_stand_twice_with_one_embedding(table, tmp_path, caplog):
    """As the query images of VeRi-776, which are in the gallery too."""
    path, order = table
    values, names = np.concatenate([VALUES, VALUES[:3] * np.float32(1 + 1e-6)]), [*PATHS, *PATHS[:3]]
    check(import_features(as_npz(tmp_path / "e", values, names), path), order)
    assert not caplog.records


def test_the_command_and_scoring_what_it_wrote(table, tmp_path):
    path, order = table
    words = ["--embeddings", as_npz(tmp_path / "e", VALUES, PATHS), "--table", path, "--out", tmp_path / "f.npz"]
    run("import", *words, "--model", "osnet")
    extraction = Extraction.load(tmp_path / "f.npz")
    check(extraction, order)
    assert extraction.source["network"] == "osnet"
    result = evaluation.score(extraction, rerank={"k1": 3, "k2": 2})
    assert evaluation.card(result, extraction, "test").content["queries"]["used"] == 4
    done = run("import", *words[:3], tmp_path / "none.csv", *words[4:], ok=False)
    assert done.code == 2 and done.err.startswith("error: no table at")


class Malice:
    """Unpickled, it writes a file."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize(
    "ending", [".npy", ".npz", ".pt", ".pth", ".npy pickle", ".npz pickle", ".pt pickle", "folder"]
)
def test_code_in_a_file_is_refused_and_never_run(tmp_path, ending):
    mark, file = tmp_path / "mark", tmp_path / f"e{ending.split()[0]}"
    evil = np.array([[Malice(mark)]], dtype=object)
    if ending.endswith("pickle"):
        file.write_bytes(pickle.dumps(Malice(mark)))
    elif ending == "folder":
        file.mkdir()
        np.save(file / "a.npy", evil, allow_pickle=True)
    elif ending == ".npy":
        np.save(file, evil, allow_pickle=True)
    elif ending == ".npz":
        np.savez(file, embedding=VALUES, path=evil)
    else:
        torch.save({"embedding": torch.zeros(2, 2), "path": Malice(mark)}, file)
    with pytest.raises(ValueError, match=r"not run|refused"):
        read_embeddings(file)
    assert not mark.exists()


def broken(**arrays):
    return lambda folder: np.savez(folder / "e.npz", **arrays)


NAN = np.where(np.arange(len(PATHS))[:, None] == 9, np.nan, VALUES)
MISTAKES = {
    "too few": (broken(e=VALUES[:11]), "holds 11 embeddings, but .* has 18 rows, 12 of them"),
    "too few paths": (broken(e=VALUES, path=np.array(PATHS[:4])), "18 embeddings but 4 paths"),
    "a test image without": (
        broken(e=VALUES[:-1], path=np.array(PATHS[:-1])),
        "1 of 8 gallery images of .* have no embedding in .*: gallery/17.jpg; it has train/00.jpg",
    ),
    "twice": (broken(e=VALUES, path=np.array([*PATHS[:-1], PATHS[0]])), "different embeddings: train/00.jpg"),
    "NaN": (broken(e=NAN, path=np.array(PATHS)), "NaN or infinity .*query/09.jpg"),
    "infinite as float32": (broken(e=VALUES * np.float64(1e300)), "NaN or infinity"),
    "whole numbers": (broken(e=np.ones((18, 3), int)), r"type int64: .* floating point"),
    "no matrix": (broken(e=VALUES[0]), r"must hold one .* e \(5,\)"),
    "two matrices": (broken(e=VALUES, f=VALUES), "must hold one"),
    "nothing": (broken(), "its arrays: none"),
    "no zip": (lambda folder: (folder / "e.npz").write_bytes(b"PK\x03\x04 no"), "torn"),
    "a word": (lambda folder: (folder / "e.csv").write_text("a,b\n1,2\n3,x\n"), "'x' in row 2"),
    "a short row": (lambda folder: (folder / "e.csv").write_text("1,2\n1\n"), "not 2 values .*: row 2 has 1"),
    "an empty list": (lambda folder: (folder / "e.csv").write_text("\n"), "is empty"),
    "only a header": (lambda folder: (folder / "e.csv").write_text("path,a\n"), "no row of numbers"),
    "another ending": (lambda folder: (folder / "e.bin").write_text(""), "'.bin': .npy"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.filterwarnings("ignore:overflow")
def test_a_mistake_is_named(table, tmp_path, mistake):
    spoil, message = MISTAKES[mistake]
    spoil(tmp_path)
    with pytest.raises(ValueError, match=message):
        import_features(next(tmp_path.glob("e.*")), table[0])


def test_missing_files_and_missing_splits(table, tmp_path):
    with pytest.raises(FileNotFoundError, match="no embeddings at"):
        read_embeddings(tmp_path / "e.npy")
    (tmp_path / "t.csv").write_text("path,identity,camera,split\na,1,1,train\nb,1,1,query\n")
    with pytest.raises(ValueError, match="no row of the split gallery"):
        import_features(tmp_path / "e.npy", tmp_path / "t.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"without \.npy files"):
        read_embeddings(tmp_path / "empty")


def test_half_precision_tensors(tmp_path):
    for dtype in (torch.bfloat16, torch.float16):
        torch.save(torch.ones(2, 3, dtype=dtype), tmp_path / "e.pt")
        assert (read_embeddings(tmp_path / "e.pt")[0].values == 1).all()


def test_what_is_no_file_is_not_waited_for(table, tmp_path):
    """Of rows without a time whose names are not in the embeddings, the photographs themselves are compared."""
    rows = ["path,identity,camera,split", "q/a.jpg,1,1,query", "g/a.jpg,1,1,gallery", "g/b.jpg,1,2,gallery"]
    (tmp_path / "pipes.csv").write_text("\n".join(rows))
    for folder in "qg":
        (tmp_path / folder).mkdir()
        os.mkfifo(tmp_path / folder / "a.jpg")
    torch.save({"path": ["g/a.jpg", "g/b.jpg"], "embedding": torch.rand(2, 3)}, tmp_path / "e.pt")
    with pytest.raises(ValueError, match=r"1 of 1 query images of .* have no embedding"):
        import_features(tmp_path / "e.pt", tmp_path / "pipes.csv")


def test_arrays_of_numpy_in_a_file_of_torch(tmp_path):
    torch.save({"features": np.ones((2, 3)), "paths": np.array(["a", "b"])}, tmp_path / "e.pt")
    [part] = read_embeddings(tmp_path / "e.pt")
    assert (part.values == 1).all() and part.names == ["a", "b"]


def test_whole_numbers_are_no_embeddings(tmp_path):
    np.save(tmp_path / "e.npy", np.ones((2, 3), dtype=np.int8))
    with pytest.raises(ValueError, match=r"type int8: .*; of quantised embeddings, save what the numbers stand for"):
        read_embeddings(tmp_path / "e.npy")
