"""Vehicle re-identification with space and time for torchreid; importing it registers its models and data sets."""

from torchreid_dfrst.registry import register
from torchreid_dfrst.version import __version__

__all__ = ["__version__", "register"]

register()
