"""The one file that writes torchreid's tables: our models and data sets under their names."""

from __future__ import annotations

from typing import Any

from torchreid_dfrst.torchreid_tables import table


def register() -> None:
    """Make ``torchreid.models.build_model`` know our models and ``torchreid.data.ImageDataManager`` our data sets.

    torchreid has no function to register a model, and its function for data sets refuses to run twice. Registering
    again changes nothing. Either all names are taken or none.

    Raises:
        ValueError: a name already belongs to something that is not ours.
    """
    # importing torchreid registers, for which this file has to be whole
    import torchreid

    from torchreid_dfrst.data import DATASETS
    from torchreid_dfrst.models import FACTORIES

    models, datasets = table(torchreid.models, "__model_factory"), table(torchreid.data.datasets, "__image_datasets")
    for what, known, ours in (("model", models, FACTORIES), ("data set", datasets, DATASETS)):
        for name, value in ours.items():
            if _origin(known.get(name, value)) != _origin(value):
                raise ValueError(
                    f"torchreid already knows a {what} {name!r}, {_origin(known[name])}: torchreid_dfrst does not "
                    "replace it; register the other one under another name, or after importing torchreid_dfrst"
                )
    models.update(FACTORIES)
    datasets.update(DATASETS)


def _origin(value: Any) -> str:
    """Where a function or class was defined; after a reload it is another object but still the same one."""
    return f"{value.__module__}.{value.__qualname__}"
