"""Score features: what ``dfrst evaluate`` does, as a script."""

import sys

from torchreid_dfrst.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
