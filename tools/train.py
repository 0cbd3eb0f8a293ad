"""Train a network: what ``dfrst train`` does, as a script."""

import sys

from torchreid_dfrst.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
