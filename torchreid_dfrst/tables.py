"""Reading torchreid's tables: which models and data sets there are, and building them by name."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torchreid
from torch import nn

from torchreid_dfrst.checks import nearest
from torchreid_dfrst.models import FACTORIES, build
from torchreid_dfrst.models.weights import load_backbone
from torchreid_dfrst.registry import table


def require_datasets(names: Iterable[str]) -> None:
    """Refuse names of data sets that torchreid does not know, ours among them.

    Raises:
        KeyError: with the nearest name.
    """
    known = table(torchreid.data.datasets, "__image_datasets")
    for name in names:
        if name not in known:
            raise KeyError(f"no data set {name!r}{nearest(str(name), sorted(known))}")


@contextlib.contextmanager
def with_options(options: Mapping[str, Mapping[str, Any]]) -> Iterator[None]:
    """Meanwhile torchreid's data manager, which builds data sets by name, builds them with these options too.

    Args:
        options: data set to keyword arguments.
    """
    datasets = table(torchreid.data.datasets, "__image_datasets")
    plain = {name: datasets[name] for name in options}
    datasets.update({name: functools.partial(made, **options[name]) for name, made in plain.items()})
    try:
        yield
    finally:
        datasets.update(plain)


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
    if name in FACTORIES:
        return build(name, num_classes, loss="triplet", pretrained=pretrained, **options)
    try:
        model = torchreid.models.build_model(name, num_classes, loss="triplet", pretrained=pretrained)
    except KeyError as error:
        raise KeyError(f"unknown model.name {name!r}{nearest(name, FACTORIES)}; torchreid has none either") from error
    weights = options.pop("weights", None)
    if options:
        raise KeyError(f"model.{next(iter(options))} is an option of {', '.join(FACTORIES)}, not of {name}")
    if weights is not None:
        load_backbone(model, weights)
    if isinstance(model, torchreid.models.pcb.PCB):
        # it flattens its parts by view(), which takes no channels-last maps
        model.parts_avgpool.register_forward_hook(lambda _, __, parts: parts.contiguous())
    return model
