"""Re-ranking, fusion and evaluation against torchreid's own and against the matrix product nobody can avoid."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from tools.studies.benchmarks import parts
from tools.studies.benchmarks.retrieval import HELD, SCALES, described, machine, measure, measure_cold, measure_streamed
from torchreid_dfrst.commands import command

JOBS = {
    "rerank": "re-ranking, evaluation and floor in turns; in blocks and fresh processes beyond 21,000 images",
    "streamed": "re-ranking in blocks and fresh processes, at any size",
    "cold": "the whole job with both mAPs in fresh processes",
    "transit": "fused distances of all pairs against NumPy's, and the bound against the block",
    "clustering": "the Jaccard distance of all rows",
}


@command
def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", choices=SCALES, default="veri")
    parser.add_argument(
        "--job", choices=JOBS, default="rerank", help="; ".join(f"{name}: {what}" for name, what in JOBS.items())
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often everything runs in turn")
    parser.add_argument("--seed", type=int, default=776)
    parser.add_argument("--without-torchreid", action="store_true", help="leave the slow peers out")
    parser.add_argument("--spcl", metavar="DIR", help="spcl/utils of a clone of SpCL, to measure --job clustering with")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    given = parser.parse_args()
    if given.rounds < 1:
        raise ValueError(f"--rounds is {given.rounds}: 1 or more")
    scale, rounds, seed, peers = given.scale, given.rounds, given.seed, not given.without_torchreid
    images = sum(SCALES[scale][:2])
    words = ["DIR" if word == given.spcl else word for word in sys.argv[1:]]
    command_line = " ".join(["dfrst-benchmark-retrieval", *words])
    found: dict[str, Any] = described(scale, seed) | {"job": given.job, "command": command_line}
    if given.job == "streamed" or (given.job == "rerank" and images > HELD):
        found |= measure_streamed(scale, rounds, seed)
    elif images > HELD:
        raise ValueError(f"--job {given.job} holds matrices of all {images} images of --scale {scale}: at most {HELD}")
    elif given.job == "rerank":
        found |= measure(scale, rounds, seed, peers, given.json)
    elif given.job == "cold":
        found |= measure_cold(scale, rounds, seed, peers)
    elif given.job == "transit":
        found |= parts.transit_speed(SCALES[scale], seed, rounds) | machine(rounds)
    else:
        found |= parts.clustering_speed(SCALES[scale], seed, rounds, given.spcl) | machine(rounds)
    print(json.dumps(found, indent=None if given.json else 2))


if __name__ == "__main__":
    main()
