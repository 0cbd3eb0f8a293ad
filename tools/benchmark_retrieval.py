"""Re-ranking, fusion and evaluation against torchreid's own and against the matrix product nobody can avoid."""

from __future__ import annotations

import argparse
import json

from torchreid_dfrst.benchmark_retrieval import SCALES, measure
from torchreid_dfrst.commands import command


@command
def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", choices=SCALES, default="veri")
    parser.add_argument("--rounds", type=int, default=5, help="how often everything runs in turn")
    parser.add_argument("--seed", type=int, default=776)
    parser.add_argument("--without-torchreid", action="store_true", help="leave the slow peers out")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    given = parser.parse_args()
    if given.rounds < 1:
        raise ValueError(f"--rounds is {given.rounds}: 1 or more")
    found = measure(given.scale, given.rounds, given.seed, not given.without_torchreid, given.json)
    print(json.dumps(found, indent=None if given.json else 2))


if __name__ == "__main__":
    main()
