"""Training by configuration; what it needs is imported when a name is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchreid_dfrst.training.optimizer import build_optimizer, build_scheduler
    from torchreid_dfrst.training.run import resolved, sections, settings, train

__all__ = ["build_optimizer", "build_scheduler", "resolved", "sections", "settings", "train"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from torchreid_dfrst.training import optimizer, run

    return getattr(optimizer if name.startswith("build_") else run, name)
