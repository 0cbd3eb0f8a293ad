"""The paper's tables, each from one call: what is not trained yet is trained, what is measured stays measured."""

from tools.studies.reproduction.harness import Harness
from tools.studies.reproduction.preset import Preset
from tools.studies.reproduction.tables import TABLES, Table

__all__ = ["TABLES", "Harness", "Preset", "Table"]
