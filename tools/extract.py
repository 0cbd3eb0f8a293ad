"""Extract the features of a data set: what ``dfrst extract`` does, as a script."""

import sys

from torchreid_dfrst.cli import main

if __name__ == "__main__":
    main(["extract", *sys.argv[1:]])
