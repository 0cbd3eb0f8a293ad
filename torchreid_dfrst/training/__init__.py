"""Training by configuration."""

from torchreid_dfrst.training.configuration import sections, settings, with_defaults
from torchreid_dfrst.training.optimizer import build_optimizer, build_scheduler
from torchreid_dfrst.training.run import train

__all__ = ["build_optimizer", "build_scheduler", "sections", "settings", "train", "with_defaults"]
