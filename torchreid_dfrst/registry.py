"""The one file that touches torchreid's tables: our models and data sets under their names."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any

import torchreid

from torchreid_dfrst.data import DATASETS
from torchreid_dfrst.models import FACTORIES
from torchreid_dfrst.names import nearest


def register() -> None:
    """Make ``torchreid.models.build_model`` know our models and ``torchreid.data.ImageDataManager`` our data sets.

    torchreid has no function to register a model, and its function for data sets refuses to run twice, so both go
    straight into its private tables. Registering again changes nothing. Either all names are taken or none.

    Raises:
        RuntimeError: this torchreid does not have the tables.
        ValueError: a name already belongs to something that is not ours.
    """
    models, datasets = _table(torchreid.models, "__model_factory"), _table(torchreid.data.datasets, "__image_datasets")
    _refuse_clashes("model", models, FACTORIES)
    _refuse_clashes("data set", datasets, DATASETS)
    models.update(FACTORIES)
    datasets.update(DATASETS)


def require_datasets(names: Iterable[str]) -> None:
    """Refuse names of data sets that torchreid does not know, ours among them.

    Raises:
        KeyError: with the nearest name.
    """
    known = _table(torchreid.data.datasets, "__image_datasets")
    for name in names:
        if name not in known:
            raise KeyError(f"no data set {name!r}{nearest(str(name), sorted(known))}")


@contextlib.contextmanager
def with_options(options: Mapping[str, Mapping[str, Any]]) -> Iterator[None]:
    """Meanwhile torchreid's data manager, which builds data sets by name, builds them with these options too.

    Args:
        options: data set to keyword arguments.
    """
    table = _table(torchreid.data.datasets, "__image_datasets")
    plain = {name: table[name] for name in options}
    table.update({name: functools.partial(made, **options[name]) for name, made in plain.items()})
    try:
        yield
    finally:
        table.update(plain)


def _table(module: ModuleType, name: str) -> dict[str, Any]:
    table = vars(module).get(name)
    if not isinstance(table, dict):
        raise RuntimeError(
            f"torchreid {torchreid.__version__} has no table {module.__name__}.{name}, into which torchreid_dfrst "
            "registers itself: it works with 0.2.5 (PyPI) and 1.4.0 (GitHub)"
        )
    return table


def _refuse_clashes(what: str, table: dict[str, Any], ours: dict[str, Any]) -> None:
    for name, value in ours.items():
        if name in table and _origin(table[name]) != _origin(value):
            raise ValueError(
                f"torchreid already knows a {what} {name!r}, {'.'.join(_origin(table[name]))}: torchreid_dfrst does "
                "not replace it; register the other one under another name, or after importing torchreid_dfrst"
            )


def _origin(value: Any) -> tuple[str, str]:
    """Where a function or class was defined; after a reload it is another object but still the same one."""
    return value.__module__, value.__qualname__
