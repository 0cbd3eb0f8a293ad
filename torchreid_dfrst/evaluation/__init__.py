"""From a trained model to features, and from features to four rows: appearance, + ST, + re-ranking, + both."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from torchreid_dfrst import retrieval, spatiotemporal
from torchreid_dfrst.checks import named, within
from torchreid_dfrst.config import Keywords, keywords
from torchreid_dfrst.evaluation import protocols
from torchreid_dfrst.evaluation.card import Card, make_card
from torchreid_dfrst.evaluation.weight import choose_weight
from torchreid_dfrst.retrieval import Extraction, Features, Metrics, Parameters, Reranking
from torchreid_dfrst.retrieval.metrics import Best
from torchreid_dfrst.sightings import Sightings
from torchreid_dfrst.spatiotemporal.model import GapModel

APPEARANCE, FUSED, RERANKED, BOTH = "appearance", "+ ST", "+ re-ranking", "+ ST + re-ranking"
PAPER_WEIGHT = 0.2
USUAL_MODEL = "lognormal"
HELD_OUT, TRAINED_ON = "held out", "trained on"  # the vehicles of ``Extraction.train_features``
CHOSEN_BY = {"auto": "map", "calibrated": "calibrated"}
ROWS = (APPEARANCE, FUSED, RERANKED, BOTH)
TOP = 10  # images of each query that pictures show
HELD = 128 << 20  # bytes of re-ranked distances that are made at once, which is faster than in blocks
_log = logging.getLogger(__name__)


def sections() -> dict[str, Keywords]:
    """The configuration of scoring: section to valid keys."""
    return {
        "spacetime": keywords(fit_transit, transit_weight),
        "rerank": keywords(retrieval.rerank, leave_out=("transit", "weight")),
        "evaluate": Keywords({**keywords(protocols.build).expected, "rerank": bool}),
    }


@dataclass(frozen=True, eq=False)
class Result:
    """The rows of one evaluation.

    Args:
        protocol: what was ranked against what, and what counted.
        draws: row name (see ``ROWS``) to its metrics, one per draw of the protocol (most draw once).
        pairs: query and gallery sightings of each draw, as ranked.
        ranked: the features of the first draw, as ranked.
        best: row name to the first ``TOP`` images of each query, and its first right one, of the first draw.
        neighbours: re-ranked row to what its search of neighbours met, see ``rankings``, one per draw.
        transit: the fitted space-time model, None where the result is by appearance alone.
        choices: every option that had a say, JSON types only.
    """

    protocol: protocols.Protocol
    draws: dict[str, list[Metrics]]
    pairs: list[tuple[Sightings, Sightings]]
    ranked: Extraction
    best: dict[str, Best]
    neighbours: dict[str, list[dict[str, Any]]]
    transit: GapModel | None
    choices: dict[str, Any]

    @property
    def metrics(self) -> dict[str, Metrics]:
        """Metrics of the first draw by row name."""
        return {row: draws[0] for row, draws in self.draws.items()}


def fit_transit(
    extraction: Extraction,
    model: str | None = USUAL_MODEL,
    options: Mapping[str, Any] | None = None,
    fitted: str | None = None,
) -> GapModel | None:
    """Fit a space-time model on the training sightings that came with the features, or load one.

    Args:
        extraction: features, training sightings and road distances.
        model: a name in ``spatiotemporal.MODELS``; None for appearance alone.
        options: the model's own keyword arguments.
        fitted: file of a model that was fitted before (``tools/spacetime.py --save``), with its options; training
            sightings are not needed then.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: times or road distances are missing, and the message says how to go on by appearance alone; the
            file holds another model, or options are given beside it.
        KeyError: an unknown model or option.
    """
    if model is None:
        return None
    what = str(extraction.source.get("data", "these features"))
    advice = "; `spacetime.model null` scores by appearance alone"
    parts = {"query": extraction.query.sightings, "gallery": extraction.gallery.sightings}
    if fitted is None:
        if extraction.train is None:
            raise ValueError(f"space and time were asked for, but {what} came without training sightings{advice}")
        parts = {"training": extraction.train, **parts}
    if extraction.network is None:
        raise ValueError(
            f"space and time were asked for, but {what} came without road distances between its cameras{advice}"
        )
    for name, part in parts.items():
        try:
            part.require_times(f"the {name} split of {what}")
        except ValueError as error:
            raise ValueError(f"{error} (`spacetime.model null`)") from None
    if fitted is None:
        with named("spacetime.options", options or {}):
            return spatiotemporal.build(model, **(options or {})).fit(parts["training"], extraction.network)
    if options:
        raise ValueError(f"spacetime.options go with a model that is to be fitted; {fitted} has its own: leave one out")
    loaded = spatiotemporal.load(fitted, extraction.network)
    if model not in (USUAL_MODEL, loaded.name):
        raise ValueError(f"spacetime.model is {model!r}, but {fitted} holds a fitted {loaded.name}: leave one out")
    return loaded


def transit_weight(
    extraction: Extraction, model: GapModel, weight: float | str | None = None
) -> tuple[float, str | dict[str, Any]]:
    """Omega of Eq. 6, and where it comes from.

    Args:
        extraction: features, of training images too if the weight is to be chosen.
        model: the space-time model.
        weight: a number; ``"auto"``: the one with the best mAP on held-out training vehicles; ``"calibrated"``: the
            one that a logistic regression on pairs of held-out training vehicles gives; None: the paper's 0.2.

    Returns:
        Omega, and ``"the paper"``, ``"given"``, or for a chosen one the fields of ``Weight`` and ``network``: whether
        the vehicles it was chosen on were ``"held out"`` of its training or ``"trained on"``; None if not known.

    Raises:
        ValueError: not one of these, out of range, or training features are missing.
    """
    if weight is None:
        return PAPER_WEIGHT, "the paper"
    if not isinstance(weight, str):
        within("spacetime.weight", weight, below=np.inf)
        return float(weight), "given"
    if weight not in CHOSEN_BY:
        raise ValueError(f"spacetime.weight is {weight!r}: a number, or {' or '.join(CHOSEN_BY)}")
    if extraction.train is None or extraction.network is None or extraction.train_features is None:
        raise ValueError(
            f"spacetime.weight {weight} is chosen on training vehicles, but there are no features of training images: "
            "extract with --train, or give a number"
        )
    chosen = choose_weight(
        model, extraction.train, extraction.train_features, extraction.network, method=CHOSEN_BY[weight]
    )
    network = extraction.source.get("train_features")
    if network == TRAINED_ON:
        _log.warning(
            "spacetime.weight %s is chosen on vehicles that the network was trained on: it knows them too well, "
            "and the weight comes out too small; train with data.validation_identities and extract again",
            weight,
        )
    return chosen.value, {**chosen.as_json(), "network": network}


def score(
    extraction: Extraction,
    spacetime: Mapping[str, Any] | None = None,
    rerank: Mapping[str, Any] | None = None,
    evaluate: Mapping[str, Any] | None = None,
) -> Result:
    """Rank the gallery for every query in up to four ways and score each by a protocol.

    Distances are scored in blocks as they are made and never held whole, one row of the result after the other.

    Args:
        extraction: query and gallery features, and what space and time are fitted on.
        spacetime: ``model``, ``options``, ``fitted`` (see ``fit_transit``) and ``weight`` (see ``transit_weight``).
        rerank: keyword arguments of ``retrieval.rerank``. Its ``memory_limit`` bounds the other rows too; what the
            space-time model tabulates and the normalised features do not count.
        evaluate: keyword arguments of ``retrieval.protocols.build``; without a ``protocol``, the data set's own. And
            ``rerank``, as torchreid's: False leaves the two re-ranked rows out.

    Raises:
        ValueError: something the parts cannot work with; see theirs.
        KeyError: an unknown name.
    """
    spacetime, evaluate, rerank = dict(spacetime or {}), dict(evaluate or {}), dict(rerank or {})
    parameters = {**_defaults(retrieval.rerank, leave_out=("transit", "weight")), **rerank}
    wanted = evaluate.pop("rerank", True)
    usual = protocols.of_dataset(extraction.source.get("data"), extraction.source.get("options"))
    protocol = protocols.build(**{"protocol": usual, **evaluate})
    asked = spacetime.pop("weight", None)
    model = fit_transit(extraction, **spacetime)
    weight, reason = (0.0, None) if model is None else transit_weight(extraction, model, asked)
    draws: dict[str, list[Metrics]] = {}
    neighbours: dict[str, list[dict[str, Any]]] = {}
    best: dict[str, Best] = {}
    pairs: list[tuple[Sightings, Sightings]] = []
    for query, gallery in protocol.pairs(extraction.query, extraction.gallery):
        if not pairs:
            ranked = replace(extraction, query=query, gallery=gallery)
        pairs.append((query.sightings, gallery.sightings))
        for row, blocks, met in rankings(query, gallery, model, weight, parameters, wanted):
            if len(pairs) == 1:
                best[row] = Best(*pairs[0], TOP, protocol.junk)
                blocks = best[row].watch(blocks)
            draws.setdefault(row, []).append(protocol.score(blocks, *pairs[-1]))
            del blocks  # or a row's would be held while those of the next are made
            if met is not None:
                neighbours.setdefault(row, []).append(met)
    fitted = {"fitted": spacetime["fitted"]} if spacetime.get("fitted") else {}
    choices = {
        "distance": "Euclidean, not squared, of L2-normalised embeddings",
        "spacetime": None if model is None else {"weight": weight, "weight_from": reason, **fitted, **model.parameters},
        "rerank": parameters if wanted else None,
    }
    return Result(protocol, draws, pairs, ranked, best, neighbours, model, choices)


def card(result: Result, extraction: Extraction, command: str) -> Card:
    """Every number and every choice of one evaluation."""
    return make_card(
        extraction, result.protocol, result.draws, result.pairs, result.choices, command, result.neighbours
    )


def rankings(
    query: Features,
    gallery: Features,
    model: GapModel | None,
    weight: float,
    parameters: Mapping[str, Any],
    rerank: bool = True,
) -> Iterator[tuple[str, Iterable[np.ndarray], dict[str, Any] | None]]:
    """Each row of a result, made when it is asked for: take all blocks of one before the next.

    Args:
        query: ``Q`` images.
        gallery: ``G`` images or tracks.
        model: a fitted space-time model, None for appearance alone.
        weight: omega of Eq. 6.
        parameters: all keyword arguments of ``retrieval.rerank`` but ``transit`` and ``weight``.
        rerank: give the re-ranked rows too.

    Yields:
        The row's name; its distances in blocks of consecutive queries ``(rows, G)`` float32; and, of a re-ranked row,
        ``method``, ``near_ties``, ``near_ties_at_the_end`` (of a list, where alone they can change the result) and
        ``measured_whole`` (images with too many candidates) of the search of its neighbours.
    """
    rows, columns = retrieval.normalise(query.embedding), retrieval.normalise(gallery.embedding)
    limit = parameters["memory_limit"]
    options = dict(parameters)
    with named("rerank", ("k1", "k2", "lambda_value", "memory_limit")):
        chosen = Parameters(**{field.name: options.pop(field.name) for field in fields(Parameters)})
        yield APPEARANCE, retrieval.distance_blocks(rows, columns, memory_limit=limit), None
    if model is not None:
        transit = model.transit(query.sightings, gallery.sightings)
        yield FUSED, retrieval.distance_blocks(rows, columns, transit=transit, weight=weight, memory_limit=limit), None
        del transit
    if not rerank:
        return
    with named("rerank", ("k1",)):
        whole = limit is None and 4 * len(rows) * len(columns) <= HELD
        for row in (RERANKED,) if model is None else (RERANKED, BOTH):
            fused: dict[str, Any] = {}
            if model is not None and row == BOTH:
                everyone = Sightings.concatenate([query.sightings, gallery.sightings])
                fused = {"transit": model.transit(everyone, everyone), "weight": weight}
            job = Reranking(rows, columns, chosen, **fused, **options, keep=whole)
            met = {
                "method": job.near.method,
                "near_ties": len(job.near.near_ties),
                "near_ties_at_the_end": len(job.cuts),
                "measured_whole": job.near.fallbacks,
            }
            blocks = [job.matrix()] if whole else job.blocks()
            yield row, blocks, met
            del job, blocks


def _defaults(function: Callable[..., Any], leave_out: Iterable[str]) -> dict[str, Any]:
    names = keywords(function, leave_out=leave_out)
    return {name: inspect.signature(function).parameters[name].default for name in names}


def best_matches(result: Result, row: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first ``count`` gallery images of each query without its junk, and their distances: both ``(Q, count)``.

    Raises:
        ValueError: more than the ``TOP`` that are kept.
    """
    within("count", count, lowest=1, highest=TOP)
    return result.best[row].index[:, :count], result.best[row].distance[:, :count]


def command_line(arguments: list[str]) -> str:
    """The command as a person would type it, the script named without its folder."""
    return " ".join([Path(arguments[0]).name, *arguments[1:]])
