"""The paper's tables, each from one call: what is not trained yet is trained, what is measured stays measured."""

from torchreid_dfrst.reproduction.harness import Harness
from torchreid_dfrst.reproduction.preset import Preset
from torchreid_dfrst.reproduction.tables import TABLES, Table

__all__ = ["TABLES", "Harness", "Preset", "Table"]
