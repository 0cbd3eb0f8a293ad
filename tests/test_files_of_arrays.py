"""Whatever a file of embeddings, features or a card holds, it is read or refused in our own words, and never run."""

import json

import numpy as np
import pytest
import scipy.io
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torchreid_dfrst import evaluation
from torchreid_dfrst.evaluation.card import Card
from torchreid_dfrst.inference.import_features import read_embeddings
from torchreid_dfrst.retrieval import Extraction, Features
from torchreid_dfrst.sightings import Sightings

VALUES = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
SIGHTINGS = Sightings(np.arange(4), np.arange(4.0), np.array([0, 0, 1, 1]), path=np.array(list("abcd")))
EXTRACTION = Extraction(Features(VALUES, SIGHTINGS), Features(VALUES, SIGHTINGS))


def write_card(path):
    result = evaluation.score(EXTRACTION, {"model": None}, None, {"rerank": False})
    evaluation.card(result, EXTRACTION, "test").save(path)


def write_hdf5(path):
    with pytest.importorskip("h5py", reason="h5py is not installed").File(path, "w") as file:
        file["features"], file["path"] = VALUES, list("abcd")


def write_parquet(path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is an optional extra")
    __import__("pyarrow.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"path": list("abcd"), "x": VALUES[:, 0], "y": VALUES[:, 1]}), path)


WRITERS = {
    "e.npy": (lambda path: np.save(path, VALUES), read_embeddings),
    "e.npz": (lambda path: np.savez(path, e=VALUES, path=np.array(list("abcd"))), read_embeddings),
    "small.npz": (lambda path: np.savez_compressed(path, e=VALUES), read_embeddings),
    "e.pt": (lambda path: torch.save({"e": torch.from_numpy(VALUES), "path": list("abcd")}, path), read_embeddings),
    "e.csv": (lambda path: path.write_text("path,x,y\na,1,2\nb,0.5,nan\n"), read_embeddings),
    "e.json": (
        lambda path: path.write_text('[{"image": "a", "v": [1, 2]}, {"image": "b", "v": [3, 4.5]}]'),
        read_embeddings,
    ),
    "e.h5": (lambda path: write_hdf5(path), read_embeddings),
    "e.mat": (lambda path: scipy.io.savemat(path, {"f": VALUES, "names": np.array(list("abcd"))}), read_embeddings),
    "e.parquet": (lambda path: write_parquet(path), read_embeddings),
    "f.npz": (
        lambda path: Extraction(Features(VALUES, SIGHTINGS), Features(VALUES, SIGHTINGS)).save(path),
        Extraction.load,
    ),
    "card.json": (write_card, Card.load),
}
WORDS = st.sampled_from(
    [b"", b"\x00", b"PK", b"path", b"x", b"\xff\xfe", b"[", b"{", b"}", b"'", b'"', b"\n", b",", b"9" * 30]
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("files")
    for name, (write, _) in WRITERS.items():
        write(made / name)
    return made


CHANGES = {
    "whole": lambda sound, content, start, end: content,
    "torn": lambda sound, content, start, end: sound[:start],
    "patched": lambda sound, content, start, end: sound[:start] + content + sound[end:],
    "patched at the start": lambda sound, content, start, end: (
        sound[: start // 20] + content + sound[start // 20 + 1 :]
    ),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.filterwarnings("ignore")
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.one_of(WORDS, st.binary(max_size=40)),
    place=st.floats(0, 1),
    length=st.integers(0, 40),
    how=st.sampled_from([*CHANGES, "patched", "patched"]),
)
def test_a_damaged_file_is_read_or_refused(folder, name, content, place, length, how):
    path, read = folder / name, WRITERS[name][1]
    sound = path.read_bytes()
    start = round(place * len(sound))
    try:
        path.write_bytes(CHANGES[how](sound, content, start, start + length))
        read(path)
    except (ValueError, KeyError, FileNotFoundError) as error:
        assert str(path.name) in str(error), f"{error!r} does not name the file"
    finally:
        path.write_bytes(sound)


@pytest.mark.parametrize("word", ["null", "[]", "3", "{}", json.dumps({"format": "torchreid_dfrst card 1"})])
def test_json_that_is_no_card(tmp_path, word):
    (tmp_path / "card.json").write_text(word)
    with pytest.raises(ValueError, match="card"):
        Card.load(tmp_path / "card.json").table()
