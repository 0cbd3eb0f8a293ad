"""The package version, the only place it is written."""

import importlib.metadata
import platform

PACKAGES = ("torch", "torchvision", "torchreid", "numpy", "scipy", "faiss-gpu", "faiss-cpu")

__version__ = "0.1.0"


def versions() -> dict[str, str]:
    """Versions of this package, of Python and of what computes, as installed."""
    found = {"torchreid_dfrst": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
