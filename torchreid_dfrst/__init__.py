"""Vehicle re-identification with space and time; torchreid knows its models and data sets once both are imported."""

import warnings
from importlib import import_module

from wrapt import register_post_import_hook

from torchreid_dfrst.version import __version__

__all__ = ["__version__", "register"]


def register() -> None:
    """See ``registry.register``; importing this package and torchreid, in either order, has done it already."""
    import_module("torchreid_dfrst.registry").register()


# torchreid's evaluation in Python is slow and says so; ours takes its place, so nobody has to compile anything
warnings.filterwarnings("ignore", "Cython evaluation .* is unavailable", UserWarning)
# whichever of torchreid and our data sets is imported first imports the other; the data sets are whole last
register_post_import_hook(lambda _: register(), f"{__name__}.data")
register_post_import_hook(lambda _: import_module(f"{__name__}.data"), "torchreid")
