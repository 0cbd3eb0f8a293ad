import pickle
from dataclasses import fields

import numpy as np
import pytest

from torchreid_dfrst.features import Extraction, Features
from torchreid_dfrst.sightings import CameraNetwork, Sightings


def features(count, width=5, seed=0):
    rng = np.random.default_rng(seed)
    sightings = Sightings(
        np.arange(count) % 2,
        np.arange(count) * 1.5,
        np.arange(count),
        path=[f"{k}.jpg" for k in range(count)],
        camera_name=np.array(["north gate", "c003"])[np.arange(count) % 2],
        vehicle_name=[f"van {k}" for k in range(count)],
    )
    return Features(rng.normal(size=(count, width)).astype(np.float32), sightings)


def same(a, b):
    assert np.array_equal(a.embedding, b.embedding)
    same_sightings(a.sightings, b.sightings)


def same_sightings(a, b):
    for column in fields(Sightings):
        np.testing.assert_array_equal(getattr(a, column.name), getattr(b, column.name))


@pytest.mark.parametrize("full", [True, False])
def test_what_is_saved_loads_again(tmp_path, full):
    network = CameraNetwork(np.array([0, 1]), np.array([[0.0, 9.0], [9.0, 0.0]]), ["north gate", "c003"])
    extra = dict(
        train=features(4).sightings, train_features=features(3, seed=2), network=network, source={"model": "dfrst"}
    )
    given = Extraction(features(2), features(6, seed=1), **(extra if full else {}))
    given.save(tmp_path / "deep" / "f.npz")
    read = Extraction.load(tmp_path / "deep" / "f.npz")
    same(read.query, given.query)
    same(read.gallery, given.gallery)
    assert read.source == given.source
    if full:
        same_sightings(read.train, given.train)
        same(read.train_features, given.train_features)
        assert read.network.fingerprint == network.fingerprint
        assert read.network.names.tolist() == ["north gate", "c003"]
    else:
        assert read.train is None and read.train_features is None and read.network is None


def test_a_file_without_names_of_cameras_and_vehicles_loads(tmp_path):
    """The first version wrote such files."""
    network = CameraNetwork(np.array([0, 1]), np.array([[0.0, 9.0], [9.0, 0.0]]), ["north gate", "c003"])
    given = Extraction(features(2), features(6, seed=1), features(4).sightings, features(3, seed=2), network)
    given.save(tmp_path / "f.npz")
    with np.load(tmp_path / "f.npz") as file:
        columns = {name: file[name] for name in file.files if not name.endswith(("_name", "/names"))}
    assert len(file.files) - len(columns) == 9
    np.savez(tmp_path / "old.npz", **columns)
    read = Extraction.load(tmp_path / "old.npz")
    np.testing.assert_array_equal(read.gallery.sightings.path, given.gallery.sightings.path)
    for part in (read.query.sightings, read.gallery.sightings, read.train, read.train_features.sightings):
        assert (part.camera_name == "").all() and (part.vehicle_name == "").all()
    assert read.query.sightings.camera_called(1) == read.network.called(1) == "1"


def test_rows_with_nan_are_named():
    good = features(4)
    broken = good.embedding.copy()
    broken[2, 1], broken[3, 0] = np.nan, np.inf
    with pytest.raises(ValueError, match=r"2 of 4 embeddings hold NaN or infinity \(first: 2.jpg, 3.jpg\)"):
        Features(broken, good.sightings)


@pytest.mark.parametrize(
    "embedding, message",
    [
        (np.zeros(4, np.float32), r"shape \(4,\)"),
        (np.zeros((4, 2), int), "dtype int64"),
        (np.zeros((3, 2), np.float32), "3 embeddings but 4 sightings"),
    ],
)
def test_other_shapes_are_refused(embedding, message):
    with pytest.raises(ValueError, match=message):
        Features(embedding, features(4).sightings)


def test_two_models_do_not_mix():
    with pytest.raises(ValueError, match="query embeddings have 5 dimensions, gallery 6"):
        Extraction(features(2), features(3, width=6))


class Malicious:
    def __reduce__(self):
        return (open, ("proof-that-it-ran", "w"))


@pytest.mark.parametrize("kind", ["pickle", "pickle inside", "text", "other npz", "torn", "empty"])
def test_another_file_is_refused_and_a_pickle_never_runs(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "f.npz"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Malicious()))
    elif kind == "pickle inside":
        np.savez(path, format=np.array([Malicious()], dtype=object))
    elif kind == "text":
        path.write_text("hello")
    elif kind == "other npz":
        np.savez(path, x=np.zeros(3))
    elif kind == "empty":
        path.write_bytes(b"")
    else:
        Extraction(features(2), features(3)).save(path)
        path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"is not a features file.*`dfrst extract`.*`dfrst import`"):
        Extraction.load(path)
    assert not (tmp_path / "proof-that-it-ran").exists()


def test_a_missing_file_says_how_to_make_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`dfrst extract`.*`dfrst import`"):
        Extraction.load(tmp_path / "none.npz")


def test_what_is_wrong_inside_a_file_is_said_with_its_path(tmp_path):
    Extraction(features(2), features(3)).save(tmp_path / "f.npz")
    with np.load(tmp_path / "f.npz") as file:
        columns = dict(file)
    columns["gallery/embedding"][1] = np.nan
    np.savez(tmp_path / "nan.npz", **columns)
    with pytest.raises(ValueError, match=r"nan\.npz: gallery: 1 of 3 embeddings hold NaN .* \(first: 1\.jpg\)"):
        Extraction.load(tmp_path / "nan.npz")
    del columns["gallery/camera"]
    np.savez(tmp_path / "lacking.npz", **columns)
    with pytest.raises(ValueError, match=r"lacking\.npz lacks the array 'gallery/camera'"):
        Extraction.load(tmp_path / "lacking.npz")
