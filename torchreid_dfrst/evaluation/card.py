"""The result card: every choice and every number of one evaluation, in a file that can be cited."""

from __future__ import annotations

import datetime
import hashlib
import io
import json
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from torchreid_dfrst import files
from torchreid_dfrst.evaluation.intervals import FEWEST, MEASURES, bootstrap, interval, shares
from torchreid_dfrst.evaluation.protocols import Protocol
from torchreid_dfrst.files import file_digest
from torchreid_dfrst.messages import numbered
from torchreid_dfrst.names import without_common_folder
from torchreid_dfrst.retrieval import Extraction, Metrics
from torchreid_dfrst.retrieval.metrics import Best
from torchreid_dfrst.sightings import Sightings, fingerprint
from torchreid_dfrst.spatiotemporal import GapModel
from torchreid_dfrst.version import versions

FORMAT = "torchreid_dfrst card 1"
SAMPLES = 1000
NEEDED = ("rows", "intervals", "protocol", "queries", "gallery", "data", "choices", "source")
AGAIN = "make it again with `dfrst evaluate`"
UNNAMED = "data without a name"
HEADING = "".join(f"{name:>8}" for name in MEASURES)


@dataclass(frozen=True, eq=False)
class Result:
    """The rows of one evaluation.

    Args:
        protocol: what was ranked against what, and what counted.
        draws: row name (such as ``"+ ST"``) to its metrics, one per draw of the protocol (most draw once).
        pairs: query and gallery sightings of each draw.
        choices: every option that had a say, JSON types only.
        neighbours: re-ranked row to what its search of neighbours reports, see ``scoring.rankings``, one per draw.
        ranked: the features of the first draw.
        best: row name to the first ``scoring.TOP`` images of each query, and its first right one, of the first draw.
        transit: the fitted space-time model, None where the result is by appearance alone.
    """

    protocol: Protocol
    draws: dict[str, list[Metrics]]
    pairs: list[tuple[Sightings, Sightings]]
    choices: dict[str, Any]
    neighbours: dict[str, list[dict[str, Any]]]
    ranked: Extraction
    best: dict[str, Best]
    transit: GapModel | None

    @property
    def metrics(self) -> dict[str, Metrics]:
        """Metrics of the first draw by row name."""
        return {row: draws[0] for row, draws in self.draws.items()}


@dataclass(frozen=True, eq=False)
class Card:
    """One evaluation.

    Args:
        content: what ``card.json`` holds, JSON types only; shares are in percent.
        queries: column name to one value per used query of every draw: ``draw``, ``path``, ``identity``, and
            ``row/measure`` in [0, 1] for each row of the card. Empty if that file was lost.
    """

    content: dict[str, Any]
    queries: dict[str, np.ndarray] = field(default_factory=dict)

    def save(self, path: str | Path) -> None:
        """Write ``card.json``, and ``card.queries.npz`` beside it for paired tests; both whole, or an ``OSError``."""
        path = Path(path)
        queries = io.BytesIO()
        np.savez_compressed(queries, **self.queries)  # type: ignore[arg-type]
        content = {**self.content, "queries_sha256": hashlib.sha256(queries.getvalue()).hexdigest()}
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        files.write({_queries_file(path): queries.getvalue(), path: text.encode()})

    @classmethod
    def load(cls, path: str | Path) -> Card:
        """Read a card and, if it is still there, the file of its queries.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: not a card of ours, or the file of queries belongs to another one.
        """
        path = Path(path)
        files.require_file(path, f"no result card at {path}: make one with `dfrst evaluate`")
        content = files.read_json(path, "result card", AGAIN)
        if content.get("format") != FORMAT:
            raise ValueError(f"{path} is no result card of the form {FORMAT!r}: {AGAIN}")
        lost = [key for key in NEEDED if key not in content]
        if lost:
            raise ValueError(f"the result card {path} lacks {', '.join(lost)}: {AGAIN}")
        try:
            cls(content).table()
        except files.DAMAGED as error:
            raise ValueError(f"the result card {path} holds what no card does, and cannot be shown: {AGAIN}") from error
        if not _queries_file(path).is_file():
            return cls(content)
        if file_digest(_queries_file(path)) != content.get("queries_sha256"):
            raise ValueError(
                f"{_queries_file(path)} does not belong to {path}: one of them was overwritten; make both again"
            )
        try:
            return cls(content, files.read_arrays(_queries_file(path)))
        except files.DAMAGED as error:
            raise ValueError(f"{_queries_file(path)} cannot be read ({error}): {AGAIN}") from error

    def table(self) -> str:
        """The card for a screen: the rows with their 95 % intervals, then what they were measured on and how."""
        content = self.content
        rows, protocol, queries, data = (content[key] for key in ("rows", "protocol", "queries", "data"))
        width = max(len("  over draws"), *map(len, rows))
        lines = [" " * width + HEADING + f"{'mAP, 95 %':>18}{'R1, 95 %':>18}"]
        for name, values in rows.items():
            sure = values["interval"]
            lines.append(f"{name:<{width}}{numbers(values)}{ends(sure['mAP'])}{ends(sure['R1'])}")
            if "deviation" in values:
                lines.append(f"{'  over draws':<{width}}{numbers(values['deviation'])}  (standard deviation)")
        lines += textwrap.wrap(f"{data['name'] or UNNAMED} ({data['fingerprint']}); {protocol['in words']}", 100)
        skipped = "".join(f"; {count} skipped: {why}" for why, count in queries["why"].items() if count)
        used = numbered("{count} [query|queries] used", queries["used"])
        lines.append(f"{used} of {queries['used'] + queries['skipped']:,}{skipped}")
        nobody = data["gallery"].get("without identity", 0)
        distractors = f" ({numbered('{count} without identity, never right', nobody)})" if nobody else ""
        lines.append(f"gallery of {content['gallery']:,}{distractors}; intervals: {content['intervals']}")
        if content.get("calibration"):
            lines += textwrap.wrap(_calibration_in_words(content["calibration"]), 100)
        return "\n".join(lines + textwrap.wrap(_choices_in_words(content["choices"], content["source"]), 100))


def make_card(
    result: Result, extraction: Extraction, command: str, calibration: Mapping[str, Any] | None = None
) -> Card:
    """Every number and every choice of one evaluation.

    Of the features that were scored, of the command line that did, and of what ``openset.measure`` says.
    """
    draws = next(iter(result.draws.values()))
    used = [np.flatnonzero(metrics.first_match) for metrics in draws]
    asked = [query for query, _ in result.pairs]
    columns = {
        "draw": np.repeat(np.arange(len(used)), [len(rows) for rows in used]),
        "path": np.concatenate([_query_names(query)[rows] for query, rows in zip(asked, used, strict=True)]),
        "identity": np.concatenate([query.identity[rows] for query, rows in zip(asked, used, strict=True)]),
    }
    scores = {row: shares(found) for row, found in result.draws.items()}
    vehicles = len(np.unique(columns["identity"]))
    train = extraction.train
    content = {
        "format": FORMAT,
        "rows": {row: _numbers_of_row(found, columns) for row, found in scores.items()},
        "vehicles": vehicles,
        "intervals": f"95 %, Bayesian bootstrap over {vehicles} vehicles, {SAMPLES} samples"
        if vehicles >= FEWEST
        else f"none, for {few(vehicles)}",
        "protocol": {**asdict(result.protocol), "in words": result.protocol.describe()},
        "queries": _counts_of_queries(result),
        "gallery": len(result.pairs[0][1]),
        "data": {
            "name": extraction.source.get("data"),
            "fingerprint": fingerprint(_test_data(extraction, result.protocol), extraction.network),
            "query": _size_of_part(extraction.query.sightings),
            "gallery": _size_of_part(extraction.gallery.sightings),
            "train": None if train is None else {**_size_of_part(train), "fingerprint": fingerprint([train])},
        },
        "embedding": extraction.query.embedding.shape[1],
        "choices": result.choices,
        "calibration": None if calibration is None else dict(calibration),
        "neighbours": {row: _over_draws(found) for row, found in result.neighbours.items()},
        "source": extraction.source,
        "command": command,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(),
    }
    content = {**files.without_folders(content), "command": _without_folders(command)}
    return Card(content, columns | {f"{row}/{name}": v for row, found in scores.items() for name, v in found.items()})


def _without_folders(command: str) -> str:
    """A command line whose words name no folder of the machine it ran on."""
    try:
        words = [word.partition("=") for word in shlex.split(command)]
    except ValueError:  # no command line of a shell
        return command
    return shlex.join("".join(map(files.without_folders, parts)) for parts in words)


def _query_names(query: Sightings) -> np.ndarray:
    """One name per query, under which another card finds it again: there may be no paths."""
    found = without_common_folder(query.path)
    if len(np.unique(found)) == len(found):
        return found
    return np.array([f"row {row} of vehicle {identity}" for row, identity in enumerate(query.identity.tolist())])


def numbers(values: Mapping[str, float]) -> str:
    """The measures of a row below ``HEADING``."""
    return "".join(f"{values[measure]:8.2f}" for measure in MEASURES)


def ends(interval: Sequence[float] | None) -> str:
    """An interval beside ``numbers``, or that there is none."""
    return "  [{:6.2f},{:6.2f}]".format(*interval) if interval else f"{'none':>18}"


def few(vehicles: int) -> str:
    """Why there is no interval."""
    return f"{numbered('{count} [vehicle is|vehicles are]', vehicles)} too few: {FEWEST} at least"


def _calibration_in_words(calibration: Mapping[str, Any]) -> str:
    """Measures of probabilities and refusals in a line."""
    measured = {f"{name} {at}": one for name in ("FNMR", "TPIR") for at, one in calibration[name].items()}
    measured |= {name: calibration[name] for name in ("F1", "TNR")}
    measured |= {f"look-alikes taken for one vehicle {how}": one for how, one in calibration["look_alikes"].items()}
    parts = [f"{name} {one['value']:.3f}{_ends(one)}" for name, one in measured.items() if one]
    lost = [name for name, one in measured.items() if not one]
    parts += [f"too few for {', '.join(lost)}"] if lost else []
    pairs, hits = calibration["pairs_ece"], calibration["hits_ece"]
    absent = numbered("{count} [query|queries]", calibration["strangers"]["queries"])
    return (
        f"probabilities ({calibration['row']}): calibration error {pairs['value']:.3f}{_ends(pairs)} of pairs, "
        f"{hits['value']:.3f}{_ends(hits)} of first hits; with {absent} not in the gallery: {', '.join(parts)}"
    )


def _ends(one: Mapping[str, Any]) -> str:
    return " [{:.3f}, {:.3f}]".format(*one["interval"]) if one["interval"] else ""


def _choices_in_words(choices: Mapping[str, Any], source: Mapping[str, Any]) -> str:
    """The choices behind the rows in a line: network, space-time model and its weight, re-ranking."""
    network, spacetime, rerank = source.get("network"), choices.get("spacetime"), choices.get("rerank")
    name = network.get("name") if isinstance(network, Mapping) else network
    if isinstance(network, Mapping) and "backbone" in network:
        name = f"{name} on {network['backbone']}"
    parts = [f"network: {name or 'not named'}", "no ST", "no re-ranking"]
    if spacetime:
        origin = spacetime.get("weight_from")
        how = f"chosen by {origin.get('method')}" if isinstance(origin, Mapping) else origin
        parts[1] = f"ST: {spacetime.get('model')}, omega {spacetime.get('weight'):.4g} ({how})"
        parts[1] += f", distances: {spacetime['distances']}" if "distances" in spacetime else ""
    if rerank:
        parts[2] = f"re-ranking: k1 {rerank.get('k1')}, k2 {rerank.get('k2')}, lambda {rerank.get('lambda_value')}"
    if choices.get("trips"):
        parts.append(f"trips: {choices['trips']}")
    return "; ".join(parts)


def _test_data(extraction: Extraction, protocol: Protocol) -> list[Sightings]:
    parts = [extraction.query.sightings, extraction.gallery.sightings]
    if protocol.one_image is None:
        return parts
    # the images are drawn anew, so how they were split for extraction says nothing
    everything = Sightings.concatenate(parts)
    return [replace(everything, camera=np.zeros(len(everything), dtype=np.int64))]


def _numbers_of_row(found: Mapping[str, np.ndarray], columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Of each measure, in percent, the mean over draws, its interval (None for few vehicles) and their deviation."""
    draw = columns["draw"]
    means = {name: np.bincount(draw, value) / np.bincount(draw) for name, value in found.items()}
    result: dict[str, Any] = {name: _percent(mean.mean()) for name, mean in means.items()}
    vehicle = columns["identity"]
    result["interval"] = dict.fromkeys(found)
    if len(np.unique(vehicle)) >= FEWEST:
        sure = {name: interval(bootstrap(value, vehicle, SAMPLES), value.mean()) for name, value in found.items()}
        result["interval"] = {name: [_percent(low), _percent(high)] for name, (low, high) in sure.items()}
    if draw.max() > 0:
        result["deviation"] = {name: _percent(mean.std(ddof=1)) for name, mean in means.items()}
    return result


def _counts_of_queries(result: Result) -> dict[str, Any]:
    """How many queries count, why the others do not, and some of these."""
    nobody = absent = alone = used = 0
    examples: list[str] = []
    for metrics, (query, gallery) in zip(next(iter(result.draws.values())), result.pairs, strict=True):
        lost = np.flatnonzero(metrics.first_match == 0)
        asked = lost[query.known[lost]]
        here = np.isin(query.identity[asked], gallery.identity)
        used, absent, alone = used + metrics.used, absent + int((~here).sum()), alone + int(here.sum())
        nobody += len(lost) - len(asked)
        examples += [Path(path).name for path in query.path[lost[:3]]]
    why = {"vehicle not in the gallery": absent, "vehicle seen by the query's own camera only": alone}
    why |= {"no identity": nobody} if nobody else {}
    return {"used": used, "skipped": absent + alone + nobody, "why": why, "examples": examples[:3]}


def _over_draws(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts added up, words side by side, of what is measured the first draw's."""
    columns = {name: [one.get(name, 0) for one in found] for name in found[0]}
    return {
        n: ", ".join(dict.fromkeys(c)) if isinstance(c[0], str) else c[0] if isinstance(c[0], dict) else sum(c)
        for n, c in columns.items()
    }


def _size_of_part(part: Sightings) -> dict[str, int]:
    size = {"images": len(part), "vehicles": len(part.vehicles), "cameras": len(np.unique(part.camera))}
    nobody = int((~part.known).sum())
    return {**size, "without identity": nobody} if nobody else size


def _percent(share: float) -> float:
    return round(100 * float(share), 4)


def _queries_file(path: Path) -> Path:
    return path.with_name(path.stem + ".queries.npz")
