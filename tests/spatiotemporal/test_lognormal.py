"""The paper's model against its equations, written out for one pair at a time."""

import math

import numpy as np
import pytest
from scipy import integrate, stats
from worlds import road, traffic

from torchreid_dfrst.sightings import Sightings
from torchreid_dfrst.spatiotemporal import build


def naive_fit(sightings, network, floor_m=10.0, floor_s=1.0):
    metres, seconds = [], []
    for i in range(len(sightings)):
        for j in range(i + 1, len(sightings)):
            if sightings.identity[i] == sightings.identity[j] and sightings.camera[i] != sightings.camera[j]:
                a, b = network.rows(sightings.camera[[i, j]])
                metres.append(math.log(max(network.distance_m[a, b], floor_m)))
                seconds.append(math.log(max(abs(sightings.time_s[i] - sightings.time_s[j]), floor_s)))
    return np.mean(metres), np.std(metres), np.mean(seconds), np.std(seconds)


def naive_term(x, mu, sigma, mode):
    p = stats.lognorm.pdf(x, s=sigma, scale=math.exp(mu))
    if mode:
        p /= stats.lognorm.pdf(math.exp(mu - sigma**2), s=sigma, scale=math.exp(mu))
    return 1 / (1 + math.exp(6 * (p - 0.5)))


@pytest.mark.parametrize("tick_s", [0.2, 0.0], ids=["frames", "any time"])
@pytest.mark.parametrize("density", ["mode", "raw"])
def test_distances_equal_the_equations(density, tick_s):
    network, train, test = road(), traffic(0, tick_s=tick_s), traffic(1, 30, tick_s=tick_s)
    model = build("lognormal", density=density).fit(train, network)
    mu_s, sigma_s, mu_t, sigma_t = naive_fit(train, network)
    assert (model.mu_s, model.sigma_s, model.mu_t, model.sigma_t) == pytest.approx((mu_s, sigma_s, mu_t, sigma_t))
    query, gallery = test[:40:8], test[::3]
    got = model.distance(query, gallery)
    raw = density == "raw"
    for i in range(len(query)):
        for j in range(len(gallery)):
            a, b = network.rows(np.array([query.camera[i], gallery.camera[j]]))
            delta, tau = max(network.distance_m[a, b], 10.0), max(abs(query.time_s[i] - gallery.time_s[j]), 1.0)
            d_s = naive_term(delta / 1000, mu_s - math.log(1000), sigma_s, False) if raw else None
            d_s = naive_term(delta, mu_s, sigma_s, True) if d_s is None else d_s
            assert got[i, j] == pytest.approx(d_s + naive_term(tau, mu_t, sigma_t, not raw), abs=1e-6)
    assert got.std() > 0.05, "a constant would prove nothing"


def test_raw_density_is_a_density_in_the_unit_it_names():
    for unit, metres in (("m", 1.0), ("km", 1000.0)):
        model = build("lognormal", density="raw", distance_unit=unit, floor_m=1e-6).fit(traffic(0), road())
        area = integrate.quad(
            lambda x, m=model, u=metres: m.density_of(np.array(x * u), "s"), 0, 1e5 / metres, limit=500
        )
        assert area[0] == pytest.approx(1, abs=1e-3)


def test_mode_density_peaks_at_one_at_the_mode():
    model = build("lognormal").fit(traffic(0), road())
    tau = np.exp(np.linspace(0, 9, 20001))
    p = model.density_of(tau, "t")
    assert p.max() == pytest.approx(1, abs=1e-6)
    assert tau[p.argmax()] == pytest.approx(math.exp(model.mu_t - model.sigma_t**2), rel=1e-3)


def test_a_plausible_trip_is_nearer_than_an_absurd_one():
    model = build("lognormal").fit(traffic(0), road())
    now, at_once, next_day = (
        Sightings(np.array([camera]), np.array([t])) for camera, t in ((3, 0), (5, 15), (5, 86400))
    )
    assert model.distance(now, at_once) < model.distance(now, next_day) - 0.5


@pytest.mark.parametrize(
    ("options", "error", "word"),
    [
        ({"density": "modus"}, KeyError, "mode"),
        ({"time_unit": "minutes"}, KeyError, "min"),
        ({"floor_s": 0.0}, ValueError, "floor_s"),
        ({"slope_t": -1.0}, ValueError, "slope_t"),
        ({"offset_s": np.nan}, ValueError, "offset_s"),
    ],
)
def test_options_out_of_range_are_refused(options, error, word):
    with pytest.raises(error, match=word):
        build("lognormal", **options)


def test_one_distance_only_cannot_be_fitted():
    with pytest.raises(ValueError, match="two different"):
        build("lognormal").fit(traffic(0, cameras=2), road(2))
