"""Reading torchreid's tables: which models and data sets there are, and building them by name."""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType
from typing import Any
from urllib.error import URLError

from torch import nn

from torchreid_dfrst.messages import nearest


def table(module: ModuleType, name: str) -> dict[str, Any]:
    """A private table of torchreid: ``__model_factory`` of models, ``__image_datasets`` of data sets."""
    found = vars(module).get(name)
    if not isinstance(found, dict):
        import torchreid

        raise RuntimeError(
            f"torchreid {torchreid.__version__} has no table {module.__name__}.{name}, into which torchreid_dfrst "
            "registers itself: it works with 0.2.5 (PyPI) and 1.4.0 (GitHub)"
        )
    return found


def require_datasets(names: Iterable[str]) -> None:
    """Raise a ``KeyError`` for names of data sets that torchreid does not know, ours among them."""
    import torchreid

    known = table(torchreid.data.datasets, "__image_datasets")
    for name in names:
        if name not in known:
            raise KeyError(f"no data set {name!r}{nearest(str(name), sorted(known))}")


def make_dataset(name: str, root: str, **options: Any) -> Any:
    """A data set that torchreid knows; its own are downloaded where they are missing."""
    import torchreid

    try:
        return torchreid.data.datasets.init_image_dataset(name, root=root, **options)
    except (URLError, RuntimeError) as error:  # ours raise neither
        raise OSError(
            f"{name} is not whole below {root}, and torchreid cannot get it: put it there ({error})"
        ) from error


def build_model(num_classes: int, name: str = "dfrst", pretrained: bool = True, **options: Any) -> nn.Module:
    """Our networks with their options, torchreid's as they are.

    Args:
        num_classes: identities in training.
        name: a registered name.
        pretrained: start from ImageNet's weights.
        options: of ours, see ``models.build``; torchreid's networks have ``weights`` alone, see ``load_backbone``.

    Raises:
        KeyError: an unknown name or option.
    """
    import torchreid

    from torchreid_dfrst.models import FACTORIES, build, load_backbone

    if name in FACTORIES:
        return build(name, num_classes, loss="triplet", pretrained=pretrained, **options)
    try:
        model = torchreid.models.build_model(name, num_classes, loss="triplet", pretrained=pretrained)
    except KeyError as error:
        known = {**FACTORIES, **table(torchreid.models, "__model_factory")}  # ours are in both: each name once
        raise KeyError(f"unknown model.name {name!r}{nearest(name, known)}") from error
    weights = options.pop("weights", None)
    if options:
        raise KeyError(f"model.{next(iter(options))} is an option of {', '.join(FACTORIES)}, not of {name}")
    if weights is not None:
        load_backbone(model, weights)
    if isinstance(model, torchreid.models.pcb.PCB):
        # it flattens its parts by view(), which takes no channels-last maps
        model.parts_avgpool.register_forward_hook(lambda _, __, parts: parts.contiguous())
    return model
