"""Training rows that show what is tested are refused; numbers that merely start anew are not."""

from dataclasses import replace

import numpy as np
import pytest
from worlds import road, traffic

from torchreid_dfrst import evaluation
from torchreid_dfrst.evaluation import weight as choice
from torchreid_dfrst.evaluation.leaks import check_leaks
from torchreid_dfrst.inference.import_features import import_features
from torchreid_dfrst.retrieval import Extraction, Features
from torchreid_dfrst.sightings import Sightings

LOOKS = np.random.default_rng(0).normal(size=(1000, 16))


def seen(first, vehicles=30, folder="test", names=None, seed=1):
    rows = traffic(seed, vehicles, first=first)
    path = np.array([f"{folder}/{row}.jpg" for row in range(len(rows))])
    called = "" if names is None else np.array([names(vehicle) for vehicle in rows.identity])
    return replace(rows, path=path, vehicle_name=np.broadcast_to(called, len(rows)))


def embedded(rows, vehicle=None, seed=0):
    vehicle = rows.identity if vehicle is None else vehicle
    noise = np.random.default_rng([seed, len(rows)]).normal(size=(len(rows), 16))
    return Features((LOOKS[vehicle] + 0.5 * noise).astype(np.float32), rows)


def extraction(train, test, train_features=None, test_vehicle=None):
    gallery = embedded(test, test_vehicle, seed=1)
    source = {"train_features": evaluation.HELD_OUT}
    return Extraction(gallery[::3], gallery, train, train_features, road(), source)


TRAIN, TEST = seen(100, folder="train", seed=0), seen(200)


def score(made, weight=0.2):
    return evaluation.score(made, {"weight": weight}, evaluate={"rerank": False})


def some(rows, count):
    return rows[np.isin(rows.identity, np.unique(rows.identity)[:count])]


def elsewhere(rows):
    return replace(rows, path=np.char.add("again/", rows.path), time_s=rows.time_s + 1)


LEAKS = {
    "a gallery image": (lambda: Sightings.concatenate([TRAIN, TEST[5:6]]), "1 image stands in training and"),
    "test vehicles by number": (
        lambda: Sightings.concatenate([TRAIN, elsewhere(some(TEST, 2))]),
        r"2 vehicles are in training and in query or gallery \(first: 200\)",
    ),
}


@pytest.mark.parametrize("kind", LEAKS)
def test_space_and_time_are_not_fitted_on_what_is_tested(kind, caplog):
    train, words = LEAKS[kind]
    made = extraction(train(), TEST)
    with pytest.raises(ValueError, match=words):
        score(made)
    evaluation.score(made, {"model": None}, evaluate={"rerank": False})
    assert "in training and in query or gallery" in caplog.text, "appearance alone is scored, with a warning"


def test_vehicles_are_compared_by_name_where_there_are_names():
    train, test = (seen(first, folder=str(first), names=lambda v: f"car {v % 100}", seed=first) for first in (100, 200))
    with pytest.raises(ValueError, match=r"30 vehicles are in training .*first: car 0"):
        score(extraction(train, test))
    other = replace(test, identity=test.identity - 100, vehicle_name=np.char.add("another ", test.vehicle_name))
    score(extraction(train, other))


def test_an_embedding_to_the_last_bit_is_the_same_image():
    test = embedded(TEST, seed=1)
    known = embedded(TRAIN)
    copied = known.embedding.copy()
    copied[7] = test.embedding[11]
    with pytest.raises(ValueError, match=r"1 query or gallery image has the embedding of training images.*test/11.jpg"):
        score(extraction(TRAIN, TEST, Features(copied, TRAIN)))
    # images of one colour, or codes of few bits, are alike without being the same
    blank = test.embedding.copy()
    blank[[11, 12]] = copied[[7, 8]] = 1.0
    score(Extraction(test, Features(blank, TEST), TRAIN, Features(copied, TRAIN), road()))


@pytest.mark.parametrize("same", [False, True])
def test_numbers_that_start_anew_are_compared_by_looks(same, caplog):
    train, test = seen(0, folder="train", seed=0), seen(0)
    vehicle = test.identity + (0 if same else 500)
    made = extraction(train, test, embedded(train), vehicle)
    if same:
        with pytest.raises(ValueError, match="30 vehicles are in training"):
            score(made)
    else:
        score(made)
        assert not caplog.text
        score(replace(made, train_features=None))
        assert "nothing is wrong if the numbers merely start anew" in caplog.text


def test_a_relabelled_training_list_beside_raw_test_numbers_is_no_leak():
    train, test = seen(0, folder="train", seed=0), seen(5)
    score(extraction(train, test, embedded(train), test.identity + 500))
    score(extraction(train, test))


def test_distractors_without_identity_are_no_vehicle():
    lost = replace(TEST, identity=np.where(TEST.identity < 205, -1, TEST.identity))
    unknown = replace(TRAIN, identity=np.where(TRAIN.identity < 105, -1, TRAIN.identity))
    score(extraction(unknown, lost))


def test_a_weight_is_not_chosen_on_what_cannot_be_a_choice(monkeypatch):
    known = embedded(TRAIN)
    wide = Features(np.hstack([known.embedding, known.embedding]), TRAIN)
    with pytest.raises(ValueError, match="have 16 dimensions, those of training images 32"):
        score(extraction(TRAIN, TEST, wide), "auto")
    with pytest.raises(ValueError, match="all of camera 7"):
        score(extraction(TRAIN, TEST, known[TRAIN.camera == 7]), "auto")
    by_camera = np.eye(16, dtype=np.float32)[TRAIN.camera]
    for weight in ("auto", "calibrated"):
        for values in (np.ones_like(by_camera), by_camera):
            with pytest.raises(ValueError, match=r"by different cameras are all .* apart"):
                score(extraction(TRAIN, TEST, Features(values, TRAIN)), weight)
    monkeypatch.setattr(choice, "_weight_by_logistic", lambda *_: (0.0, 1e-9, 3.0))
    with pytest.raises(ValueError, match="appearance says next to nothing"):
        score(extraction(TRAIN, TEST, known), "calibrated")


def test_import_tells_of_test_vehicles_in_training(tmp_path, caplog):
    rows = [f"{n}.jpg,car {n % 3},{n % 2},{n}.5,{split}" for n, split in enumerate(["train", "gallery", "query"] * 4)]
    (tmp_path / "table.csv").write_text("\n".join(["path,identity,camera,time,split", *rows]))
    np.save(tmp_path / "e.npy", np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32))
    import_features(tmp_path / "e.npy", tmp_path / "table.csv")
    assert "in training and" not in caplog.text
    (tmp_path / "table.csv").write_text((tmp_path / "table.csv").read_text().replace("car 1", "car 0"))
    import_features(tmp_path / "e.npy", tmp_path / "table.csv")
    assert "1 vehicle is in training and in query or gallery (first: car 0)" in caplog.text


@pytest.mark.parametrize("form", ["{}.0", "0{}", " {} "])
def test_vehicles_written_in_another_way_are_the_same(form):
    train = seen(200, folder="train", names=form.format)
    with pytest.raises(ValueError, match="30 vehicles are in training and in query or gallery"):
        check_leaks(extraction(train, seen(200, names=str)), refuse=True)


@pytest.mark.parametrize("unknown", ["test", "train"])
def test_where_one_side_has_no_known_vehicle_nothing_is_shared(unknown):
    nobody = replace(TEST if unknown == "test" else TRAIN, identity=None)
    train, test = (TRAIN, nobody) if unknown == "test" else (nobody, TEST)
    check_leaks(extraction(train, test, test_vehicle=TEST.identity), refuse=True)
