"""Options of single data sets: from a configuration or a command line to the data set, by name and type."""

from urllib.error import URLError

import pytest
import torchreid

from torchreid_dfrst import config, evaluation, training
from torchreid_dfrst.data import DATASETS
from torchreid_dfrst.data.manager import DataManager, known_options, share_options
from torchreid_dfrst.doctor import check_dataset
from torchreid_dfrst.evaluation import protocols
from torchreid_dfrst.retrieval import Extraction, Features
from torchreid_dfrst.torchreid_tables import make_dataset

SMALL = {"height": 32, "width": 32, "workers": 0, "batch_size_train": 2, "num_instances": 2, "use_gpu": False}


def manager(root, name, **keywords):
    return DataManager(
        root=str(root), sources=name, transforms=None, train_sampler="RandomSampler", **SMALL, **keywords
    )


@pytest.mark.parametrize(("name", "known"), [
    ("vehicleid", {"reverse"}), ("vehicleid2400", {"reverse"}), ("veriwild5000", {"time_format"}),
    ("cityflow", {"hold_out"}), ("veri776", set()), ("table", {"cameras", "time_format"}), ("market1501", set()),
])  # fmt: skip
def test_options_are_those_of_the_signature(name, known):
    assert set(known_options(name)) == known


def test_each_option_goes_to_the_data_sets_that_take_it():
    given = {"reverse": True, "hold_out": 3}
    assert share_options(given, ["cityflow", "veri776", "vehicleid", "vehicleid1600", "cityflow"]) == {
        "cityflow": {"hold_out": 3}, "vehicleid": {"reverse": True}, "vehicleid1600": {"reverse": True},
    }  # fmt: skip
    assert share_options(None, ["veri776"]) == {}


@pytest.mark.parametrize(("options", "name", "error", "message"), [
    ({"revers": True}, "vehicleid", KeyError, "did you mean 'reverse'"),
    ({"reverse": True}, "veri776", KeyError, "nor any other"),
    ({"split_id": 2}, "vehicleid", KeyError, "no option 'split_id'"),
    ({"reverse": "maybe"}, "vehicleid", ValueError, "true or false"),
    ({"hold_out": 2.5}, "cityflow", ValueError, "a whole number"),
])  # fmt: skip
def test_what_no_data_set_takes_is_refused(options, name, error, message):
    with pytest.raises(error, match=message):
        share_options(options, [name])


def test_torchreids_data_manager_builds_with_options(cityflow, vehicleid):
    assert len(manager(cityflow, "cityflow", options={"hold_out": 3}).test_sets["cityflow"].gallery) == 8
    assert len(manager(cityflow, "cityflow").test_sets["cityflow"].gallery) == 4, "only while it was asked for"
    test = manager(vehicleid, "vehicleid", options={"reverse": True}).test_sets["vehicleid"]
    assert len(test.query) == 5 < len(test.gallery)


def test_a_configuration_sets_them(cityflow):
    words = ["data.options", "{hold_out: 3}", "data.root", str(cityflow)]
    data = config.load(None, words, training.sections())["data"]
    assert manager(data.pop("root"), "cityflow", **data).num_train_pids == 4
    with pytest.raises(ValueError, match=r"data\.options is 3"):
        config.load(None, ["data.options", "3"], training.sections())
    with pytest.raises(KeyError, match="did you mean 'hold_out'"):
        manager(cityflow, "cityflow", options={"holdout": 3})


def test_the_doctor_takes_them(veriwild, caplog):
    path = veriwild / "VERI-Wild" / "train_test_split" / "vehicle_info.txt"
    path.write_text(path.read_text().replace("2018-03-11 ", "11.03.2018 at "))
    assert "cannot be read" in check_dataset("veriwild", veriwild).text()
    assert "cannot be read" not in check_dataset("veriwild", veriwild, time_format="%d.%m.%Y at %H:%M:%S").text()
    with pytest.raises(KeyError, match="did you mean 'time_format'"):
        check_dataset("veriwild", veriwild, timeformat="%d")


@pytest.mark.parametrize(("reverse", "protocol"), [(False, "vehicleid"), (True, "vehicleid-reversed")])
def test_features_made_the_other_way_round_are_scored_so(vehicleid, reverse, protocol):
    import numpy as np

    made = DATASETS["vehicleid"](str(vehicleid), reverse=reverse, verbose=False).sightings
    query, gallery = (
        Features(np.random.default_rng(0).normal(size=(len(p), 3)), p) for p in (made["query"], made["gallery"])
    )
    source = {"data": "vehicleid", "options": {"reverse": reverse}}
    result = evaluation.score(Extraction(query, gallery, source=source), {"model": None}, {"k1": 3, "k2": 2})
    assert result.protocol == protocols.PROTOCOLS[protocol]


def test_a_warning_is_said_once_however_often_the_data_set_is_built(veriwild, caplog):
    manager(veriwild, "veriwild")
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert any("1 of 2 queries" in text for text in said) and len(said) == len(set(said))
    manager(veriwild, "veriwild")
    assert sum("1 of 2 queries" in record.getMessage() for record in caplog.records) == 2, "once per data manager"


def test_a_misspelt_data_set_is_named(tmp_path):
    with pytest.raises(KeyError, match="did you mean 'veriwild'"):
        manager(tmp_path, "verywild")


def test_a_data_set_of_torchreid_that_is_not_there_is_said(tmp_path, monkeypatch):
    """torchreid would download it, and raises what is no error of ours where it cannot."""

    def refuse(*_):
        raise URLError("no network")

    monkeypatch.setattr(torchreid.data.datasets.dataset, "download_url", refuse)
    for said in ("no network", "is not found"):  # torchreid leaves an empty folder behind
        with pytest.raises(OSError, match=rf"market1501 is not whole below .*, and torchreid cannot get it.*{said}"):
            make_dataset("market1501", str(tmp_path))
