"""Find the difficulty at which the simulated appearance reaches each wanted mAP on the test lists."""

import argparse

from tqdm import tqdm

from torchreid_dfrst.commands import command
from torchreid_dfrst.data.veri_format import read_veri
from torchreid_dfrst.spatiotemporal.simulated import DIFFICULTY, appearance_map, extraction


@command
def main() -> None:
    """Bisect, print what belongs into ``simulated.DIFFICULTY``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True, help="folder in VeRi-776's format; the lists are enough")
    parser.add_argument("--mAP", type=float, nargs="*", default=list(DIFFICULTY), help="wanted, in percent")
    args = parser.parse_args()
    data = read_veri(args.root, images=False)
    test = data.train[:0], data.query, data.gallery, data.network
    for wanted in args.mAP:
        low, high = 0.0, 4.0
        for _ in tqdm(range(10)):
            middle = (low + high) / 2
            reached = appearance_map(extraction(*test, middle))
            low, high = (middle, high) if reached > wanted else (low, middle)
        print(f"mAP {wanted:g}: difficulty {middle:.5f} gives {reached:.2f}", flush=True)


if __name__ == "__main__":
    main()
