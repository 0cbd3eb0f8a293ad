"""``python -m torchreid_dfrst`` is the command ``dfrst``."""

from torchreid_dfrst.cli import main

if __name__ == "__main__":
    main()
