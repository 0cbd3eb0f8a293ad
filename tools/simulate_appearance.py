"""Find the difficulty at which the simulated appearance reaches each wanted mAP on the test lists.

What it prints is what `tools/spacetime.py --table --simulated` takes; VeRi-776's are in `simulated.DIFFICULTY`.
"""

import argparse

from tqdm import tqdm

from tools.studies.spacetime.simulated import DIFFICULTY, appearance_map, extraction
from torchreid_dfrst.commands import command
from torchreid_dfrst.data.veri776 import read_veri

HARDEST = 4.0


@command
def main() -> None:
    """Bisect, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True, help="folder in VeRi-776's format; the lists are enough")
    parser.add_argument("--mAP", type=float, nargs="*", default=list(DIFFICULTY), help="wanted, in percent")
    args = parser.parse_args()
    data = read_veri(args.root, images=False)
    test = data.train[:0], data.query, data.gallery, data.network

    def reached(difficulty: float) -> float:
        return appearance_map(extraction(*test, difficulty))

    easy, hard = reached(0.0), reached(HARDEST)
    beyond = [f"{wanted:g}" for wanted in args.mAP if not hard < wanted <= easy]
    if beyond:
        raise ValueError(
            f"--mAP {' '.join(beyond)}: simulated appearance reaches {hard:.2f} to {easy:.2f} on these lists"
        )
    for wanted in args.mAP:
        low, high = 0.0, HARDEST
        for _ in tqdm(range(10), leave=False):
            middle = (low + high) / 2
            found = reached(middle)
            low, high = (middle, high) if found > wanted else (low, middle)
        given = f"--simulated {wanted:g}={middle:.5f}"
        print(f"mAP {wanted:g}: difficulty {middle:.5f} gives {found:.2f}; {given}", flush=True)


if __name__ == "__main__":
    main()
