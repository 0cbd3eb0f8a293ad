"""Tables and picture of docs/page.md from the JSON files that benchmark_retrieval wrote."""

from __future__ import annotations

import argparse

from tools.studies.benchmarks import page
from torchreid_dfrst.commands import command


@command
def main() -> None:
    """Read the results, fill the page, draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="with the JSON files")
    parser.add_argument("--page", default="docs/page.md", help="filled between its two marks")
    parser.add_argument("--picture", default="docs/pictures/retrieval_scaling.png", help="time and memory against N")
    given = parser.parse_args()
    runs = page.read_runs(given.folder)
    page.fill(given.page, page.tables(runs))
    left = "left as it is: fewer than three sizes of --job streamed with one width"
    print(f"{given.page}: {len(runs)} results")
    print(f"{given.picture}: {'drawn' if page.draw(runs, given.picture) else left}")


if __name__ == "__main__":
    main()
