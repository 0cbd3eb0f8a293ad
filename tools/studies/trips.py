"""What trips are worth on the real VeRi-776 lists with simulated appearance: `python -m tools.studies.trips --help`."""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from tools.studies.spacetime.simulated import DIFFICULTY, WIDTH, embed
from torchreid_dfrst import association, retrieval, spatiotemporal
from torchreid_dfrst.association.evidence import equal_network
from torchreid_dfrst.association.passes import find_passes, pool
from torchreid_dfrst.association.topology import alike, topology
from torchreid_dfrst.data import VeRiFormat
from torchreid_dfrst.data.veri776 import LISTS
from torchreid_dfrst.evaluation import audit
from torchreid_dfrst.evaluation.trips import wrong_passes
from torchreid_dfrst.evaluation.weight import held_out
from torchreid_dfrst.retrieval import Features, evaluate
from torchreid_dfrst.sightings import CameraNetwork, Sightings
from torchreid_dfrst.spatiotemporal.likelihood import Likelihood
from torchreid_dfrst.spatiotemporal.passes import one_per_pass, passes

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
    parser.add_argument("--cases", default="", help="of controls, those with this word in their names")
    parser.add_argument("--passes", nargs="+", type=int, default=[25_000, 50_000, 100_000], help="of scale")
    parser.add_argument("--day", type=float, default=86_400.0, help="seconds from one day to the next, of scale")
    args = parser.parse_args()
    data = VeRiFormat.read(VeRiFormat.find(args.root, (LISTS["train"],)), images=False)
    STUDIES[args.what]((data.train, data.query, data.gallery, data.network), args)


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


def table(lists: Lists, args: argparse.Namespace) -> None:
    """All rows: mean and deviation over seeds."""
    model = spatiotemporal.build("likelihood").fit(lists[0], lists[3])
    for level in args.levels:
        rows: dict[str, list[np.ndarray]] = {}
        for seed in args.seeds:
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
            print(f"{level:g}  {name:16} {averaged(found)}", flush=True)


def pooled(stage: Stage, gallery: Sightings, query: Sightings) -> np.ndarray:
    """Scores of appearance with passes pooled and cameras centred; each query is given the embedding of its track."""
    unit = retrieval.normalise(stage.gallery.embedding)
    label, _ = find_passes(unit, gallery)
    found, means = pool(unit, gallery, label)
    rows = means.taken_from(retrieval.normalise(stage.query.embedding), query.camera)
    track, first = np.unique(gallery.track, return_index=True)
    place = np.searchsorted(track, query.track).clip(max=len(track) - 1)
    own = (track[place] == query.track) & (gallery.camera[first][place] == query.camera)
    rows[own] = found.embedding[label[first[place[own]]]]
    return stage.score(-(rows @ found.embedding.T)[:, label])


def cases(stage: Stage, seed: int) -> Iterator[tuple[str, Sightings, Sightings]]:
    """Name, query and gallery list of each control and each kind of noise."""
    yield "as it is", stage.asked, stage.shown
    for what in ("times", "cameras", "both"):
        dealt = audit.shuffled(stage.asked, stage.shown, what, seed)
        both = [  # passes stay whole, or nothing could be said of pooling
            replace(new, time_s=by_pass(old, new.time_s), camera=by_pass(old, new.camera), track=old.track)
            for old, new in zip((stage.asked, stage.shown), dealt, strict=True)
        ]
        yield f"{what} shuffled", both[0], both[1]
    for seconds in (5.0, 15.0, 60.0):
        yield f"clocks wrong by up to {seconds:g} s", *audit.skewed(stage.asked, stage.shown, seconds, seed)
    for share in (0.1, 0.25):
        yield f"{share:.0%} at a wrong time", *audit.wrong_times(stage.asked, stage.shown, share, seed)
        yield f"{share:.0%} without a time", *missing(stage.asked, stage.shown, share, seed)


def controls(lists: Lists, args: argparse.Namespace) -> None:
    """What is left when times, cameras or both are dealt anew in the ranked lists; and under noise."""
    model = spatiotemporal.build("likelihood").fit(lists[0], lists[3])
    # one law for all pairs of cameras: what times say where no camera is known
    blind = Likelihood(shrinkage=1e9, check_units=False).fit(lists[0], equal_network(lists[0].camera))
    found: dict[tuple[float, str], list[np.ndarray]] = {}
    for seed in args.seeds:
        for level in args.levels:
            stage = Stage(lists, level, seed)
            evidence = association.fit(stage.train, stage.network)
            for name, asked, shown in cases(stage, seed):
                if args.cases not in name:
                    continue
                rows = [pooled(stage, shown, asked), stage.fused(model, shown, asked)]
                score, trips = stage.trips(evidence, shown, asked)
                rows += [score, np.array([trips.calibrated().doubt]), stage.trips(None, shown, asked)[0]]
                if name == "as it is" or name.endswith("shuffled"):
                    rows.append(stage.trips(blind, shown, asked)[0])
                found.setdefault((level, name), []).append(np.concatenate(rows))
                print(seed, level, name, np.round(found[level, name][-1], 2), flush=True)
    print(
        "mAP and R1, mean (deviation): pooled; + ST; + ST + trips (and how far its law is doubted); + trips, no label; "
        "+ trips, one law for all cameras"
    )
    for (level, name), values in found.items():
        print(f"{level:g}  {name:26} {averaged(values)}")


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


def averaged(found: list[np.ndarray]) -> str:
    """Mean and deviation of each column."""
    mean, spread = np.mean(found, axis=0), np.std(found, axis=0, ddof=min(1, len(found) - 1))
    return "  ".join(f"{m:.2f} ({s:.2f})" for m, s in zip(mean, spread, strict=True))


def network(lists: Lists, args: argparse.Namespace) -> None:
    """Links of cameras found without labels against those that labelled vehicles show by the same test."""
    for level in args.levels:
        stage = Stage(lists, level, args.seeds[0])
        for name, _, shown in cases(stage, args.seeds[0]):
            if name != "as it is" and not name.endswith("shuffled"):
                continue
            trips = association.associate(Features(stage.gallery.embedding, shown), stage.network)
            vehicle = shown.identity[np.unique(trips.label, return_index=True)[1]]
            truth = {link[:2]: link for link in topology(trips.passes, vehicle)}
            links = {link[:2]: link for link in topology(trips.passes, alike(trips.passes, trips.calibrated()))}
            both = truth.keys() & links.keys()
            off = [abs(links[pair].median_s / truth[pair].median_s - 1) for pair in both]
            print(
                f"{level:g} {name:18} {len(truth)} links by labels, {len(links)} without, {len(both)} in both; "
                f"medians {100 * np.median(off) if off else np.nan:.0f} % off",
                flush=True,
            )


def scale(lists: Lists, args: argparse.Namespace) -> None:
    """CPU seconds and peak memory of days of the real lists behind each other, fresh vehicles, 512 numbers a pass."""
    wide = np.random.default_rng(0).standard_normal((WIDTH, 512), dtype=np.float32)
    day = one_per_pass(Sightings.concatenate([lists[2], lists[0]]))
    for count in sorted(args.passes):
        parts, embedding = [], np.empty((count, wide.shape[1]), dtype=np.float32)
        for number in range(-(-count // len(day))):
            seen = day[: count - number * len(day)]
            parts.append(replace(seen, time_s=seen.time_s + number * args.day, track=None, identity=None))
            look = embed(seen, DIFFICULTY[args.levels[0]], stream=2 + number) @ wide
            embedding[number * len(day) :][: len(seen)] = look
        features = Features(embedding, replace(Sightings.concatenate(parts), track=np.arange(count)))
        start, wall = time.process_time(), time.perf_counter()
        trips = association.associate(features, lists[3])
        spent, wall = time.process_time() - start, time.perf_counter() - wall
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{count} passes, {trips.trajectory.max() + 1} trips: {spent:.1f} CPU s, {wall:.0f} s, {peak:.2f} GB")


def ways(lists: Lists, args: argparse.Namespace) -> None:
    """Average linkage, correlation clustering and chains, on held-out training vehicles with one evidence."""
    train = replace(lists[0], track=passes(lists[0], by_identity=True))
    for level in args.levels:
        embedding = embed(train, DIFFICULTY[level], args.seeds[0], stream=1)
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


def hidden(lists: Lists, args: argparse.Namespace) -> None:
    """Passes that are found where tracks are hidden, on a third of the training vehicles."""
    train = replace(lists[0], track=passes(lists[0], by_identity=True))
    seen = next(iter(held_out(train))).gallery
    for level in args.levels:
        embedding = embed(train, DIFFICULTY[level], args.seeds[0], stream=1)[seen]
        trips = association.associate(Features(embedding, replace(train[seen], track=None)), lists[3])
        true, wrong = len(np.unique(train.track[seen])), wrong_passes(trips, train[seen])
        print(f"{level:g} {len(seen)} images, {true} passes: {len(trips.passes)} found, {wrong} of several vehicles")


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


STUDIES: dict[str, Callable[[Lists, argparse.Namespace], None]] = {
    "table": table,
    "controls": controls,
    "ways": ways,
    "hidden": hidden,
    "network": network,
    "scale": scale,
}

if __name__ == "__main__":
    main()
