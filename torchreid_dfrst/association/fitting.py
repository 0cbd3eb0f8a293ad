"""The evidence fitted on training sightings and their embeddings, whose vehicles are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from torchreid_dfrst.association.average_linkage import grow, upper
from torchreid_dfrst.association.evidence import Evidence, at_once, equal_network
from torchreid_dfrst.association.learning import calibrate, doubt, overlapping
from torchreid_dfrst.association.measures import pairwise
from torchreid_dfrst.association.passes import Passes, pool
from torchreid_dfrst.retrieval import Features, normalise
from torchreid_dfrst.sightings import CameraNetwork, Sightings
from torchreid_dfrst.spatiotemporal.likelihood import Likelihood
from torchreid_dfrst.spatiotemporal.passes import passes

BOLDNESS = np.arange(-1, 5.1, 0.5)
OVERLAP = 0.12
"""Share of the passes meeting in time that are one vehicle, from which on two cameras overlap. Labels are sure, so
less will do than without. Chosen on training vehicles: F1 of .955 with 0.25, .980 with 0.12 and with 0.05 (84.5)."""
MOST = 3000
"""Training passes that appearance is fitted on."""
VEHICLES = 200
"""Vehicles of one gallery on which the boldness is chosen, as many as VeRi-776 has."""


def fit(train: Features, network: CameraNetwork | None = None, sightings: Sightings | None = None) -> Evidence:
    """Evidence from training images with identities, best of vehicles that the network has not seen.

    Args:
        train: embeddings and sightings; rows without an identity are left out.
        network: road distances; left out, all cameras count as equally far from each other.
        sightings: training sightings that trips are learnt from, where there are more than those of ``train``.

    Raises:
        ValueError: no vehicle was seen by two cameras, or times or distances are impossible, see ``GapModel.fit``.
    """
    train = train[train.sightings.known]
    lists = train.sightings if sightings is None else sightings[sightings.known]
    vehicles = np.unique(train.sightings.identity)
    if len(vehicles) < 2:
        raise ValueError(
            f"training vehicles with an identity: {len(vehicles)}; evidence is fitted on two or more (dfrst trips "
            "--no-labels does without)"
        )
    halves = np.array_split(np.random.default_rng(0).permutation(vehicles), 2)
    score, usual = np.zeros(len(BOLDNESS)), []
    for asked, known in (halves, halves[::-1]):
        gallery, rest = (train[np.isin(train.sightings.identity, chosen)] for chosen in (asked[:VEHICLES], known))
        others = lists[~np.isin(lists.identity, asked)]
        try:
            fitted = _fitted(rest, others, network)
        except ValueError:
            continue  # one half of few vehicles may have none that two cameras saw
        found, vehicle = _pooled(gallery)
        score += _scores(fitted, found, vehicle)
        usual.append(doubt(found, fitted))
    boldness = float(BOLDNESS[score.argmax()])
    return replace(_fitted(train, lists, network), boldness=boldness, usual=float(np.mean(usual)) if usual else 0.0)


def _pooled(train: Features) -> tuple[Passes, np.ndarray]:
    """Passes of a list with identities, and the vehicle of each."""
    label = passes(train.sightings, by_identity=True)
    found, _ = pool(normalise(train.embedding), train.sightings, label)
    return found, train.sightings.identity[np.unique(label, return_index=True)[1]]


def _fitted(train: Features, sightings: Sightings, network: CameraNetwork | None) -> Evidence:
    timed = not np.isnan(sightings.time_s).all()
    roads = equal_network(sightings.camera) if network is None else network
    gaps = Likelihood(check_units=network is not None).fit(sightings, roads) if timed else None
    found, vehicle = _pooled(train)
    if len(found) > MOST:
        some = np.sort(np.random.default_rng(0).permutation(len(found))[:MOST])
        found, vehicle = found[some], vehicle[some]
    same = upper(vehicle[:, None] == vehicle)
    across = upper(found.camera[:, None] != found.camera)
    if not (same & across).any():
        raise ValueError("no training vehicle was seen by two cameras: there is nothing to fit evidence on")
    bias, slope = calibrate(upper(found.embedding @ found.embedding.T)[across], same[across])
    met = np.flatnonzero(across & upper(at_once(found, found)))
    row, column = (index[met] for index in np.triu_indices(len(found), 1))
    overlap = overlapping(found.camera[row], found.camera[column], same[met], OVERLAP)
    # of a sample of passes only a share of each vehicle's others is there; the law of trips counts all
    returns = gaps.returns if gaps is not None else 2 * float((same & across).sum()) / len(found)
    return Evidence(bias, slope, gaps, returns, overlapping=overlap)


def _scores(evidence: Evidence, found: Passes, vehicle: np.ndarray) -> np.ndarray:
    """Pairwise F1 of a gallery's trajectories for each boldness."""
    tree = grow(upper(evidence.block(found, found)), len(found))
    cuts = [-replace(evidence, boldness=float(bold)).odds(len(found)) for bold in BOLDNESS]
    return np.array([pairwise(tree.cut(cut), vehicle).f1 for cut in cuts])
