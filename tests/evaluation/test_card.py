"""The card says everything, survives the disk, and cards compare only where they may."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from torchreid_dfrst.evaluation.card import Card, Result, make_card
from torchreid_dfrst.evaluation.compare_cards import compare, differences, paired, text
from torchreid_dfrst.evaluation.protocols import build
from torchreid_dfrst.names import without_common_folder
from torchreid_dfrst.retrieval import Extraction, Features, distance, normalise
from torchreid_dfrst.sightings import CameraNetwork, Sightings, fingerprint


def extraction(folder="/data", noise=1.0, seed=0):
    """Twelve vehicles before four cameras; vehicle 11 has one camera, vehicles 98 and 99 are not in the gallery."""
    rng = np.random.default_rng(7)
    identity, camera = np.repeat(np.arange(12), 8), np.tile(np.arange(4), 24)
    camera[identity == 11] = 0
    looks = rng.normal(size=(100, 8))
    q_identity, q_camera = np.append(np.arange(12), [98, 99]), np.zeros(14, dtype=int)
    path = np.array([f"{folder}/gallery/{i}_{row}.jpg" for row, i in enumerate(identity)])
    q_path = np.array([f"{folder}/query/{i}.jpg" for i in q_identity])
    generator = np.random.default_rng(seed)
    gallery = Features(
        looks[identity] + noise * generator.normal(size=(96, 8)),
        Sightings(camera, rng.uniform(0, 99, 96), identity, identity * 4 + camera, path),
    )
    query = Features(
        looks[q_identity] + noise * generator.normal(size=(14, 8)),
        Sightings(q_camera, rng.uniform(0, 99, 14), q_identity, path=q_path),
    )
    train = Sightings(np.array([0, 1]), np.array([0.0, 9.0]), np.array([50, 50]))
    network = CameraNetwork(np.arange(4), 100.0 * abs(np.subtract.outer(np.arange(4), np.arange(4))))
    return Extraction(query, gallery, train, network=network, source={"data": "toy", "model": "none"})


def carded(features, protocol=None, rows=("appearance",), weight=0.0):
    protocol = protocol or build()
    pairs = list(protocol.pairs(features.query, features.gallery))
    found = {row: [] for row in rows}
    for number, row in enumerate(rows):
        for q, g in pairs:
            table = distance(normalise(q.embedding), normalise(g.embedding))
            noise = np.random.default_rng(5).random(table.shape) * weight * number
            found[row].append(protocol.score(table + noise, q.sightings, g.sightings))
    sightings = [(q.sightings, g.sightings) for q, g in pairs]
    result = Result(protocol, found, sightings, {"distance": "Euclidean"}, {}, features, {}, None)
    return make_card(result, features, "evaluate.py x"), found


def test_the_card_says_everything():
    card, found = carded(extraction(), rows=("appearance", "worse"), weight=2.0)
    content = json.loads(json.dumps(card.content))
    assert content["rows"]["appearance"]["mAP"] == pytest.approx(100 * found["appearance"][0].mAP, abs=1e-4)
    assert content["rows"]["appearance"]["R5"] == pytest.approx(100 * found["appearance"][0].rank(5), abs=1e-4)
    assert content["rows"]["worse"]["mAP"] < content["rows"]["appearance"]["mAP"] - 5
    for row in content["rows"].values():
        for measure, (low, high) in row["interval"].items():
            assert low <= row[measure] <= high
            assert 0 <= low <= high <= 100
    assert content["queries"] == {
        "used": 11,
        "skipped": 3,
        "why": {"vehicle not in the gallery": 2, "vehicle seen by the query's own camera only": 1},
        "examples": ["11.jpg", "98.jpg", "99.jpg"],
    }
    assert content["data"]["gallery"] == {"images": 96, "vehicles": 12, "cameras": 4}
    assert content["protocol"]["average_precision"] == "precision"
    assert content["embedding"] == 8 and content["source"]["model"] == "none"
    assert content["command"] == "evaluate.py x" and content["date"].endswith("+00:00")
    assert {"torchreid_dfrst", "python", "numpy", "torch"} <= set(content["versions"])


def test_saved_and_loaded_it_is_the_same(tmp_path):
    card, _ = carded(extraction())
    card.save(tmp_path / "runs" / "card.json")
    loaded = Card.load(tmp_path / "runs" / "card.json")
    assert {key: loaded.content[key] for key in card.content} == card.content
    for name, column in card.queries.items():
        np.testing.assert_array_equal(loaded.queries[name], column)
    assert loaded.table() == card.table()
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"card.json", "card.queries.npz"}


def test_the_table_shows_intervals_and_what_was_skipped():
    card, _ = carded(extraction())
    shown = card.table()
    assert "95 %" in shown and "2 skipped: vehicle not in the gallery" in shown and "11 queries used of 14" in shown
    assert "(standard deviation)" in carded(extraction(), build("vehicleid", draws=3))[0].table()


def test_draws_have_a_mean_and_a_deviation():
    protocol = build("vehicleid", draws=5)
    card, found = carded(extraction(), protocol)
    maps = [100 * metrics.mAP for metrics in found["appearance"]]
    row = card.content["rows"]["appearance"]
    assert row["mAP"] == pytest.approx(np.mean(maps), abs=1e-3)
    assert row["deviation"]["mAP"] == pytest.approx(np.std(maps, ddof=1), abs=1e-3)
    assert np.std(maps) > 0
    for number, metrics in enumerate(found["appearance"]):
        mine = card.queries["draw"] == number
        used = metrics.average_precision[metrics.first_match > 0]
        np.testing.assert_array_equal(card.queries["appearance/mAP"][mine], used)
    vehicles = [int(Path(path).name.split("_")[0].removesuffix(".jpg")) for path in card.queries["path"].tolist()]
    assert vehicles == card.queries["identity"].tolist()


def test_the_fingerprint_is_of_the_data_not_of_where_it_lies():
    a, b = extraction("/data"), extraction("/elsewhere/veri", noise=3.0)
    cards = [carded(features)[0] for features in (a, b)]
    assert cards[0].content["data"]["fingerprint"] == cards[1].content["data"]["fingerprint"]
    part = a.gallery.sightings
    order = np.random.default_rng(0).permutation(len(part))
    assert fingerprint([part]) == fingerprint([part[order]])
    others = [fingerprint([part[:-1]]), fingerprint([part], a.network)]
    for column in ("camera", "identity", "time_s"):
        values = {name: getattr(part, name).copy() for name in ("camera", "time_s", "identity", "track", "path")}
        values[column][3] += 1
        others.append(fingerprint([Sightings(**values)]))
    assert len({fingerprint([part]), *others}) == 6


def test_how_images_were_split_does_not_change_the_fingerprint_of_draws():
    features = extraction()
    everything = Sightings.concatenate([features.query.sightings, features.gallery.sightings])
    embedding = np.concatenate([features.query.embedding, features.gallery.embedding])
    other = Extraction(
        Features(embedding[:40], everything[:40]), Features(embedding[40:], everything[40:]), network=features.network
    )
    protocol = build("vehicleid", draws=2)
    a, b = (carded(f, protocol)[0] for f in (features, other))
    assert a.content["data"]["fingerprint"] == b.content["data"]["fingerprint"]
    np.testing.assert_array_equal(a.queries["appearance/mAP"], b.queries["appearance/mAP"])


def test_comparable_cards_are_ranked_and_tested():
    good, bad = (carded(extraction(noise=noise))[0] for noise in (0.5, 2.0))
    result = compare({"bad": bad, "good": good})
    (group,) = result["groups"]
    assert not result["differences"]
    assert [entry["card"] for entry in group["ranking"]] == ["good", "bad"]
    (entry,) = group["tests"]
    assert (entry["a"], entry["b"]) == ("good: appearance", "bad: appearance")
    rows = [card.content["rows"]["appearance"]["mAP"] for card in (good, bad)]
    assert entry["test"]["difference"] == pytest.approx(rows[0] - rows[1], abs=1e-3)
    assert entry["test"]["interval"][0] > 0 and entry["test"]["p_vehicles"] < 0.05
    assert "good: appearance - bad: appearance: mAP +" in text(result, {"bad": bad, "good": good})


def test_queries_without_paths_are_still_one_each():
    def without_paths(features):
        return replace(features, sightings=replace(features.sightings, path=np.full(len(features), "")))

    named = [extraction(noise=noise) for noise in (0.8, 1.2)]
    bare = [replace(e, query=without_paths(e.query), gallery=without_paths(e.gallery)) for e in named]
    expected, found = (paired(*[x for e in pair for x in (carded(e)[0], "appearance")]) for pair in (named, bare))
    assert found == expected
    assert found["queries"] == 11


def test_of_several_trainings_a_query_counts_with_its_mean():
    one, other = ([carded(extraction(noise=noise, seed=seed))[0] for seed in (0, 1)] for noise in (0.8, 1.2))
    single = [paired(a, "appearance", b, "appearance") for a, b in zip(one, other, strict=True)]
    both = paired(one, "appearance", other, "appearance")
    assert single[0]["difference"] != single[1]["difference"]
    assert both["difference"] == pytest.approx((single[0]["difference"] + single[1]["difference"]) / 2, abs=1e-3)
    assert both["queries"] == 11


def test_rows_of_one_card_are_tested_against_its_first():
    card, _ = carded(extraction(), rows=("appearance", "worse"), weight=2.0)
    (group,) = compare({"one": card})["groups"]
    assert [entry["a"] for entry in group["tests"]] == ["one: worse"]
    assert group["tests"][0]["test"]["difference"] < 0


@pytest.mark.parametrize(
    ("other", "word"),
    [
        (lambda: carded(extraction(), build("image-to-track-min"))[0], "tracks is None and 'min'"),
        (lambda: carded(extraction(), build(average_precision="trapezoid"))[0], "average_precision"),
        (lambda: carded(extraction(), build("vehicleid-reversed", draws=2))[0], "one_image"),
        (lambda: carded(Extraction(extraction().query, extraction().gallery))[0], "not the same images"),
    ],
)
def test_incomparable_cards_are_not_ranked(other, word):
    cards = {"a": carded(extraction())[0], "b": other(), "c": carded(extraction(noise=2))[0]}
    result = compare(cards)
    assert [group["cards"] for group in result["groups"]] == [["a", "c"], ["b"]]
    assert any(word in difference for difference in result["differences"])
    assert "NOT COMPARABLE" in text(result, cards)


def test_the_same_protocol_by_another_name_compares():
    assert not differences(carded(extraction())[0], carded(extraction(), build("veriwild"))[0])


def test_without_the_queries_there_is_no_paired_test(tmp_path):
    card, _ = carded(extraction())
    card.save(tmp_path / "a.json")
    (tmp_path / "a.queries.npz").unlink()
    lost = Card.load(tmp_path / "a.json")
    assert paired(lost, "appearance", card, "appearance") is None
    assert "no paired test" in text(compare({"x": card, "y": lost}), {"x": card, "y": lost})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "stops being JSON"),
        ("[1]", "no result card"),
        ('{"format": "other"}', "no result card"),
        (b"\xff\xfe\x00", "it is not text"),
    ],
)
def test_a_file_that_is_no_card(tmp_path, content, message):
    path = tmp_path / "card.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        Card.load(path)


def test_no_card_and_queries_of_another_card(tmp_path):
    with pytest.raises(FileNotFoundError, match="dfrst evaluate"):
        Card.load(tmp_path / "card.json")
    carded(extraction())[0].save(tmp_path / "a.json")
    carded(extraction(noise=2))[0].save(tmp_path / "b.json")
    (tmp_path / "b.queries.npz").rename(tmp_path / "a.queries.npz")
    with pytest.raises(ValueError, match="does not belong"):
        Card.load(tmp_path / "a.json")


def test_the_command(tmp_path, capsys):
    from torchreid_dfrst.cli import main

    for name, noise in (("a", 0.5), ("b", 2.0)):
        carded(extraction(noise=noise))[0].save(tmp_path / f"{name}.json")
    carded(extraction(), build("image-to-track-min"))[0].save(tmp_path / "c.json")
    main(["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--json"])
    assert len(json.loads(capsys.readouterr().out)["groups"]) == 1
    with pytest.raises(SystemExit) as ended:
        main(["compare", str(tmp_path / "a.json"), str(tmp_path / "c.json")])
    assert ended.value.code == 1 and "NOT COMPARABLE" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["compare", str(tmp_path / "none.json")])
    assert ended.value.code == 2 and "no result card" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["/a/b/c.jpg", "/a/b/d.jpg"], ["c.jpg", "d.jpg"]),
        (["/a/b/c.jpg", "/a/bb/c.jpg"], ["b/c.jpg", "bb/c.jpg"]),
        (["C:\\x\\1.jpg", "C:\\x\\2.jpg"], ["1.jpg", "2.jpg"]),
        (["c.jpg"], ["c.jpg"]),
        (["/a/c.jpg"], ["c.jpg"]),
        ([], []),
        (["", ""], ["", ""]),
    ],
)
def test_names_lose_the_common_folder(given, expected):
    assert without_common_folder(np.array(given, dtype=str)).tolist() == expected


def test_few_vehicles_have_no_interval_and_no_test():
    few = extraction()
    few = replace(few, query=few.query[few.query.sightings.identity < 9])
    card, _ = carded(few, rows=("appearance", "worse"), weight=2.0)
    assert card.content["vehicles"] == 9
    assert set(card.content["rows"]["worse"]["interval"].values()) == {None}
    assert "intervals: none, for 9 vehicles are too few: 10 at least" in card.table()
    shown = text(compare({"one": card}), {"one": card})
    assert "one: worse - one: appearance: mAP -" in shown and "(9 vehicles are too few: 10 at least)" in shown


def test_a_test_says_how_many_vehicles_it_rests_on():
    card, _ = carded(extraction(), rows=("appearance", "worse"), weight=2.0)
    shown = text(compare({"one": card}), {"one": card})
    assert "over 11 vehicles" in shown and "queries" not in shown
    assert text(compare({"a": card, "b": card}), {"a": card, "b": card}).count("+0.00 (the same for every query)") == 2
