"""What trips are worth on the real VeRi-776 lists with simulated appearance: `python -m tools.studies.trips --help`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from tools.studies.spacetime.simulated import DIFFICULTY, embed
from torchreid_dfrst import association, retrieval, spatiotemporal
from torchreid_dfrst.association.ranking import own_pass
from torchreid_dfrst.data import VeRiFormat
from torchreid_dfrst.data.veri776 import LISTS
from torchreid_dfrst.evaluation import audit
from torchreid_dfrst.evaluation.weight import held_out
from torchreid_dfrst.retrieval import Features, evaluate
from torchreid_dfrst.sightings import CameraNetwork, Sightings
from torchreid_dfrst.spatiotemporal.passes import passes

OMEGA = 0.4
SEEDS = (776, 1, 2, 3, 4)
Lists = tuple[Sightings, Sightings, Sightings, CameraNetwork]


def main() -> None:
    """Read the arguments and run a study."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=tuple(STUDIES))
    parser.add_argument("--root", required=True, help="VeRi-776's lists; no image is read")
    parser.add_argument("--levels", nargs="+", type=float, default=[84.5, 65.0, 40.0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[*SEEDS])
    args = parser.parse_args()
    data = VeRiFormat.read(VeRiFormat.find(args.root, (LISTS["train"],)), images=False)
    STUDIES[args.what]((data.train, data.query, data.gallery, data.network), args.levels, args.seeds)


class Stage:
    """Real lists with one simulated appearance."""

    def __init__(self, lists: Lists, level: float, seed: int):
        self.training, self.asked, self.shown, self.network = lists
        both = embed(Sightings.concatenate([self.shown, self.asked]), DIFFICULTY[level], seed)
        shown, asked = np.split(both, [len(self.shown)])
        self.query, self.gallery = Features(asked, self.asked), Features(shown, self.shown)
        self.train = Features(embed(self.training, DIFFICULTY[level], seed, stream=1), self.training)

    def score(self, distance: np.ndarray | list[np.ndarray]) -> np.ndarray:
        """MAP and R1, percent."""
        labels = self.asked.identity, self.shown.identity, self.asked.camera, self.shown.camera
        found = evaluate(distance, *labels)
        return np.array([found.mAP, found.cmc[0]]) * 100

    def trips(
        self, evidence: association.Evidence | None, gallery: Sightings | None = None, query: Sightings | None = None
    ) -> tuple[np.ndarray, association.Association]:
        """Scores of the ranking by trips, perhaps with other times than the true ones."""
        shown, asked = gallery or self.shown, query or self.asked
        start = time.process_time()
        trips = association.associate(Features(self.gallery.embedding, shown), self.network, evidence)
        blocks = list(association.ranking(trips, Features(self.query.embedding, asked), shown))
        self.spent = time.process_time() - start
        return self.score(blocks), trips

    def fused(self, model: spatiotemporal.GapModel, gallery: Sightings, query: Sightings) -> np.ndarray:
        """Scores of + ST."""
        rows, columns = retrieval.normalise(self.query.embedding), retrieval.normalise(self.gallery.embedding)
        near = retrieval.distance_blocks(rows, columns, transit=model.transit(query, gallery), weight=OMEGA)
        return self.score(list(near))


def table(lists: Lists, levels: list[float], seeds: list[int]) -> None:
    """All rows: mean and deviation over seeds."""
    model = spatiotemporal.build("likelihood").fit(lists[0], lists[3])
    for level in levels:
        rows: dict[str, list[np.ndarray]] = {}
        for seed in seeds:
            stage = Stage(lists, level, seed)
            rows.setdefault("appearance", []).append(stage.score(-stage.query.embedding @ stage.gallery.embedding.T))
            rows.setdefault("+ ST", []).append(stage.fused(model, stage.shown, stage.asked))
            start = time.process_time()
            evidence = association.fit(stage.train, stage.network)
            fitting = time.process_time() - start
            for name, given in (("fitted", evidence), ("no label", None)):
                score, trips = stage.trips(given)
                vehicle = lists[2].identity[np.unique(trips.label, return_index=True)[1]]
                measured = {key: measure(trips.trajectory, vehicle) for key, measure in association.MEASURES.items()}
                more = [100 * value.f1 for value in measured.values()]
                more += [100 * measured["pairwise"].precision, 100 * measured["pairwise"].recall, stage.spent, fitting]
                rows.setdefault(f"trips, {name}", []).append(np.concatenate([score, more]))
        for name, found in rows.items():
            mean, spread = np.mean(found, axis=0), np.std(found, axis=0, ddof=min(1, len(found) - 1))
            words = "  ".join(f"{m:.2f} ({s:.2f})" for m, s in zip(mean, spread, strict=True))
            print(f"{level:g}  {name:16} {words}", flush=True)


def pooled(stage: Stage, gallery: Sightings, query: Sightings, only_appearance: bool = False) -> np.ndarray:
    """Scores of appearance with passes pooled and cameras centred; or of trips by appearance alone."""
    still = [replace(part, time_s=np.full(len(part), np.nan)) for part in (gallery, query)]
    trips = association.associate(Features(stage.gallery.embedding, gallery), stage.network)
    if only_appearance:
        alone = replace(trips.calibrated(), gaps=None)
        parts = Features(stage.gallery.embedding, gallery), Features(stage.query.embedding, query)
        trips = association.associate(parts[0], stage.network, alone)
        return stage.score(list(association.ranking(trips, parts[1], gallery)))
    own = own_pass(trips, Features(stage.query.embedding, query), gallery)
    rows = trips.centre(retrieval.normalise(stage.query.embedding), still[1].camera)
    rows[own >= 0] = trips.passes.embedding[own[own >= 0]]
    return stage.score(-(rows @ trips.passes.embedding.T)[:, trips.label])


def controls(lists: Lists, levels: list[float], seeds: list[int]) -> None:
    """What is left when times, cameras or both are dealt anew in the ranked lists; and under noise."""
    model = spatiotemporal.build("likelihood").fit(lists[0], lists[3])
    for level in levels:
        stage = Stage(lists, level, seeds[0])
        evidence = association.fit(stage.train, stage.network)
        cases = {"as it is": (stage.asked, stage.shown)}
        for what in ("times", "cameras", "both"):
            asked, shown = audit.shuffled(stage.asked, stage.shown, what, seeds[0])
            cases[f"shuffled {what}"] = tuple(  # passes stay whole, or nothing could be said of pooling
                replace(new, time_s=by_pass(old, new.time_s), camera=by_pass(old, new.camera), track=old.track)
                for old, new in ((stage.asked, asked), (stage.shown, shown))
            )
        for seconds in (5.0, 15.0, 60.0):
            cases[f"clocks {seconds:g} s"] = audit.skewed(stage.asked, stage.shown, seconds, seeds[0])
        for share in (0.1, 0.25):
            cases[f"wrong {share:g}"] = audit.wrong_times(stage.asked, stage.shown, share, seeds[0])
            cases[f"missing {share:g}"] = missing(stage.asked, stage.shown, share, seeds[0])
        for name, (asked, shown) in cases.items():
            found = {
                "pooled": pooled(stage, shown, asked),
                "trips by appearance": pooled(stage, shown, asked, True),
                "+ ST": stage.fused(model, shown, asked),
                "fitted": stage.trips(evidence, shown, asked)[0],
                "no label": stage.trips(None, shown, asked)[0],
            }
            print(f"{level:g} {name:18}", *(f"{k} {v[0]:.2f}/{v[1]:.2f} " for k, v in found.items()), flush=True)


def by_pass(old: Sightings, values: np.ndarray) -> np.ndarray:
    """What a shuffle gave to the first image of each track, for all of it."""
    _, first, place = np.unique(old.track, return_index=True, return_inverse=True)
    return values[first][place]


def missing(asked: Sightings, shown: Sightings, share: float, seed: int) -> tuple[Sightings, Sightings]:
    """Both lists with a share of the tracks without a time."""
    tracks = np.unique(shown.track)
    lost = tracks[np.random.default_rng(seed).random(len(tracks)) < share]
    parts = [replace(p, time_s=np.where(np.isin(p.track, lost), np.nan, p.time_s)) for p in (asked, shown)]
    return parts[0], parts[1]


def ways(lists: Lists, levels: list[float], seeds: list[int]) -> None:
    """Average linkage, correlation clustering and chains, on held-out training vehicles with one evidence."""
    train = replace(lists[0], track=passes(lists[0], by_identity=True))
    for level in levels:
        embedding = embed(train, DIFFICULTY[level], seeds[0], stream=1)
        for fold in list(held_out(train))[:2]:
            evidence = association.fit(Features(embedding[fold.fit], train[fold.fit]), lists[3])
            trips = association.associate(Features(embedding[fold.gallery], train[fold.gallery]), lists[3], evidence)
            vehicle = train.identity[fold.gallery][np.unique(trips.label, return_index=True)[1]]
            block = evidence.block(trips.passes, trips.passes) + trips.odds
            np.fill_diagonal(block, 0)
            start = time.process_time()
            found = {"average linkage": trips.trajectory}
            for name, way in (("correlation", correlation), ("chains", chains)):
                for bold in (-evidence.boldness, 0.0):
                    found[f"{name} {bold + evidence.boldness:g}"] = way(block + np.float32(bold), trips.passes.first_s)
            for name, label in found.items():
                score = association.MEASURES["pairwise"](label, vehicle)
                print(f"{level:g} {name:20} P {score.precision:.3f} R {score.recall:.3f} F1 {score.f1:.3f}", flush=True)
            print(f"  {time.process_time() - start:.1f} s")


def correlation(block: np.ndarray, first_s: np.ndarray) -> np.ndarray:
    """Greedy moves of single passes that raise the sum of evidence inside clusters, until none does."""
    label = np.arange(len(block))
    for _ in range(20):
        moved = False
        for one in range(len(block)):
            gain = np.bincount(label, block[one], len(block))
            best = int(gain.argmax())
            if gain[best] > max(gain[label[one]], 0):
                label[one], moved = best, True
        if not moved:
            break
    return label


def chains(block: np.ndarray, first_s: np.ndarray) -> np.ndarray:
    """Each pass has at most one next: the assignment of most evidence, which is the min-cost flow of such chains."""
    later = first_s[None] > first_s[:, None]
    row, column = linear_sum_assignment(np.where(later & (block > 0), block, 0), maximize=True)
    taken = later[row, column] & (block[row, column] > 0)
    links = coo_matrix((np.ones(int(taken.sum())), (row[taken], column[taken])), shape=block.shape)
    return connected_components(links, directed=False)[1]


STUDIES: dict[str, Callable[[Lists, list[float], list[int]], None]] = {
    "table": table,
    "controls": controls,
    "ways": ways,
}

if __name__ == "__main__":
    main()
