"""Training by configuration; what it needs is imported when a name is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchreid_dfrst.training.configuration import sections, settings, with_defaults
    from torchreid_dfrst.training.optimizer import build_optimizer, build_scheduler
    from torchreid_dfrst.training.run import train

__all__ = ["build_optimizer", "build_scheduler", "sections", "settings", "train", "with_defaults"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from torchreid_dfrst.training import configuration, optimizer, run

    return next(getattr(module, name) for module in (configuration, optimizer, run) if name in vars(module))
