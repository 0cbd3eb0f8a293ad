"""Pictures of space and time: fitted laws over their data, omega, the logistic, the controls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from torchreid_dfrst.report.canvas import GREY, LINES, RED, write
from torchreid_dfrst.sightings import CameraNetwork, Sightings
from torchreid_dfrst.spatiotemporal.likelihood import Likelihood
from torchreid_dfrst.spatiotemporal.lognormal import LogNormal, logistic
from torchreid_dfrst.spatiotemporal.passes import one_per_pass, pairs_of_a_vehicle

WIDE, SQUARE = (9.0, 3.6), (6.5, 5.6)
DATA, LAW = "#b8c4d0", RED


def densities(model: LogNormal, train: Sightings, network: CameraNetwork, path: str | Path) -> None:
    """The paper's two laws over histograms of the training pairs they were fitted on, on logarithmic axes."""
    pairs, row = pairs_of_a_vehicle(train), network.rows(train.camera)
    metres = np.maximum(network.distance_m[row[pairs.first], row[pairs.second]], model.floor_m)
    gaps = np.maximum(np.abs(train.time_s[pairs.first] - train.time_s[pairs.second]), model.floor_s)
    figure = Figure(WIDE, layout="constrained")
    for axes, values, mu, sigma, name in zip(
        figure.subplots(1, 2),
        (metres, gaps),
        (model.mu_s, model.mu_t),
        (model.sigma_s, model.sigma_t),
        ("road distance, m", "time gap, s"),
        strict=True,
    ):
        log = np.log(values)
        axes.hist(log, bins=60, density=True, color=DATA, label=f"{len(values):,} pairs of images")
        x = np.linspace(log.min(), log.max(), 400)
        axes.plot(
            x, np.exp(-0.5 * ((x - mu) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi)), color=LAW, label="log-normal"
        )
        _log_ticks(axes, x)
        axes.set(xlabel=name, ylabel="density of the logarithm")
        axes.set_ylim(top=1.25 * axes.get_ylim()[1])
        axes.legend(frameon=False, loc="upper left", fontsize=8)
    write(figure, path)


def evidence(model: Likelihood, train: Sightings, network: CameraNetwork, path: str | Path) -> None:
    """Evidence of the likelihood model for its four busiest camera pairs, over the gaps it was counted from."""
    seen = one_per_pass(train)
    pairs, row, count = pairs_of_a_vehicle(seen), network.rows(seen.camera), len(network)
    first, second = np.concatenate([pairs.first, pairs.second]), np.concatenate([pairs.second, pairs.first])
    trip, gap = row[first] * count + row[second], seen.time_s[second] - seen.time_s[first]
    busiest = [k for k in np.argsort(-model.seen.ravel()) if k // count < k % count][:4]
    figure = Figure((9.0, 6.0), layout="constrained")
    for axes, k in zip(figure.subplots(2, 2).ravel(), busiest, strict=True):
        place = model.axis.position(gap[trip == k])
        axes.hist(place, bins=80, range=(0, model.bins - 1), color=DATA, label=f"{len(place)} pairs of passes")
        axes.set(ylabel="pairs of passes (bars)", xlabel="time from the first camera to the second, s (log beyond 5)")
        twin = axes.twinx()
        twin.plot(np.arange(model.bins), model.evidence[k], color=LAW, label="evidence, nats")
        twin.axhline(0, color=GREY, lw=0.6)
        twin.set_ylabel("evidence, nats (line)", color=LAW)
        marks = np.array([-1800, -300, -60, -10, 0, 10, 60, 300, 1800])
        axes.set_xticks(model.axis.position(marks), [f"{m:g}" for m in marks], fontsize=8)
        a, b = (network.called(network.cameras[place]) for place in divmod(k, count))
        axes.set_title(f"camera {a} to {b}, {network.distance_m[k // count, k % count]:.0f} m", fontsize=10)
    write(figure, path)


def omegas(table: dict[str, Any], folder: str | Path) -> None:
    """``omega`` for every appearance of a table that ``spatiotemporal.table.make`` made.

    Raises:
        ValueError: it is no such table, or as ``omega``.
    """
    rows = list(table.values()) if isinstance(table, dict) else []
    if not rows or not all(isinstance(row, dict) and "alone" in row for row in rows):
        raise ValueError(
            "this is not a table of space-time models: make one with tools.studies.spacetime table --out FILE"
        )
    for run in [key for key in rows[0] if key not in ("parameters", "alone")]:
        omega(table, run, Path(folder) / f"spacetime_omega_{run.replace(' ', '_')}.png")


def omega(table: dict[str, Any], run: str, path: str | Path) -> None:
    """MAP against omega for every model (the shape of Table XI), with the omega chosen on training vehicles.

    Raises:
        ValueError: the models were not tried with the same omegas.
    """
    grids = {name: list(row[run]["sweep"]) for name, row in table.items()}
    first = next(iter(grids))
    for name, grid in grids.items():
        if grid != grids[first]:
            raise ValueError(
                f"{name} was tried with {len(grid)} omegas up to {grid[-1]} beside {run}, {first} with "
                f"{len(grids[first])} up to {grids[first][-1]}: make the whole table in one run"
            )
    figure = Figure((7.5, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.set_prop_cycle(LINES)
    for name, row in table.items():
        sweep = {float(k): v for k, v in row[run]["sweep"].items()}
        x = [max(k, 0.012) for k in sweep]
        line = axes.plot(x, list(sweep.values()), ms=4, label=name)[0]
        axes.plot(
            row[run]["auto"]["omega"] or 0.012, row[run]["auto"]["mAP"], "o", ms=11, mfc="none", color=line.get_color()
        )
    axes.axvline(0.2, color="#888888", lw=0.8, ls=":")
    axes.text(0.2, axes.get_ylim()[0], " paper's 0.2", fontsize=8, va="bottom")
    axes.set(
        xscale="log",
        xlabel="omega (leftmost: 0)",
        ylabel="mAP, % (axis cut)",
        title=f"{run}; rings: chosen on training vehicles",
    )
    axes.legend(frameon=False)
    write(figure, path)


def logistic_family(path: str | Path) -> None:
    """The logistic of Eq. 4 and 5 for several slopes and offsets (Fig. 9)."""
    figure, x = Figure(WIDE, layout="constrained"), np.linspace(0, 1, 200)
    left, right = figure.subplots(1, 2)
    for slope in (0.5, 1, 2, 3, 4, 5, 6):
        left.plot(x, logistic(x, slope, 0.5), label=f"{slope:g}", color=matplotlib.colormaps["viridis"](slope / 6.5))
    for offset in (0, 0.25, 0.5, 0.75, 1):
        right.plot(
            x, logistic(x, 6.0, offset), label=f"{offset:g}", color=matplotlib.colormaps["viridis"](offset / 1.1)
        )
    for axes, title, what in ((left, "offset 0.5", "slope"), (right, "slope 6", "offset")):
        axes.set(xlabel="density p over its largest value", ylabel="distance D", title=title, ylim=(0, 1))
        axes.legend(frameon=False, fontsize=8, title=what)
    write(figure, path)


def _log_ticks(axes: Any, x: np.ndarray) -> None:
    marks = [m for m in (1, 3, 10, 30, 100, 300, 1000, 3000) if x.min() - 0.1 <= np.log(m) <= x.max() + 0.1]
    axes.set_xticks(np.log(marks), [str(m) for m in marks])
