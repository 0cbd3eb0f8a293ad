"""The commands about space and time on small lists: what they print and draw is what the package computes."""

import json
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
from worlds import road, traffic, write_lists

from tools.studies.spacetime import camera_network, crossvalidate, pictures
from tools.studies.spacetime.__main__ import main as study
from tools.studies.spacetime.simulated import DIFFICULTY, appearance_map, extraction, level
from tools.studies.spacetime.table import markdown
from torchreid_dfrst import retrieval
from torchreid_dfrst.cli import main as dfrst
from torchreid_dfrst.data.veri776 import read_veri
from torchreid_dfrst.evaluation import audit
from torchreid_dfrst.evaluation.weight import OMEGAS, choose_weight, held_out
from torchreid_dfrst.report import canvas
from torchreid_dfrst.report import spacetime as report
from torchreid_dfrst.spatiotemporal import MODELS, build, fuse, load


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_lists(tmp_path_factory.mktemp("lists"))


def call(capsys, name, *words):
    """What ``dfrst`` or ``study`` prints; its exit code goes before the words it says on stderr."""
    words = [*map(str, words)]
    try:
        if name == "study":
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "argv", ["study", *words])
                study()
        else:
            dfrst([name, *words])
    except SystemExit as stop:
        return f"exit {stop.code}: {capsys.readouterr().err}"
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def made(root, tmp_path_factory):
    """The table of two appearances, and the folder of its pictures."""
    out = tmp_path_factory.mktemp("made")
    words = ["study", "table", "--root", str(root), "--simulated", "65", "50=1.5"]
    words += ["--out", str(out / "deep" / "table.json"), "--pictures", str(out / "pictures"), "--json"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", words)
        study()
    return out


def alone(model, query, gallery):
    return audit.rank(model.distance(query, gallery), query, gallery)


def read(made):
    return json.loads((made / "deep" / "table.json").read_text())


def test_the_table_has_every_model_alone_as_the_package_scores_it(root, made):
    data, table = read_veri(root, images=False), read(made)
    assert list(table) == list(MODELS)
    for name, row in table.items():
        model = build(name).fit(data.train, data.network)
        found = audit.percent(alone(model, data.query, data.gallery))
        assert {key: row["alone"][key] for key in found} == found
        assert list(row) == ["parameters", "alone", "simulated 65", "simulated 50"]
        assert row["parameters"] == json.loads(json.dumps(model.parameters))
    assert len({row["alone"]["mAP"] for row in table.values()}) == len(MODELS), "five models, five scores"


@pytest.mark.parametrize("name", ["lognormal", "histogram"])
def test_the_table_beside_appearance_is_equation_six(root, made, name):
    """Every omega of the sweep, the paper's and the chosen ones, each fused and ranked by itself."""
    data, row = read_veri(root, images=False), read(made)[name]["simulated 50"]
    lists = data.train, data.query, data.gallery
    run, model = extraction(*lists, data.network, 1.5), build(name).fit(data.train, data.network)
    appearance = retrieval.distance(*(retrieval.normalise(x.embedding) for x in (run.query, run.gallery)))
    transit = model.distance(data.query, data.gallery)

    def score(omega):
        return audit.percent(audit.rank(fuse(appearance, transit, omega), data.query, data.gallery))

    assert row["appearance"] == score(0.0)
    assert row["sweep"] == {str(omega): score(omega)["mAP"] for omega in OMEGAS}
    for kind, method in (("auto", "map"), ("calibrated", "calibrated")):
        chosen = choose_weight(model, data.train, run.train_features, data.network, method=method)
        assert row[kind]["omega"] == chosen.value and row[kind]["mAP"] == score(chosen.value)["mAP"]
    assert row["paper"] == {"omega": 0.2, **score(0.2)}
    best = max(row["sweep"].values())
    assert row["best_on_test"]["mAP"] == best == score(row["best_on_test"]["omega"])["mAP"]
    assert best > row["appearance"]["mAP"] + 1, "time must be worth something here"


def test_the_printed_table_is_the_json_and_says_what_its_columns_are(made):
    table = read(made)
    head, _, *rows, empty, note = markdown(table).splitlines()
    level = table["provid"]["simulated 50"]["appearance"]["mAP"]
    assert f"simulated 50 ({level:.1f}) + omega 0.2" in head and head.count("|") == 11
    for line, (name, row) in zip(rows, table.items(), strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        alone, auto = row["alone"], row["simulated 50"]["auto"]
        assert cells[:2] == [name, f"{alone['mAP']:.2f} / {alone['R1']:.2f} / {alone['R5']:.2f}"]
        assert cells[7] == f"{auto['mAP']:.2f} ({auto['omega']:.3g})"
    assert not empty
    for word in ("simulated N", "VeRi-776's", "In brackets", "auto", "calibrated", "best on test"):
        assert word in note


def drawn(module, monkeypatch):
    """Figures that a module writes, by file name, as well as the files."""
    figures = {}

    def write(figure, path):
        figures[path.name] = figure
        return canvas.write(figure, path)

    monkeypatch.setattr(module, "write", write)
    return figures


def test_the_picture_of_omega_has_every_model_and_rings_at_the_chosen_omega(made, tmp_path, monkeypatch):
    table, figures = read(made), drawn(pictures, monkeypatch)
    pictures.omegas(table, tmp_path)
    names = ["spacetime_omega_simulated_50.png", "spacetime_omega_simulated_65.png"]
    assert sorted(figures) == names == sorted(p.name for p in (made / "pictures").iterdir())
    axes = figures[names[0]].axes[0]
    curves, rings = axes.lines[: 2 * len(table) : 2], axes.lines[1 : 2 * len(table) : 2]
    assert [line.get_label() for line in curves] == list(table) and axes.get_xscale() == "log"
    for line, ring, row in zip(curves, rings, table.values(), strict=True):
        run = row["simulated 50"]
        np.testing.assert_array_equal(line.get_ydata(), [run["sweep"][str(omega)] for omega in OMEGAS])
        np.testing.assert_allclose(line.get_xdata()[1:], OMEGAS[1:])
        assert 0 < line.get_xdata()[0] < OMEGAS[1], "omega 0 is drawn to the left of all others"
        assert ring.get_xydata().tolist() == [[run["auto"]["omega"], run["auto"]["mAP"]]]
    assert axes.lines[-1].get_xdata()[0] == 0.2
    assert all((tmp_path / name).stat().st_size > 10_000 for name in names)


def test_a_picture_of_two_grids_of_omega_is_refused(made, tmp_path):
    table = read(made)
    del table["provid"]["simulated 65"]["sweep"][str(OMEGAS[-1])]
    with pytest.raises(
        ValueError, match=r"provid was tried with 27 omegas up to 8\.\d+ beside simulated 65, lognormal"
    ):
        pictures.omegas(table, tmp_path)


def test_the_line_of_appearance_alone_is_named_where_there_is_one(tmp_path, monkeypatch):
    figures, score = drawn(report, monkeypatch), {"mAP": 60.0}
    result = {key: {"0": score} for key in ("clock skew s", "wrong times", "cameras without training")}
    result |= {"as it is": score, "shuffled": dict.fromkeys(("times", "cameras", "both"), score)}
    for extra, names in (({}, ["provid"]), ({"appearance": {"mAP": 40.0}}, ["appearance alone", "provid"])):
        report.controls({"provid": result | extra}, tmp_path / "controls.png")
        (legend,) = figures["controls.png"].legends
        assert sorted(text.get_text() for text in legend.get_texts()) == names


@pytest.mark.parametrize("content", ["[]", "{}", '{"mAP": 3}', '{"a": {"mAP": 3}}'])
def test_pictures_refuse_json_that_is_no_table_before_they_start(content, tmp_path, capsys):
    (tmp_path / "card.json").write_text(content)
    words = "--root", tmp_path / "nowhere", "--table", tmp_path / "card.json", "--out", tmp_path
    assert "exit 2: error: this is not a table of space-time models" in call(capsys, "study", "pictures", *words)


def test_the_camera_network_says_what_dotted_lines_are(tmp_path, monkeypatch):
    figures = drawn(camera_network, monkeypatch)
    for trips, styles in ((1, {"-"}), (10**6, {":"})):
        model = build("transition", min_trips=trips).fit(traffic(0, 80), road())
        camera_network.camera_network(model, road(), tmp_path / "network.png")
        figure = figures["network.png"]
        assert {line.get_linestyle() for line in figure.axes[0].lines} == styles
        legend = {line.get_linestyle(): line.get_label() for line in figure.legends[0].get_lines()}
        assert legend["-"].startswith(f"{trips} trips or more") and legend[":"].startswith(
            f"fewer than {trips}: the law"
        )


def test_cross_validation_is_the_mean_over_held_out_vehicles(root, capsys, monkeypatch):
    tried = ({}, {"relays": 0, "pooling": False})
    monkeypatch.setattr(crossvalidate, "TRIED", tried)
    lines = [json.loads(line) for line in call(capsys, "study", "cross-validate", "--root", root).splitlines()]
    train, network = read_veri(root, images=False).train, road()
    assert [line["options"] for line in lines] == list(tried) and lines[0]["mAP"] != lines[1]["mAP"]
    for line, options in zip(lines, tried, strict=True):
        scores = []
        for fold in held_out(train, 3):
            assert not np.isin(train.identity[fold.query], train.identity[fold.fit]).any()
            model = build("likelihood", **options).fit(train[fold.fit], network)
            scores.append(100 * alone(model, train[fold.query], train[fold.gallery]).mAP)
        assert line["mAP"] == pytest.approx(np.mean(scores), abs=0.011)


def test_one_model_is_fitted_with_its_options_scored_and_saved(root, tmp_path, capsys):
    words = ["--root", root, "-t", "veri_format", "spacetime.model", "transition", "spacetime.options.depth", "5"]
    words.append("spacetime.options.estimate=likelihood")
    found = json.loads(call(capsys, "spacetime", *words, "--save", tmp_path / "model.json", "--json"))
    result = found["transition"]
    data, model = read_veri(root, images=False), load(tmp_path / "model.json", road())
    assert model.options["depth"] == result["depth"] == 5 and model.estimate == result["estimate"] == "likelihood"
    assert result["mAP"] == audit.percent(alone(model, data.query, data.gallery))["mAP"]
    text = call(capsys, "spacetime", *words)
    assert f"mAP {result['mAP']:.2f}, R1 {result['R1']:.2f}, R5 {result['R5']:.2f}" in text and model.describe() in text


def test_the_difficulty_that_is_found_gives_the_wanted_map(root, capsys):
    text = call(capsys, "study", "simulate", "--root", root, "--mAP", 60, 75)
    data = read_veri(root, images=False)
    found = re.findall(r"mAP (\d+): difficulty ([\d.]+) gives ([\d.]+); --simulated (\S+)", text)
    assert [float(wanted) for wanted, *_ in found] == [60, 75]
    for wanted, difficulty, reached, given in found:
        assert level(given) == (wanted, float(difficulty))
        got = appearance_map(extraction(data.train, data.query, data.gallery, data.network, float(difficulty)))
        assert got == pytest.approx(float(reached), abs=0.02) and got == pytest.approx(float(wanted), abs=2)
    assert float(found[0][1]) > float(found[1][1]), "a lower mAP is harder"


def test_a_map_that_no_difficulty_gives_is_refused(root, capsys):
    text = call(capsys, "study", "simulate", "--root", root, "--mAP", 101, 60, 0)
    assert text.startswith("exit 2: error: --mAP 101 0: simulated appearance reaches ")


def test_levels_are_those_of_veri_or_come_with_their_difficulty():
    assert [level(str(known)) for known in DIFFICULTY] == [(f"{k:g}", d) for k, d in DIFFICULTY.items()]
    assert level("50=1.25") == ("50", 1.25)
    with pytest.raises(ValueError, match=r"50: there are 84\.5, 65, 40; .*simulate --root DIR --mAP 50"):
        level("50")
    for text in ("much", "50=", "50=x", ""):
        with pytest.raises(ValueError, match="give a mAP in percent, or MAP=DIFFICULTY"):
            level(text)
    for text in ("50=-1", "50=nan", "50=inf"):
        with pytest.raises(ValueError, match="simulated appearance 50="):
            level(text)


def test_all_models_are_fitted_where_none_is_named(root, capsys):
    text = call(capsys, "spacetime", "--root", root, "-t", "veri_format")
    assert [line.split()[0] for line in text.splitlines()] == list(MODELS)
    data = read_veri(root, images=False)
    for line, name in zip(text.splitlines(), MODELS, strict=True):
        found = audit.percent(alone(build(name).fit(data.train, data.network), data.query, data.gallery))
        assert f"mAP {found['mAP']:.2f}, R1 {found['R1']:.2f}, R5 {found['R5']:.2f};" in line


def test_lists_and_a_features_file_of_them_are_one(root, tmp_path, capsys):
    data = read_veri(root, images=False)
    run = extraction(data.train, data.query, data.gallery, data.network, 1.5)
    replace(run, train_features=None).save(tmp_path / "f.npz")
    words = "--json", "spacetime.model", "histogram"
    printed = call(capsys, "spacetime", tmp_path / "f.npz", *words)
    assert printed == call(capsys, "spacetime", "--root", root, "-t", "veri_format", *words)
    replace(run, train=None, train_features=None).save(tmp_path / "g.npz")
    assert "g.npz has no training sightings" in call(capsys, "spacetime", tmp_path / "g.npz", *words)


FROM_ROOT = ("--root", "nowhere", "-t", "veri_format")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("spacetime",), "give either a features file or --root DIR -t NAME"),
        (("spacetime", *FROM_ROOT, "nowhere.npz"), "give either a features file or --root DIR -t NAME"),
        (("spacetime", "--root", "nowhere"), "--root DIR and -t NAME go together"),
        (("spacetime", "nowhere.npz"), "no features at nowhere.npz"),
        (("spacetime", "--root", "nowhere", "-t", "veri77"), "no data set 'veri77' (did you mean 'veri776'?)"),
        (("spacetime", *FROM_ROOT), "name_train.txt"),
        (("spacetime", "ROOT", "spacetime.model", "lognorm"), "did you mean 'lognormal'"),
        (("spacetime", "ROOT", "spacetime.options.relays", "0"), "options are those of one model"),
        (("spacetime", "ROOT", "spacetime.model=likelihood", "spacetime.options.relay", "0"), "did you mean 'relays'"),
        (("spacetime", "ROOT", "spacetime.weight", "1"), "unknown key 'weight' in section 'spacetime'"),
        (("spacetime", "ROOT", "spacetime.model"), "'spacetime.model' has no value"),
        (("spacetime", "ROOT", "--save", "x.json"), "--save writes one model"),
        (("audit",), "give either a features file or --root DIR -t NAME"),
        (("audit", "ROOT", "spacetime.weight", "0.2"), "weighs space and time against appearance: it needs a features"),
        (("audit", "ROOT", "spacetime.weight", "auto"), "spacetime.weight is 'auto', expected a number"),
        (("audit", "ROOT", "spacetime.model", "lognorm"), "did you mean 'lognormal'"),
        (("study",), "the following arguments are required"),
        (("study", "table"), "one of the arguments --root --features is required"),
        (("study", "table", "--root", "nowhere", "--features", "x.npz"), "not allowed with argument"),
        (("study", "table", "--features", "x.npz", "--simulated", "65"), "a features file has its own"),
        (("study", "table", "--root", "nowhere", "--simulated", "50"), "there are 84.5, 65, 40"),
        (("study", "cross-validate", "--root", "nowhere", "--simulated", "65"), "unrecognized arguments"),
    ],
)
def test_what_would_be_ignored_is_refused(words, message, root, capsys):
    given = [part for word in words for part in (["--root", root, "-t", "veri_format"] if word == "ROOT" else [word])]
    text = call(capsys, *given)
    assert text.startswith("exit 2: ") and message in text
