"""Unknown is nobody: -1 never matches, never trains, never fits, and is counted and said, whoever reads identities."""

import importlib
import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torchreid
from PIL import Image

from torchreid_dfrst import evaluation, spatiotemporal
from torchreid_dfrst.acceleration import accelerated
from torchreid_dfrst.cli import main
from torchreid_dfrst.data import CityFlow, Table, VehicleID, VeRiFormat, VeRiWild
from torchreid_dfrst.data.manager import DataManager
from torchreid_dfrst.data.table import read_rows
from torchreid_dfrst.doctor import check_dataset
from torchreid_dfrst.evaluation import audit
from torchreid_dfrst.evaluation.protocols import PROTOCOLS
from torchreid_dfrst.evaluation.weight import choose_weight, held_out
from torchreid_dfrst.names import is_unknown, plain, says_unknown
from torchreid_dfrst.retrieval import Extraction, Features, evaluate, evaluate_lists
from torchreid_dfrst.retrieval.metrics import Best, NothingToScoreError
from torchreid_dfrst.sightings import UNKNOWN, CameraNetwork, Sightings, draw, same_vehicle

WORDS = [
    "-1",
    "-1.0",
    "nan",
    "NaN",
    "",
    "unknown",
    "UNKNOWN",
    "None",
    "null",
    "NULL",
    "n/a",
    "N/A",
    "?",
    "\uff1f",
    " nan ",
    "NaT",
    "nil",
    "\\N",
    "<unknown>",
    "unk",
    "Unlabelled",
    "not known",
    "N.A.",
    "??",
    "--",
    "\u2014",
    "\u22121",
    "-9999",
    "#N/A",
    "distractor",
]


def world(unknown=True, seed=0, vehicles=30):
    """Three lists of a street of four cameras; with ``unknown`` every third vehicle's label is taken away."""
    rng = np.random.default_rng(seed)
    network = CameraNetwork(np.arange(4), 500.0 * np.abs(np.subtract.outer(np.arange(4), np.arange(4))))
    parts = {}
    for part in ("train", "test"):
        vehicle, camera = np.repeat(np.arange(vehicles), 4), np.tile(np.arange(4), vehicles)
        time_s = rng.uniform(0, 3000, vehicles)[vehicle] + 50.0 * camera * rng.uniform(0.9, 1.1, vehicles)[vehicle]
        labels = np.where(vehicle % 3 == 0, UNKNOWN, vehicle) if unknown else vehicle
        seen = Sightings(camera, time_s, labels, path=np.array([f"{part}{k}" for k in range(len(vehicle))]))
        looks = rng.normal(size=(vehicles, 8))[vehicle] + 1.5 * rng.normal(size=(len(vehicle), 8))
        parts[part] = Features(looks, seen)
    test, query = parts["test"], parts["test"].sightings.camera == 0
    source = {"data": "street"}
    return Extraction(test[query], test[~query], parts["train"].sightings, parts["train"], network, source)


def without_unknown(part):
    known = part.known if isinstance(part, Sightings) else part.sightings.known
    return part[known]


@pytest.mark.parametrize("word", [*WORDS, "-2", "-5.0", "-2147483648", "not_known", "No_Label", "#NAME?", "ignore"])
def test_words_that_say_unknown(word):
    assert is_unknown(word)


def test_a_time_below_zero_is_known():
    assert not says_unknown("-5") and says_unknown("-1")


@pytest.mark.parametrize("word", ["0", "1", "unknown van", "nancy", "none of these", "11", "c-3"])
def test_words_that_say_something(word):
    assert not is_unknown(word)


@pytest.mark.parametrize(
    ("one", "other"),
    [("3", "3.0"), ("3", "03"), ("3.50", "3.5"), ("0", "-0"), ("Su\u0308d", "S\u00fcd"), ("Gate  3", " Gate 3")],
)
def test_names_are_compared_by_what_they_mean(one, other):
    assert plain(one) == plain(other)
    assert plain("c003") != plain("3") and plain("1e3") == "1e3" and plain("0.30") == "0.3"


def test_the_law_itself():
    assert same_vehicle(np.array([1, 2, UNKNOWN]), np.array([1, 3, UNKNOWN])).tolist() == [True, False, False]
    assert not draw(np.array([UNKNOWN, 5, UNKNOWN, 5]), 0)[[0, 2]].any()
    seen = Sightings(np.zeros(3, dtype=int), identity=np.array([4, UNKNOWN, 2]))
    assert seen.vehicles.tolist() == [2, 4] and seen.vehicle_called(UNKNOWN) == "not known"


def scored(x, **more):
    return evaluation.score(x, spacetime={"model": None}, evaluate={"rerank": False, **more})


def known_queries(x):
    """Queries with an identity alone, unknown gallery images under labels of their own: the same by definition."""
    gallery = x.gallery.sightings
    alone = np.where(gallery.known, gallery.identity, 10_000 + np.arange(len(gallery)))
    return replace(
        x, query=without_unknown(x.query), gallery=replace(x.gallery, sightings=replace(gallery, identity=alone))
    )


@pytest.mark.parametrize("protocol", ["image-to-image", "no-junk", "other-cameras", "map-at-k"])
def test_scoring(protocol):
    x = world()
    found, expected = (scored(y, protocol=protocol).metrics["appearance"] for y in (x, known_queries(x)))
    assert (found.mAP, found.mINP, found.used) == (expected.mAP, expected.mINP, 20) and found.skipped == 10
    everyone = scored(world(unknown=False), protocol=protocol).metrics["appearance"]
    assert everyone.used == 30 and 0.05 < found.mAP < 0.95, "a trivial ranking would prove nothing"


def test_lists_and_first_matches():
    x = world()
    table = np.random.default_rng(3).random((30, 90), dtype=np.float32)
    labels = [getattr(part.sightings, name) for name in ("identity", "camera") for part in (x.query, x.gallery)]
    whole, lists = evaluate(table, *labels), evaluate_lists(np.argsort(table, axis=1), *labels)
    assert (whole.mAP, whole.used, lists.used) == (pytest.approx(lists.mAP), 20, 20)
    best = Best(x.query.sightings, x.gallery.sightings, 3)
    best.note(table)
    assert (best.match[~x.query.sightings.known] == -1).all() and (best.match[x.query.sightings.known] >= 0).all()


def test_torchreids_engine_with_our_metrics():
    x = known_queries(world())
    table = np.random.default_rng(3).random((20, 90), dtype=np.float32)
    q, g = x.query.sightings, x.gallery.sightings
    g = replace(g, identity=np.where(g.identity >= 10_000, UNKNOWN, g.identity))
    everyone = np.concatenate([q.identity, np.full(5, UNKNOWN)])
    camera, taller = np.concatenate([q.camera, np.zeros(5, dtype=int)]), np.concatenate([table, table[:5]])
    with accelerated():
        for kind in (np.int64, np.float64, np.str_):
            found = torchreid.metrics.evaluate_rank(
                taller, everyone.astype(kind), g.identity.astype(kind), camera, g.camera
            )
            expected = torchreid.metrics.evaluate_rank(table, q.identity, g.identity, q.camera, g.camera)
            np.testing.assert_allclose(found[1], expected[1])


@pytest.mark.parametrize("name", ["lognormal", "provid", "transition", "histogram", "likelihood"])
def test_fitting(name):
    x = world()
    # an unknown image far outside in time would stretch what is fitted on all rows
    far = Sightings(np.array([1]), np.array([1e6]), np.array([UNKNOWN]))
    lists = x.train[x.train.known], Sightings.concatenate([x.train, far])
    fit = [spatiotemporal.build(name).fit(part, x.network) for part in lists]
    assert fit[0].fitted == fit[1].fitted
    with pytest.raises(ValueError, match="none of the 40 training sightings has an identity: nothing to fit"):
        spatiotemporal.build(name).fit(x.train[~x.train.known], x.network)


def test_the_choice_of_omega_and_the_audit():
    x = world()
    model = spatiotemporal.build("lognormal")
    found = choose_weight(model, x.train, x.train_features, x.network)
    assert found == choose_weight(model, without_unknown(x.train), without_unknown(x.train_features), x.network)
    assert all(x.train.known[np.concatenate([f.fit, f.query, f.gallery])].all() for f in held_out(x.train))
    fitted = model.fit(x.train, x.network)
    one, other = (audit.alone(fitted, y.query.sightings, y.gallery.sightings) for y in (x, known_queries(x)))
    assert one == other


def test_the_card_counts_and_says_them():
    x = world()
    card = evaluation.card(scored(x), x, "a test")
    assert card.content["queries"]["why"]["no identity"] == 10 and card.content["queries"]["skipped"] == 10
    assert card.content["data"]["gallery"] == {"images": 90, "vehicles": 20, "cameras": 3, "without identity": 30}
    assert "10 skipped: no identity" in card.table() and "(30 without identity, never right)" in card.table()


def test_nothing_to_score_is_said_and_ranking_is_named(tmp_path, capsys):
    x = world()
    blind = replace(x, query=x.query[~x.query.sightings.known], train=None, network=None)
    blind.save(tmp_path / "f.npz")
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", str(tmp_path / "f.npz")])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.startswith("error: none of the 10 queries has an identity: there is nothing")
    assert "`dfrst rank`" in said and said.count("\n") == 1
    with pytest.raises(NothingToScoreError):
        PROTOCOLS["image-to-image"].score(np.ones((10, 90)), blind.query.sightings, blind.gallery.sightings)


def write_table(folder, identity, splits="ttttttqqqggggg", cameras="012012012012012"):
    """Fourteen images of six colours; ``identity(k, split)`` is what the table says."""
    (folder / "images").mkdir()
    rows = ["path,identity,camera,split"]
    for k, letter in enumerate(splits):
        split = {"t": "train", "q": "query", "g": "gallery"}[letter]
        Image.new("RGB", (16 + k, 16), (17 * k, 60, 200 - 9 * k)).save(folder / "images" / f"{k}.png")
        rows.append(f"images/{k}.png,{identity(k, split)},{cameras[k]},{split}")
    (folder / "table.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("word", ["-1", "nan", "", "Unknown"])
def test_a_table(tmp_path, caplog, word):
    write_table(tmp_path, lambda k, split: word if k % 3 == 2 else k % 3)
    data = Table(str(tmp_path), verbose=False)
    assert {pid for _, pid, *_ in data.train} == {0, 1} and len(data.train) == len(data.sightings["train"]) == 4
    assert data.sightings["gallery"].identity.tolist().count(UNKNOWN) == 1
    for text in (
        "2 training images have no identity: not trained on",
        "1 query image has no identity: not scored",
        "1 gallery image has no identity: ranked, and never right",
    ):
        assert text in caplog.text
    combined = Table(str(tmp_path), combineall=True, verbose=False)
    assert len(combined.train) == len(combined.sightings["train"]) == 10
    messages = check_dataset("table", tmp_path).text()
    assert "2 training images have no identity" in messages and "1 query image" in messages


def test_a_track_that_is_not_known_is_no_track(tmp_path):
    write_table(tmp_path, lambda k, split: "?")
    lines = (tmp_path / "table.csv").read_text().splitlines()
    rows = [
        f"{line},{word}" for line, word in zip(lines[1:], itertools.cycle(["-1", "nan", "unknown", "7"]), strict=False)
    ]
    (tmp_path / "table.csv").write_text("\n".join([f"{lines[0]},track", *rows]))
    track = read_rows(tmp_path / "table.csv")[0].track
    assert (track == UNKNOWN).tolist() == [k % 4 < 3 for k in range(len(track))]


@pytest.mark.parametrize("column", [True, False])
def test_a_table_without_any_identity_is_read_and_not_trained_on(tmp_path, caplog, column):
    write_table(tmp_path, lambda k, split: "?")
    if not column:
        text = (tmp_path / "table.csv").read_text().replace(",?,", ",").replace(",identity,", ",")
        (tmp_path / "table.csv").write_text(text)
    with caplog.at_level("WARNING"):
        data = DataManager(str(tmp_path), "table", "table", 16, 16, workers=0, use_gpu=False)
    assert "no query of Table has an identity: nothing can be scored" in caplog.text
    assert len(data.test_loader["table"]["query"].images) == 3
    with pytest.raises(ValueError, match="table has no training image with an identity: there is nothing"):
        _ = data.train_loader
    assert "nothing to train on" in check_dataset("table", tmp_path).text()


def test_training_refuses_in_one_line(tmp_path, capsys):
    write_table(tmp_path, lambda k, split: "")
    words = f"train --root {tmp_path} -s table -t table model.name bot_resnet18 model.pretrained false data.height 32"
    with pytest.raises(SystemExit) as stop:
        main([*words.split(), *f"data.width 32 data.workers 0 train.max_epoch 1 train.save_dir {tmp_path}/run".split()])
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert stop.value.code == 2 and "table has no training image with an identity" in line


def test_a_test_set_without_identities_does_not_end_a_training(tmp_path):
    write_table(tmp_path, lambda k, split: k % 2 if split == "train" else "")
    words = f"train --root {tmp_path} -s table -t table model.name bot_resnet18 model.pretrained false data.height 32"
    words += " data.width 32 data.workers 0 data.batch_size_train 4 data.num_instances 2 scheduler.warmup_epoch 0"
    main([*words.split(), *f"train.max_epoch 1 scheduler.stepsize [1] train.save_dir {tmp_path}/run".split()])
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["metrics"] == {} and (tmp_path / "run" / "weights.safetensors").is_file()


def test_torchreids_own_kind_of_data_set(monkeypatch):
    data = importlib.import_module("torchreid_dfrst.data.manager")
    items = [("a", 3, 0, 0), ("b", UNKNOWN, 0, 0), ("c", 5, 1, 0)]
    assert data._labelled(items) == [("a", 0, 0, 0), ("c", 1, 1, 0)]


def test_veri_names(tiny_veri):
    folder = tiny_veri / "veri776"
    for split in ("train", "test", "query"):
        for path in sorted((folder / f"image_{split}").glob("000[12]_*")):
            path.rename(path.with_name("-1" + path.name[4:]))
    for name in ("test_track.txt", "gt_index.txt", "jk_index.txt", "test_label.xml", "train_label.xml"):
        (folder / name).unlink()
    data = VeRiFormat(str(folder), verbose=False)
    assert data.num_train_pids == 3 and (data.sightings["gallery"].identity == UNKNOWN).sum() == 8
    unknown = data.sightings["gallery"][~data.sightings["gallery"].known]
    assert len(np.unique(unknown.track)) == 8 and set(unknown.camera_name) == {"c001", "c002", "c003", "c004"}
    assert "8 gallery images have no identity" in check_dataset("veri_format", folder).text()


def test_other_lists(vehicleid, veriwild, cityflow):
    path = vehicleid / "VehicleID_V1.0" / "train_test_split" / "train_list.txt"
    path.write_text(path.read_text().replace(" 1\n", " -1\n"))
    assert VehicleID(str(vehicleid), verbose=False).num_train_pids == 3
    path = cityflow / "AIC20_track2_reid" / "train_label.xml"
    path.write_text(path.read_text().replace('vehicleID="0001"', 'vehicleID="-1"'))
    before = CityFlow.read(path.parent)
    assert UNKNOWN in Sightings.concatenate([before.train, before.gallery]).identity
    lists = veriwild / "VERI-Wild" / "train_test_split"
    for path in (lists / "train_list.txt", lists / "vehicle_info.txt"):
        path.write_text(path.read_text().replace("00001/", "-1/"))
    (veriwild / "VERI-Wild" / "images" / "00001").rename(veriwild / "VERI-Wild" / "images" / "-1")
    assert VeRiWild(str(veriwild), verbose=False).num_train_pids == 2
