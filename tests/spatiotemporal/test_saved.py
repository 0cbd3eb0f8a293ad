"""A saved model that is damaged in whatever way is refused with one sentence: which file, what is wrong, what to do."""

import json

import numpy as np
import pytest
from worlds import road, traffic

from torchreid_dfrst.spatiotemporal import MODELS, build, load

NAMES = sorted(MODELS)
FITTED = {
    "lognormal": ["mu_s", "sigma_s", "mu_t", "sigma_t", "pairs"],
    "provid": ["longest_s", "longest_m"],
    "transition": ["mu", "sigma", "seen", "median_s"],
    "histogram": ["log_density", "seen"],
    "likelihood": ["evidence", "seen", "returns"],
}
EVERY_FIELD = [(name, field) for name in NAMES for field in FITTED[name]]
POSITIVE = {"sigma_s", "sigma_t", "longest_s", "longest_m", "sigma", "median_s", "returns"}
COUNTS = {"pairs", "seen"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """What each model writes, by name."""
    folder, contents = tmp_path_factory.mktemp("saved"), {}
    for name in NAMES:
        build(name).fit(traffic(0, 80), road()).save(folder / name)
        contents[name] = (folder / name).read_text()
    return contents


def refused(path, error=ValueError):
    """The message of a file that is refused, which is one line, names the file and says what to do."""
    with pytest.raises(error) as caught:
        load(path, road())
    text = caught.value.args[0]
    assert str(path) in text and "fit the model again and save it" in text
    assert "\n" not in text and len(text) < 500, "bytes or tables of the file are no explanation"
    return text


def refused_content(content, tmp_path, error=ValueError):
    path = tmp_path / "model.json"
    path.write_text(json.dumps(content))
    return refused(path, error)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_file_that_was_cut_off(saved, name, share, tmp_path):
    path = tmp_path / "model.json"
    path.write_text(saved[name][: int(share * len(saved[name]))])
    assert "stops being JSON in line 1, column" in refused(path)


@pytest.mark.parametrize(
    "raw", [b"\x89PNG\r\n\x1a\n\x00\xff", b"PK\x03\x04\x80\x81" * 2000], ids=["picture", "archive"]
)
def test_a_binary_file(raw, tmp_path):
    (tmp_path / "model.npz").write_bytes(raw)
    text = refused(tmp_path / "model.npz")
    assert "it is not text (byte" in text and "x89" not in text and "PK" not in text


@pytest.mark.parametrize("content", [None, [1, 2], 3, "model", {}, {"format": "torchreid_dfrst space-time model"}])
def test_json_of_something_else(content, tmp_path):
    words = "it has no format and version" if isinstance(content, dict) else "where names and values are"
    assert words in refused_content(content, tmp_path)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("change", "word"), [({"format": "other"}, "'other'"), ({"version": 99}, "version 99"), ({"version": "1"}, "'1'")]
)
def test_another_format(saved, name, change, word, tmp_path):
    assert word in refused_content({**json.loads(saved[name]), **change}, tmp_path)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("key", ["model", "network", "cameras", "options", "fitted", "habits"])
def test_a_section_that_is_missing_or_of_another_type(saved, name, key, tmp_path):
    content = json.loads(saved[name])
    assert f"has {key} NoneType" in refused_content({**content, key: None}, tmp_path)
    assert f"has {key} float" in refused_content({**content, key: 1.5}, tmp_path)
    del content[key]
    assert f"has no {key}" in refused_content(content, tmp_path)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("cameras", [[], [3, 5, 7, 9], [3, 5, 7, 9, 9], [3, 5, 7, 9, "11"], [[3, 5, 7, 9, 11]]])
def test_cameras_that_are_not_those_of_the_network(saved, name, cameras, tmp_path):
    content = {**json.loads(saved[name]), "cameras": cameras}
    assert "its network has [3, 5, 7, 9, 11]" in refused_content(content, tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_options(saved, name, tmp_path):
    content = json.loads(saved[name])
    for option, value in content["options"].items():
        without = {key: other for key, other in content["options"].items() if key != option}
        assert f"options lacks {option}" in refused_content({**content, "options": without}, tmp_path)
        other = {**content["options"], option: None}
        assert f"option {option} of {name} is None" in refused_content({**content, "options": other}, tmp_path)
        if isinstance(value, float):
            other[option] = np.nan
            assert refused_content({**content, "options": other}, tmp_path)
    refused_content({**content, "options": {**content["options"], "slop": 1}}, tmp_path, KeyError)
    refused_content({**content, "model": "other"}, tmp_path, KeyError)


def test_every_fitted_field_is_damaged_below(saved):
    for name in NAMES:
        assert sorted(json.loads(saved[name])["fitted"]) == sorted(FITTED[name])


@pytest.mark.parametrize(("name", "field"), EVERY_FIELD)
def test_a_fitted_field_that_is_missing_or_too_many(saved, name, field, tmp_path):
    content = json.loads(saved[name])
    value = content["fitted"].pop(field)
    assert field in refused_content(content, tmp_path)
    content["fitted"] |= {field: value, "other": 1.0}
    assert "fitted holds" in refused_content(content, tmp_path)


def put(value, new):
    """The same nested lists with another last number."""
    if not isinstance(value, list):
        return new
    return [*value[:-1], put(value[-1], new)]


NO_NUMBER = {"null": None, "text": "0.5", "names": {}, "long": 10**30, "nan": np.nan, "infinite": np.inf}
TOO_SMALL = {"zero": 0.0, "negative": -1}


@pytest.mark.parametrize(
    ("name", "field", "kind"),
    [
        (*place, kind)
        for place in EVERY_FIELD
        for kind in [*NO_NUMBER, *(TOO_SMALL if place[1] in POSITIVE | COUNTS else ())]
    ],
)
def test_a_number_that_no_fit_leaves(saved, name, field, kind, tmp_path):
    content = json.loads(saved[name])
    value = content["fitted"][field]
    content["fitted"][field] = put(value, (NO_NUMBER | TOO_SMALL)[kind])
    text = refused_content(content, tmp_path)
    last = str([size - 1 for size in np.shape(value)]) if np.shape(value) else ""
    assert f"{field}{last} " in text, "the place of the number is named"
    wanted = "a positive" if field in POSITIVE else "a whole" if field in COUNTS else "a finite"
    assert f"expected {wanted} number" in text


@pytest.mark.parametrize(("name", "field"), EVERY_FIELD)
def test_another_shape(saved, name, field, tmp_path):
    content = json.loads(saved[name])
    value, shape = content["fitted"][field], np.shape(content["fitted"][field])
    damaged = (
        [[value], [[1, 2], [3]], []] if not shape else [value[1:], [row[1:] for row in value], value[0], 1, [value]]
    )
    for other in damaged:
        changed = content["fitted"] | {field: other}
        text = refused_content({**content, "fitted": changed}, tmp_path)
        assert field in text and str(shape) in text
    if shape:
        ragged = [value[0][1:], *value[1:]]
        text = refused_content({**content, "fitted": {**content["fitted"], field: ragged}}, tmp_path)
        assert f"{field} has rows of different lengths" in text


def test_a_network_longer_than_what_provid_divides_by(saved, tmp_path):
    content = json.loads(saved["provid"])
    content["fitted"]["longest_m"] = 599.0
    assert "a road of the network has 600" in refused_content(content, tmp_path)


def test_whole_numbers_do_where_numbers_are_expected(saved, tmp_path):
    content = json.loads(saved["transition"])
    content["fitted"] |= {"median_s": 60, "mu": np.full((5, 5), 4).tolist()}
    (tmp_path / "model.json").write_text(json.dumps(content))
    model = load(tmp_path / "model.json", road())
    assert isinstance(model.median_s, float) and model.mu.dtype == np.float64 and (model.mu == 4).all()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json"):
        load(tmp_path / "nowhere.json", road())
