"""What holds for every model: blocks, missing times, saving, refusals."""

import json
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import road, traffic

from torchreid_dfrst.sightings import CameraNetwork, Sightings
from torchreid_dfrst.spatiotemporal import MODELS, GapModel, build, fuse, load
from torchreid_dfrst.spatiotemporal.gap_model import learned
from torchreid_dfrst.spatiotemporal.gap_transit import Law

NAMES = sorted(MODELS)


OF_THE_PAIR_ALONE = {"likelihood": {"pooling": False, "relays": 0}}


@pytest.fixture(scope="module", params=NAMES)
def model(request):
    return build(request.param).fit(traffic(0, 80), road())


@pytest.fixture(scope="module", params=NAMES)
def pairwise(request):
    """Models whose distance depends on the two sightings only."""
    return build(request.param, **OF_THE_PAIR_ALONE.get(request.param, {})).fit(traffic(0, 80), road())


def columns(sightings):
    return sightings.camera.copy(), sightings.time_s.copy(), sightings.identity.copy()


def test_blocks_are_pieces_of_the_whole(model):
    query, gallery = traffic(1, 12), traffic(2, 30)
    whole, transit = model.distance(query, gallery), model.transit(query, gallery)
    assert transit.shape == whole.shape == (len(query), len(gallery))
    assert whole.dtype == np.float32 and np.isfinite(whole).all()
    assert transit.low <= whole.min() < whole.max() <= transit.high
    for rows, cols in ((slice(0, 5), slice(7, 20)), (slice(3, None), slice(None, -4)), (slice(2, 2), slice(0, 3))):
        np.testing.assert_allclose(transit.block(rows, cols), whole[rows, cols], rtol=1e-6)


def test_table_and_direct_evaluation_agree(pairwise):
    """A query that does not lie on the grid of frames switches the table off."""
    query, gallery = traffic(1, 200), traffic(2, 200)
    tables = pairwise.transit(query, gallery)
    off = Sightings(np.append(query.camera, 3), np.append(query.time_s, np.pi))
    direct = pairwise.transit(off, gallery)
    assert tables._table is not None and direct._table is None
    rows = slice(0, len(query))
    np.testing.assert_allclose(tables.block(rows, slice(None)), direct.block(rows, slice(None)), rtol=1e-5, atol=1e-6)


def test_another_default_type_of_torch_changes_nothing(pairwise):
    query, gallery = traffic(1, 200), traffic(2, 200)
    expected = pairwise.distance(query, gallery)
    torch.set_default_dtype(torch.float64)
    try:
        found = pairwise.distance(query, gallery)
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_array_equal(found, expected)


def test_one_curve_evaluated_alone_is_the_distance(pairwise):
    query, gallery = traffic(1, 5), traffic(2, 8)
    whole, row = pairwise.distance(query, gallery), pairwise.network.rows
    for i, a in enumerate(row(query.camera)):
        for j, b in enumerate(row(gallery.camera)):
            gap = np.float64(gallery.time_s[j] - query.time_s[i])
            expected = pairwise.law.offsets[a, b] + pairwise.curve(pairwise.law.numbers[a, b], gap)
            assert whole[i, j] == pytest.approx(float(expected), rel=1e-5, abs=1e-6)


def test_shifting_the_clock_of_all_cameras_changes_nothing(model):
    query, gallery = traffic(1, 10), traffic(2, 20)
    later = [Sightings(s.camera, s.time_s + 3600, s.identity) for s in (query, gallery)]
    np.testing.assert_allclose(model.distance(*later), model.distance(query, gallery), rtol=1e-4, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
@pytest.mark.parametrize("name", NAMES)
def test_any_times_give_finite_distances_within_the_bounds(name, seed):
    model = fitted(name)
    rng = np.random.default_rng(seed)
    lists = [
        Sightings(rng.choice([3, 5, 7, 9, 11], 15), rng.choice([0.0, 1e-9, 1.0, 1e4, 1e9], 15) * rng.normal(size=15))
        for _ in range(2)
    ]
    transit = model.transit(*lists)
    block = transit.block(slice(None), slice(None))
    assert np.isfinite(block).all() and transit.low <= block.min() and block.max() <= transit.high


def fitted(name, cache={}):  # noqa: B006
    if name not in cache:
        cache[name] = build(name).fit(traffic(0, 80), road())
    return cache[name]


def test_an_image_without_a_time_gets_the_documented_value(pairwise):
    query, gallery = traffic(1, 6), traffic(2, 9)
    time_s = gallery.time_s.copy()
    time_s[[2, 5]] = np.nan
    gappy = Sightings(gallery.camera, time_s, gallery.identity)
    whole, part = pairwise.distance(query, gallery), pairwise.distance(query, gappy)
    known = np.setdiff1d(np.arange(len(gallery)), [2, 5])
    np.testing.assert_allclose(part[:, known], whole[:, known], rtol=1e-5, atol=1e-6)
    a, b = pairwise.network.rows(query.camera), pairwise.network.rows(gallery.camera[[2, 5]])
    blind = pairwise.law.offsets + pairwise.law.unknown
    np.testing.assert_allclose(part[:, [2, 5]], blind[a[:, None], b], rtol=1e-6)
    np.testing.assert_allclose(pairwise.distance(gappy, query)[[2, 5]], blind[b][:, a], rtol=1e-6)


def test_lists_without_any_time_are_refused(model):
    blind = Sightings(np.array([3, 5]))
    with pytest.raises(ValueError, match=r"2 of 2 sightings of the gallery list have no time"):
        model.distance(traffic(1, 3), blind)
    with pytest.raises(ValueError, match="training list"):
        build(model.name).fit(blind, road())


def test_empty_lists_give_empty_distances(model):
    empty, some = traffic(1, 3)[:0], traffic(1, 3)
    assert model.distance(empty, some).shape == (0, len(some))
    assert model.distance(some, empty).shape == (len(some), 0)


def test_nothing_given_is_changed(model):
    query, gallery = traffic(1, 6), traffic(2, 9)
    before = [columns(s) for s in (query, gallery)]
    model.distance(query, gallery)
    for old, now in zip(before, (query, gallery), strict=True):
        for a, b in zip(old, columns(now), strict=True):
            np.testing.assert_array_equal(a, b)


def test_saved_and_loaded_is_the_same_model(model, tmp_path):
    query, gallery = traffic(1, 10), traffic(2, 20)
    model.save(tmp_path / "deep" / "model.json")
    again = load(tmp_path / "deep" / "model.json", road())
    assert type(again) is type(model) and again.options == model.options
    assert again.parameters == model.parameters and again.describe() == model.describe()
    np.testing.assert_array_equal(again.distance(query, gallery), model.distance(query, gallery))
    json.dumps(model.parameters)
    assert not list(tmp_path.rglob("*.part"))


def test_a_model_refuses_a_network_that_is_not_its_own(model, tmp_path):
    model.save(tmp_path / "model.json")
    with pytest.raises(ValueError, match="fitted on camera network"):
        load(tmp_path / "model.json", road(step_m=151.0))


def test_the_order_of_the_rows_of_a_network_does_not_count(model, tmp_path):
    """Its fingerprint is the same, so a saved model is accepted and must then give the same distances."""
    model.save(tmp_path / "model.json")
    ours, order = road(), np.array([3, 0, 4, 1, 2])
    other = CameraNetwork(ours.cameras[order], ours.distance_m[np.ix_(order, order)])
    query, gallery = traffic(1, 10), traffic(2, 20)
    again = load(tmp_path / "model.json", other)
    np.testing.assert_array_equal(again.distance(query, gallery), model.distance(query, gallery))


def test_unknown_names_lead_to_the_nearest_one():
    with pytest.raises(KeyError, match="did you mean 'lognormal'"):
        build("log-normal")
    with pytest.raises(KeyError, match="did you mean 'slope_t'"):
        build("lognormal", slop_t=5)


def test_a_model_that_is_not_fitted_says_so(tmp_path):
    for name in NAMES:
        with pytest.raises(ValueError, match="not fitted"):
            build(name).distance(traffic(1, 3), traffic(1, 3))
        with pytest.raises(ValueError, match="not fitted"):
            build(name).save(tmp_path / "x.json")


def test_a_camera_without_a_row_is_named(model):
    with pytest.raises(KeyError, match="camera 4 has no row"):
        model.distance(Sightings(np.array([4]), np.array([0.0])), traffic(1, 3))
    strange = Sightings(np.array([3, 4]), np.array([0.0, 9.0]), np.array([1, 1]))
    with pytest.raises(KeyError, match="camera 4 has no row"):
        build(model.name).fit(strange, road())


@pytest.mark.parametrize("name", NAMES)
def test_training_data_that_teach_nothing_are_refused(name):
    seen = traffic(0)
    with pytest.raises(ValueError, match="no vehicle among them was seen by two cameras"):
        build(name).fit(seen[seen.camera == 5], road())
    with pytest.raises(ValueError, match="nothing to fit"):
        build(name).fit(Sightings(seen.camera, seen.time_s), road())
    with pytest.raises(ValueError, match="at least two"):
        build(name).fit(seen, CameraNetwork(np.array([3]), np.zeros((1, 1))))
    with pytest.raises(ValueError, match="round the Earth"):
        build(name).fit(seen, road(step_m=1e9))
    with pytest.raises(ValueError, match="all distances between the 5 cameras are 0"):
        build(name, check_units=False).fit(seen, road(step_m=0.0))


@pytest.mark.parametrize(
    ("factor", "unit"),
    [(25.0, "frames at 25 a second"), (1000.0, "milliseconds"), (1 / 60, "minutes"), (1 / 3600, "hours")],
)
@pytest.mark.parametrize("name", NAMES)
def test_times_in_the_wrong_unit_are_recognised(name, factor, unit):
    seen = traffic(0)
    wrong = Sightings(seen.camera, seen.time_s * factor, seen.identity)
    with pytest.raises(ValueError, match=unit):
        build(name).fit(wrong, road())
    if factor > 1:
        build(name, check_units=False).fit(wrong, road())


@pytest.mark.parametrize(
    ("vehicles", "words"),
    [
        (40, ["the distances look like kilometres", "or the times look like milliseconds"]),
        (4, ["0.6 m apart by road: the distances look like kilometres (then 600 m)"]),
    ],
)
def test_road_distances_in_kilometres_are_recognised(vehicles, words):
    """The likelier mistake comes first; a handful of vehicles says nothing of the times."""
    seen, metres = traffic(0, vehicles), road()
    with pytest.raises(ValueError) as caught:
        build("provid").fit(seen, CameraNetwork(metres.cameras, metres.distance_m / 1000))
    place = [caught.value.args[0].index(word) for word in words]
    assert place == sorted(place)
    build("provid").fit(seen, metres)
    build("provid", check_units=False).fit(seen, CameraNetwork(metres.cameras, metres.distance_m / 1000))


def test_fusion_is_equation_six():
    rng = np.random.default_rng(0)
    appearance, transit = rng.random((3, 4), dtype=np.float32), rng.random((3, 4), dtype=np.float32)
    kept = appearance.copy()
    fused = fuse(appearance, transit, 0.2)
    for i in range(3):
        for j in range(4):
            assert fused[i, j] == pytest.approx(appearance[i, j] + 0.2 * transit[i, j], rel=1e-6)
    np.testing.assert_array_equal(fuse(appearance, transit, 0), appearance)
    np.testing.assert_array_equal(appearance, kept)
    with pytest.raises(ValueError, match="shape"):
        fuse(appearance, transit[:2], 0.2)
    for weight in (-0.1, np.nan, np.inf):
        with pytest.raises(ValueError, match="weight"):
            fuse(appearance, transit, weight)


@pytest.mark.parametrize("tick_s", [1.0, 0.0])
def test_single_pairs_are_the_same_as_in_their_block(pairwise, tick_s):
    query, gallery = traffic(1, 12), traffic(2, 30)
    if tick_s:
        query, gallery = (
            Sightings(s.camera, np.where(np.arange(len(s)) % 7, np.round(s.time_s / tick_s) * tick_s, np.nan))
            for s in (query, gallery)
        )
    transit = pairwise.transit(query, gallery)
    if not hasattr(transit, "pairs"):
        pytest.skip("this transit has blocks only")
    generator = np.random.default_rng(0)
    rows, columns = generator.integers(0, len(query), 200), generator.integers(0, len(gallery), 200)
    whole = transit.block(slice(0, len(query)), slice(0, len(gallery)))
    np.testing.assert_array_equal(transit.pairs(rows, columns), whole[rows, columns])


@pytest.mark.parametrize("tick_s", [0.2, 0.0])
def test_who_says_that_both_directions_are_one_is_right_to_the_last_bit(model, tick_s):
    images = traffic(3, 40, tick_s=tick_s)
    time_s = images.time_s.copy()
    time_s[::9] = np.nan
    images = Sightings(images.camera, time_s)
    transit = model.transit(images, images)
    said = getattr(transit, "symmetric", False)
    assert said == (model.name in ("lognormal", "provid", "transition"))
    if said:
        whole = transit.block(slice(0, len(images)), slice(0, len(images)))
        np.testing.assert_array_equal(whole, whole.T)
        np.testing.assert_array_equal(transit.block(slice(3, 17), slice(11, 40)), whole[11:40, 3:17].T)
    assert not getattr(model.transit(images, traffic(4, 12)), "symmetric", False)


def test_transition_has_two_directions_at_one_instant_where_one_takes_a_second():
    start = np.arange(24) * 500.0
    quick = np.where(np.arange(24) % 2, 60.0, 1.2) * np.random.default_rng(0).lognormal(0, 0.1, 24)
    camera = np.stack([np.where(np.arange(24) % 2, 5, 3), np.where(np.arange(24) % 2, 3, 5)], axis=1)
    train = Sightings(camera.ravel(), np.stack([start, start + quick], axis=1).ravel(), np.repeat(np.arange(24), 2))
    model = build("transition", check_units=False).fit(train, road())
    images = Sightings(np.array([3, 5]), np.array([7.0, 7.0]))
    transit = model.transit(images, images)
    there, back = transit.block(slice(0, 2), slice(0, 2))[[0, 1], [1, 0]]
    assert there != back and not transit.symmetric


NAMES_OF_CAMERAS = {3: "north gate", 5: "c001", 7: "bridge", 9: "tunnel", 11: "c2", 4: "car park"}


def named(sightings):
    return replace(sightings, camera_name=np.array([NAMES_OF_CAMERAS[c] for c in sightings.camera.tolist()]))


def test_messages_name_cameras_as_the_users_file_does(model, tmp_path):
    """Whether the names came with the road distances or with the sightings."""
    parked = named(Sightings(np.array([4]), np.array([0.0])))
    own = road()
    for network in (own, CameraNetwork(own.cameras, own.distance_m, [NAMES_OF_CAMERAS[c] for c in own.cameras])):
        fitted = build(model.name).fit(named(traffic(0, 80)), network)
        for lists in ((parked, traffic(1, 3)), (traffic(1, 3), parked)):
            with pytest.raises(KeyError) as caught:
                fitted.distance(*lists)
            assert "camera car park has no row" in caught.value.args[0]
            assert "which knows north gate, c001, bridge, tunnel, c2:" in caught.value.args[0]
    fitted.save(tmp_path / "model.json")
    again = load(tmp_path / "model.json", network)
    assert [again.network.called(c) for c in (3, 11)] == ["north gate", "c2"]
    content = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps({**content, "cameras": [3, 5, 7, 9, 9]}))
    with pytest.raises(ValueError) as caught:
        load(tmp_path / "model.json", network)
    assert "lists cameras [north gate, c001, bridge, tunnel, tunnel]" in caught.value.args[0]
    assert "its network has [north gate, c001, bridge, tunnel, c2]" in caught.value.args[0]


def test_training_lists_and_roads_that_are_refused_have_names():
    seen, metres = named(traffic(0)), road()
    with pytest.raises(KeyError, match="camera car park has no row"):
        build("provid").fit(Sightings.concatenate([seen, named(Sightings(np.array([4])))]), metres)
    far = metres.distance_m.copy()
    far[metres.rows(3), metres.rows(9)] = far[metres.rows(9), metres.rows(3)] = 5e7
    with pytest.raises(ValueError, match=r"from camera (north gate to tunnel|tunnel to north gate) is 5e"):
        build("provid").fit(seen, CameraNetwork(metres.cameras, far))


@dataclass(eq=False, kw_only=True)
class Days(GapModel):
    """What a newcomer writes: whether two sightings are of the same day."""

    name: ClassVar[str] = "days"
    length_s: float = 86400.0
    cameras: np.ndarray = learned("cameras", count=True)
    longest_s: float = learned(positive=True)

    def _learn(self, sightings, network):
        self.cameras = np.bincount(network.rows(sightings.camera), minlength=len(network))
        self.longest_s = float(np.ptp(sightings.time_s))

    def _law(self, network):
        return Law(network, self.curve, 0.5, (0.0, 1.0), symmetric=True)

    def curve(self, number, gap_s):
        return np.where(np.abs(gap_s) < self.length_s, 0.0, 1.0) + 0 * number

    def describe(self):
        return f"days of {self.length_s} s"


def test_a_new_model_is_one_class_and_a_row(monkeypatch, tmp_path):
    monkeypatch.setitem(MODELS, "days", Days)
    model = build("days", length_s=600.0).fit(traffic(0), road())
    images = traffic(3)
    far = np.abs(images.time_s[:, None] - images.time_s) >= 600
    assert far.any() and not far.all()
    np.testing.assert_array_equal(model.distance(images, images), far)
    assert model.transit(images, images).symmetric and model.parameters["longest_s"] == model.longest_s > 0
    model.save(tmp_path / "days.json")
    again = load(tmp_path / "days.json", road())
    assert again.options == model.options and again.fitted == model.fitted and model.cameras.sum() == len(traffic(0))
    content = json.loads((tmp_path / "days.json").read_text())
    for wrong, message in (
        ({"longest_s": -1}, "expected a positive number"),
        ({"cameras": [1.5] * 5}, "a whole number"),
    ):
        changed = {**content, "fitted": content["fitted"] | wrong}
        (tmp_path / "wrong.json").write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=message):
            load(tmp_path / "wrong.json", road())
