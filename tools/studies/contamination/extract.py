"""Features of a data set whose test images are damaged.

python -m tools.studies.contamination.extract --contaminate mosaic:20 --weights W --root DIR -t NAME --out F.npz
"""

from __future__ import annotations

import argparse

from tools.studies.contamination import damage
from torchreid_dfrst.cli import command
from torchreid_dfrst.cli.extract import arguments, run


@command
def main() -> None:
    """Read the arguments of ``dfrst extract`` and the damage, extract, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = f"of the test images; KIND is {', '.join(damage.KINDS)}"
    parser.add_argument("--contaminate", required=True, metavar="KIND:PERCENT", help=kinds)
    arguments(parser)
    args = parser.parse_intermixed_args()
    run(args, contaminate=damage.one(args.contaminate))


if __name__ == "__main__":
    main()
