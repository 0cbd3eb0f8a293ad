"""From a trained model to features, and from features to four rows: appearance, + ST, + re-ranking, + both."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from torchreid_dfrst import retrieval, spatiotemporal
from torchreid_dfrst.config import keywords
from torchreid_dfrst.retrieval import Extraction, Metrics
from torchreid_dfrst.sightings import Sightings
from torchreid_dfrst.spatiotemporal.model import GapModel
from torchreid_dfrst.version import __version__

APPEARANCE, FUSED, RERANKED, BOTH = "appearance", "+ ST", "+ re-ranking", "+ ST + re-ranking"
ROWS = (APPEARANCE, FUSED, RERANKED, BOTH)


def sections() -> dict[str, list[str]]:
    """The configuration of scoring: section to valid keys."""
    return {
        "spacetime": [*keywords(fit_transit), "weight"],
        "rerank": keywords(retrieval.rerank, leave_out=("transit", "weight")),
        "evaluate": keywords(retrieval.evaluate),
    }


@dataclass(frozen=True, eq=False)
class Result:
    """The rows of one evaluation.

    Args:
        metrics: row name (see ``ROWS``) to its metrics.
        distance: row name to ``(Q, G)`` float32 distances.
        transit: the fitted space-time model, None where the result is by appearance alone.
        choices: every option that had a say, JSON types only.
    """

    metrics: dict[str, Metrics]
    distance: dict[str, np.ndarray]
    transit: GapModel | None
    choices: dict[str, Any]


def fit_transit(
    extraction: Extraction, model: str | None = "lognormal", options: Mapping[str, Any] | None = None
) -> GapModel | None:
    """Fit a space-time model on the training sightings that came with the features.

    Args:
        extraction: features, training sightings and road distances.
        model: a name in ``spatiotemporal.MODELS``; None for appearance alone.
        options: the model's own keyword arguments.

    Raises:
        ValueError: times or road distances are missing; the message says how to go on by appearance alone.
        KeyError: an unknown model or option.
    """
    if model is None:
        return None
    what = str(extraction.source.get("data", "these features"))
    advice = "; `spacetime.model null` scores by appearance alone"
    if extraction.train is None or extraction.network is None:
        missing = "training sightings" if extraction.train is None else "road distances between its cameras"
        raise ValueError(f"space and time were asked for, but {what} came without {missing}{advice}")
    for name, part in (
        ("training", extraction.train),
        ("query", extraction.query.sightings),
        ("gallery", extraction.gallery.sightings),
    ):
        try:
            part.require_times(f"the {name} split of {what}")
        except ValueError as error:
            raise ValueError(f"{error}{advice}") from None
    return spatiotemporal.build(model, **(options or {})).fit(extraction.train, extraction.network)


def score(
    extraction: Extraction,
    spacetime: Mapping[str, Any] | None = None,
    rerank: Mapping[str, Any] | None = None,
    evaluate: Mapping[str, Any] | None = None,
) -> Result:
    """Rank the gallery for every query in up to four ways and score each by the junk rule.

    Args:
        extraction: query and gallery features, and what space and time are fitted on.
        spacetime: ``model``, ``options`` (see ``fit_transit``) and ``weight``, the omega of Eq. 6 (default 0.2).
        rerank: keyword arguments of ``retrieval.rerank``.
        evaluate: keyword arguments of ``retrieval.evaluate``.

    Raises:
        ValueError: something the parts cannot work with; see theirs.
        KeyError: an unknown name.
    """
    spacetime = dict(spacetime or {})
    weight = float(spacetime.pop("weight", 0.2))
    model = fit_transit(extraction, **spacetime)
    query, gallery = extraction.query, extraction.gallery
    rows, columns = retrieval.normalise(query.embedding), retrieval.normalise(gallery.embedding)
    appearance = retrieval.distance(rows, columns)
    distance = {APPEARANCE: appearance}
    if model is not None:
        transit = model.distance(query.sightings, gallery.sightings)
        distance[FUSED] = spatiotemporal.fuse(appearance, transit, weight)
    distance[RERANKED] = retrieval.rerank(rows, columns, **(rerank or {}))
    if model is not None:
        everyone = Sightings.concatenate([query.sightings, gallery.sightings])
        distance[BOTH] = retrieval.rerank(
            rows, columns, transit=model.transit(everyone, everyone), weight=weight, **(rerank or {})
        )
    metrics = {
        row: retrieval.evaluate(
            distance[row],
            query.sightings.identity,
            gallery.sightings.identity,
            query.sightings.camera,
            gallery.sightings.camera,
            **(evaluate or {}),
        )
        for row in ROWS
        if row in distance
    }
    choices = {
        "distance": "Euclidean, L2-normalised embeddings",
        "spacetime": None if model is None else {"weight": weight, **model.parameters},
        "rerank": dict(rerank or {}),
        "evaluate": dict(evaluate or {}),
    }
    return Result(metrics, distance, model, choices)


def card(result: Result, extraction: Extraction, command: str) -> dict[str, Any]:
    """Every number and every choice of one evaluation, JSON types only; shares are in percent."""
    one = next(iter(result.metrics.values()))
    return {
        "rows": {name: percentages(metrics) for name, metrics in result.metrics.items()},
        "queries": {"used": one.used, "skipped, no match in another camera": one.skipped},
        "gallery": len(extraction.gallery),
        "embedding": extraction.query.embedding.shape[1],
        "protocol": "image to image; same vehicle and same camera is junk; mean precision at each match",
        "choices": result.choices,
        "source": extraction.source,
        "command": command,
        "versions": {
            "torchreid_dfrst": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


def percentages(metrics: Metrics) -> dict[str, float]:
    """``mAP``, ``R1``, ``R5``, ``R10`` and ``mINP`` in percent."""
    shares = {"mAP": metrics.mAP, **{f"R{r}": metrics.rank(r) for r in (1, 5, 10)}, "mINP": metrics.mINP}
    return {name: round(100 * share, 4) for name, share in shares.items()}


def table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """The rows of a card as text for a screen."""
    names = list(next(iter(rows.values())))
    width = max(map(len, rows))
    lines = [" " * width + "".join(f"{name:>8}" for name in names)]
    lines += [f"{row:<{width}}" + "".join(f"{values[name]:8.2f}" for name in names) for row, values in rows.items()]
    return "\n".join(lines)


def best_matches(result: Result, extraction: Extraction, row: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first ``count`` gallery images of each query without its junk, and their distances: both ``(Q, count)``."""
    query, gallery = extraction.query.sightings, extraction.gallery.sightings
    junk = (query.identity[:, None] == gallery.identity) & (query.camera[:, None] == gallery.camera)
    index = retrieval.first(result.distance[row], count, leave_out=junk)
    near = np.take_along_axis(result.distance[row], np.maximum(index, 0), axis=1)
    return index, np.where(index < 0, np.nan, near)


def command_line(arguments: list[str]) -> str:
    """The command as a person would type it, the script named without its folder."""
    return " ".join([Path(arguments[0]).name, *arguments[1:]])
