"""Vehicle re-identification with space and time for torchreid; importing it registers its models and data sets."""

import warnings

with warnings.catch_warnings():
    # torchreid's evaluation in Python is slow and says so; ours takes its place, so nobody has to compile anything
    warnings.filterwarnings("ignore", "Cython evaluation .* is unavailable", UserWarning)
    from torchreid_dfrst.registry import register
from torchreid_dfrst.version import __version__

__all__ = ["__version__", "register"]

register()
