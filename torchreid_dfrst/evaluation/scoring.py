"""From features to rows: appearance, + space and time (ST), + re-ranking, + both, and by trips."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from torchreid_dfrst import retrieval, spatiotemporal
from torchreid_dfrst.checks import named
from torchreid_dfrst.config import Keywords, Section, checked, keywords
from torchreid_dfrst.evaluation import protocols, trips
from torchreid_dfrst.evaluation.card import Result
from torchreid_dfrst.evaluation.leaks import check_leaks
from torchreid_dfrst.evaluation.weight import transit_weight
from torchreid_dfrst.processes import Group
from torchreid_dfrst.retrieval import Extraction, Features, Metrics, Parameters, Reranking
from torchreid_dfrst.retrieval.metrics import Best, require_known
from torchreid_dfrst.sightings import CameraNetwork, Sightings
from torchreid_dfrst.spatiotemporal import GapModel

APPEARANCE, FUSED, RERANKED, BOTH = "appearance", "+ ST", "+ re-ranking", "+ ST + re-ranking"
ROWS = (APPEARANCE, FUSED, RERANKED, BOTH)
USUAL_MODEL = "lognormal"
TOP = 10  # images of each query that pictures show
HELD = 128 << 20  # bytes of re-ranked distances that are made at once, which is faster than in blocks
logger = logging.getLogger(__name__)


def sections() -> dict[str, Keywords]:
    """The configuration of scoring: section to valid keys."""
    chosen = keywords(protocols.build, extra_rows)
    del chosen.defaults["protocol"]  # by default it is the data set's own
    return {
        "spacetime": keywords(fit_transit, transit_weight, leave_out=("memory_limit",)),
        "rerank": keywords(retrieval.rerank, leave_out=("transit", "weight")),
        "evaluate": chosen,
    }


def settings(*given: Mapping[str, Any] | None) -> list[Section]:
    """The three sections as they were given, checked, NumPy's numbers as Python's; that of re-ranking with defaults.

    Raises:
        KeyError: an unknown key; the message has the nearest one.
        ValueError: a value is not of the type that its reader takes.
    """
    known = sections()
    found = checked({name: part or {} for name, part in zip(known, given, strict=True)}, known, "settings of scoring")
    found["rerank"] = {**known["rerank"].defaults, **found["rerank"]}
    return [
        {key: value.item() if isinstance(value, np.generic) else value for key, value in part.items()}
        for part in found.values()
    ]


def extra_rows(rerank: bool = True, trips: bool = False) -> tuple[bool, bool]:
    """Which rows stand below appearance and space and time.

    Args:
        rerank: the re-ranked ones; torchreid's name, which is False there by default.
        trips: those by trips.
    """
    return rerank, trips


def fit_transit(
    extraction: Extraction,
    model: str | None = USUAL_MODEL,
    options: Mapping[str, Any] | None = None,
    fitted: str | Path | None = None,
) -> GapModel | None:
    """Fit a space-time model on the training sightings that came with the features, or load one.

    Args:
        extraction: features, training sightings and road distances.
        model: a name in ``spatiotemporal.MODELS``; None for appearance alone.
        options: the model's own keyword arguments.
        fitted: file of a model that was fitted before (``dfrst spacetime --save``), with its options; training
            sightings are not needed then.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: times or road distances are missing, and the message says how to go on by appearance alone; the
            file holds another model, or options are given beside it.
        KeyError: an unknown model or option.
    """
    if model is None:
        return None
    what, network = extraction.source.get("data", "these features"), extraction.network
    train = extraction.train if fitted is None else None
    if network is None or (train is None and fitted is None):
        lost = "road distances between its cameras" if train is not None or fitted is not None else "training sightings"
        raise ValueError(
            f"space and time were asked for, but {what} came without {lost}; `spacetime.model null` scores by "
            "appearance alone"
        )
    parts = {"training": train, "query": extraction.query.sightings, "gallery": extraction.gallery.sightings}
    for name, part in parts.items():
        try:
            if part is not None:
                part.require_times(f"the {name} split of {what}")
        except ValueError as error:
            raise ValueError(f"{error} (`spacetime.model null`)") from None
    with named("spacetime.options", options or {}):
        if train is not None:
            check_leaks(extraction, refuse=True)
            made = spatiotemporal.build(model, **(options or {})).fit(train, network)
        else:
            made = _load_fitted(str(fitted), model, options, network)
        made.check_use(extraction.query.sightings, extraction.gallery.sightings, extraction.called)
    return made


def _load_fitted(file: str, model: str, options: Mapping[str, Any] | None, network: CameraNetwork) -> GapModel:
    if options:
        raise ValueError(f"spacetime.options go with a model that is to be fitted; {file} has its own: leave one out")
    made = spatiotemporal.load(file, network)
    if model not in (USUAL_MODEL, made.name):
        raise ValueError(f"spacetime.model is {model!r}, but {file} holds a fitted {made.name}: leave one out")
    return made


def score(
    extraction: Extraction,
    spacetime: Mapping[str, Any] | None = None,
    rerank: Mapping[str, Any] | None = None,
    evaluate: Mapping[str, Any] | None = None,
    *,
    group: Group | None = None,
) -> Result:
    """Rank the gallery for every query in up to four ways and score each by a protocol.

    Distances are scored in blocks as they are made and never held whole, one row of the result after the other.

    Args:
        extraction: query and gallery features, and what space and time are fitted on.
        spacetime: keyword arguments of ``fit_transit``, and ``weight``, see ``transit_weight``.
        rerank: keyword arguments of ``retrieval.rerank``. Its ``memory_limit`` bounds the other rows too, and what the
            space-time model tabulates; the normalised features do not count.
        evaluate: keyword arguments of ``protocols.build``, without a ``protocol`` the data set's own, and of
            ``extra_rows``.
        group: several processes, of which this is process 0, that share the searches of neighbours; the others are in
            ``retrieval.shards.serve``. None: this process alone.

    Raises:
        ValueError, KeyError: something the parts cannot work with; see theirs.
    """
    spacetime, parameters, evaluate = settings(spacetime, rerank, evaluate)
    wanted, joined = extra_rows(**{name: evaluate.pop(name) for name in ("rerank", "trips") if name in evaluate})
    source = extraction.source
    usual = source.get("protocol") or protocols.of_dataset(source.get("data"), source.get("options"))
    with named("evaluate", evaluate):
        protocol = protocols.build(**{"protocol": usual, **evaluate})
    if protocol.own_camera and (source.get("options") or {}).get("cameras") == "none":
        raise ValueError(
            f"evaluate.protocol {protocol.name} takes out images of the query's own camera, and the features were made "
            "with cameras none: no-junk ranks all images"
        )
    require_known(extraction.query.sightings.identity)
    asked = spacetime.pop("weight", None)
    model = fit_transit(extraction, **spacetime)
    if model is None or spacetime.get("fitted"):
        check_leaks(extraction, refuse=False)
    limit = parameters["memory_limit"]
    weight, reason = (0.0, None) if model is None else transit_weight(extraction, model, asked, limit)
    draws: dict[str, list[Metrics]] = {}
    neighbours: dict[str, list[dict[str, Any]]] = {}
    best: dict[str, Best] = {}
    pairs: list[tuple[Sightings, Sightings]] = []
    for query, gallery in protocol.pairs(extraction.query, extraction.gallery):
        if not pairs:
            ranked = replace(extraction, query=query, gallery=gallery)
        pairs.append((query.sightings, gallery.sightings))
        rows = rankings(query, gallery, model, weight, parameters, wanted, group=group)
        roads = protocol.one_image is None  # else cameras are put in the place of the true ones
        labels = model is not None and roads
        more = trips.rankings(query, gallery, extraction, labels, roads) if joined else ()
        for row, blocks, found in itertools.chain(rows, more):
            blocks = protocol.ranked(blocks, *pairs[-1])
            if len(pairs) == 1:
                best[row] = Best(*pairs[0], TOP, protocol.junk)
                blocks = best[row].watch(blocks)
            draws.setdefault(row, []).append(protocol.score(blocks, *pairs[-1]))
            del blocks  # or a row's would be held while those of the next are made
            if found is not None:
                neighbours.setdefault(row, []).append(found)
    fitted = {"fitted": str(spacetime["fitted"])} if spacetime.get("fitted") else {}
    choices = {
        "distance": "Euclidean, not squared, of L2-normalised embeddings",
        "spacetime": None if model is None else {"weight": weight, "weight_from": reason, **fitted, **model.parameters},
        "rerank": parameters if wanted else None,
    }
    if joined:
        choices["trips"] = trips.USES
    return Result(protocol, draws, pairs, choices, neighbours, ranked, best, model)


def rankings(
    query: Features,
    gallery: Features,
    model: GapModel | None,
    weight: float,
    parameters: Mapping[str, Any],
    rerank: bool = True,
    only: str | None = None,
    group: Group | None = None,
) -> Iterator[tuple[str, Iterable[np.ndarray], dict[str, Any] | None]]:
    """Each row of a result, made when it is asked for: take all blocks of one before the next.

    Args:
        query: ``Q`` images.
        gallery: ``G`` images or tracks.
        model: a fitted space-time model, None for appearance alone.
        weight: omega of Eq. 6.
        parameters: all keyword arguments of ``retrieval.rerank`` but ``transit`` and ``weight``.
        rerank: give the re-ranked rows too.
        only: give this row alone.
        group: processes that share the searches of neighbours, see ``score``.

    Yields:
        The row's name; its distances in blocks of consecutive queries ``(rows, G)`` float32; and, of a re-ranked row,
        what its search of neighbours reports: ``method``, ``near_ties``, ``near_ties_at_the_end`` (of a list: only
        these can change the result) and ``measured_whole`` (images compared with all others in float64).
    """
    rows, columns = retrieval.normalise(query.embedding), retrieval.normalise(gallery.embedding)
    limit, options = parameters["memory_limit"], dict(parameters)

    def fused(asked: Sightings, shown: Sightings) -> dict[str, Any]:
        """What the space-time model needs of the limit; a quarter of it is left to what it tabulates."""
        if model is None:
            return {}
        left = None if limit is None else limit - limit // 4
        return {"transit": model.transit(asked, shown, limit), "weight": weight, "memory_limit": left}

    with named("rerank", parameters):
        chosen = Parameters(**{field.name: options.pop(field.name) for field in fields(Parameters)})
        if only in (None, APPEARANCE):
            yield APPEARANCE, retrieval.distance_blocks(rows, columns, memory_limit=limit), None
        if model is not None and only in (None, FUSED):
            yield FUSED, retrieval.distance_blocks(rows, columns, **fused(query.sightings, gallery.sightings)), None
        whole = group is None and limit is None and 4 * len(rows) * len(columns) <= HELD
        for row in () if not rerank else (RERANKED,) if model is None else (RERANKED, BOTH):
            if only not in (None, row):
                continue
            both = {}
            if row == BOTH:
                everyone = Sightings.concatenate([query.sightings, gallery.sightings])
                both = fused(everyone, everyone)
            try:
                job = Reranking(rows, columns, chosen, **{**options, **both}, keep=whole, group=group)
            except ValueError as error:
                if not str(error).startswith("k1 "):
                    raise
                raise ValueError(f"{error}; evaluate.rerank false leaves re-ranking out") from error
            found = {
                "method": job.near.method,
                "near_ties": len(job.near.near_ties),
                "near_ties_at_the_end": len(job.cuts),
                "measured_whole": job.near.fallbacks,
            }
            yield row, [job.matrix()] if whole else job.blocks(), found
            del job
