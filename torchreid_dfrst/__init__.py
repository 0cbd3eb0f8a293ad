"""Vehicle re-identification with space and time for torchreid."""

from torchreid_dfrst.version import __version__

__all__ = ["__version__"]
