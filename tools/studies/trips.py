"""What trips are worth on the real VeRi-776 lists with simulated appearance: `python -m tools.studies.trips --help`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from tools.studies.spacetime.simulated import DIFFICULTY, embed
from torchreid_dfrst import association, retrieval, spatiotemporal
from torchreid_dfrst.data import VeRiFormat
from torchreid_dfrst.data.veri776 import LISTS
from torchreid_dfrst.retrieval import Features, evaluate
from torchreid_dfrst.sightings import CameraNetwork, Sightings

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


STUDIES: dict[str, Callable[[Lists, list[float], list[int]], None]] = {"table": table}

if __name__ == "__main__":
    main()
