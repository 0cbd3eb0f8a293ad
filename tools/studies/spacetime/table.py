"""All models on one data set: alone, and beside one or several appearance embeddings."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from torchreid_dfrst import retrieval
from torchreid_dfrst.evaluation import audit
from torchreid_dfrst.evaluation.audit import alone
from torchreid_dfrst.evaluation.weight import OMEGAS, choose_weight
from torchreid_dfrst.features import Extraction
from torchreid_dfrst.sightings import CameraNetwork, Sightings
from torchreid_dfrst.spatiotemporal.gap_model import GapModel, fuse

PAPER_OMEGA = 0.2
NOTE = (
    "In brackets: mAP by appearance alone on these lists, and omega. simulated N: drawn embeddings, at the difficulty "
    "that gives mAP N on VeRi-776's test lists or was given as N=DIFFICULTY; features: those of the file. omega 0.2: "
    "the paper's; auto and calibrated: chosen on held-out training vehicles; best on test: to judge these two by."
)
_log = logging.getLogger(__name__)


def beside(model: GapModel, run: Extraction, methods: Sequence[str] = ("map", "calibrated")) -> dict[str, Any]:
    """Fused scores of a fitted model: the paper's omega, the omega chosen on training vehicles, the best on test.

    The best omega on test is there to judge the choice; nothing is chosen by it.

    Raises:
        ValueError: the extraction lacks training sightings, their features or the camera network.
    """
    query, gallery = run.query.sightings, run.gallery.sightings
    appearance = retrieval.distance(*(retrieval.normalise(x.embedding) for x in (run.query, run.gallery)))
    transit = model.distance(query, gallery)

    def score(omega: float) -> dict[str, float]:
        return audit.percent(audit.rank(fuse(appearance, transit, omega), query, gallery))

    sweep = {omega: score(omega) for omega in OMEGAS}
    best = max(sweep, key=lambda omega: sweep[omega]["mAP"])
    result: dict[str, Any] = {
        "appearance": sweep[0.0],
        "paper": {"omega": PAPER_OMEGA, **score(PAPER_OMEGA)},
        "best_on_test": {"omega": best, **sweep[best]},
        "sweep": {str(omega): s["mAP"] for omega, s in sweep.items()},
    }
    train, network = needed(run)
    for method in methods:
        assert run.train_features is not None
        chosen = choose_weight(model, train, run.train_features, network, method=method)
        result["auto" if method == "map" else method] = {
            "omega": chosen.value,
            **score(chosen.value),
            **asdict(chosen),
        }
    return result


def needed(run: Extraction) -> tuple[Sightings, CameraNetwork]:
    """Training sightings and network of an extraction.

    Raises:
        ValueError: one of them or the training features is missing.
    """
    if run.train is None or run.network is None or run.train_features is None:
        lacking = [name for name in ("train", "train_features", "network") if getattr(run, name) is None]
        raise ValueError(f"the features file lacks {', '.join(lacking)}: extract it again with the training images")
    return run.train, run.network


def make(
    models: Sequence[GapModel],
    train: Sightings,
    query: Sightings,
    gallery: Sightings,
    network: CameraNetwork,
    runs: dict[str, Extraction],
) -> dict[str, Any]:
    """Fit every model and score it alone and beside every run; JSON types only."""
    result: dict[str, Any] = {}
    for model in models:
        model.fit(train, network)
        row = {"parameters": model.parameters, "alone": alone(model, query, gallery)}
        for name, run in runs.items():
            row[name] = beside(model, run)
            _log.info("%s beside %s: %s", model.name, name, row[name]["auto"]["mAP"])
        result[model.name] = row
    return result


def markdown(table: dict[str, Any]) -> str:
    """The table for a page: one line for each model, and below it what the columns are."""
    runs = [name for name in next(iter(table.values())) if name not in ("parameters", "alone")]
    head = ["model", "alone mAP / R1 / R5"]
    for name in runs:
        score = next(iter(table.values()))[name]["appearance"]["mAP"]
        head += [f"{name} ({score:.1f}) + omega 0.2", "+ auto (omega)", "+ calibrated (omega)", "best on test (omega)"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for model, row in table.items():
        cells = [model, " / ".join(f"{row['alone'][k]:.2f}" for k in ("mAP", "R1", "R5"))]
        for name in runs:
            cells.append(f"{row[name]['paper']['mAP']:.2f}")
            for kind in ("auto", "calibrated", "best_on_test"):
                cells.append(f"{row[name][kind]['mAP']:.2f} ({row[name][kind]['omega']:.3g})")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", NOTE] if runs else lines)
