"""Fit space-time models and score them without looking at an image.

    dfrst spacetime --root DIR -t veri776
    dfrst spacetime features.npz spacetime.model likelihood spacetime.options.relays 0 --save model.json

Models are fitted on training sightings and rank the gallery by time and camera alone.
"""

import argparse
from collections.abc import Mapping
from typing import Any

from torchreid_dfrst.cli.arguments import NAME, ROOT, features_among, say, wrote


def arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dfrst spacetime``."""
    source(parser)
    parser.add_argument("--save", metavar="FILE", help="write the fitted model, for spacetime.fitted of dfrst evaluate")
    parser.add_argument("--json", action="store_true", help="print one JSON object: model to scores and parameters")


def run(args: argparse.Namespace) -> None:
    """Run ``dfrst spacetime``."""
    from torchreid_dfrst.evaluation import audit
    from torchreid_dfrst.files import require_writable

    if args.save:
        require_writable(args.save)
    data, settings = read(args)
    chosen = models(settings)
    if args.save and len(chosen) > 1:
        raise ValueError("--save writes one model: say which by spacetime.model NAME")
    found: dict[str, Any] = {}
    for model in chosen:
        model.fit(data.train, data.network)
        if not found:  # it would say the same of every model
            model.check_use(data.query.sightings, data.gallery.sightings, data.called)
        score = audit.alone(model, data.query.sightings, data.gallery.sightings)
        found[model.name] = {**score, **model.parameters}
        if not args.json:
            figures = ", ".join(f"{name} {score[name]:.2f}" for name in ("mAP", "R1", "R5"))
            low, high = score["mAP_ties"]
            say(f"{model.name:12}{figures}; by the order of ties mAP {low:.2f} to {high:.2f}")
    if args.json:
        say(found)
    elif len(chosen) == 1:
        say(chosen[0].describe())
    if args.save:
        chosen[0].save(args.save)
        wrote(args.save)


def source(parser: argparse.ArgumentParser) -> None:
    """The arguments that ``read`` reads."""
    words = "a features file, then spacetime.model NAME and spacetime.options.NAME VALUE (default: every model)"
    parser.add_argument("words", nargs="*", metavar="FEATURES | section.key value", help=words)
    parser.add_argument("--root", help=f"instead of a features file: {ROOT}; lists are enough, no image is read")
    parser.add_argument("-t", "--target", help=f"with --root: {NAME}")


def read(args: argparse.Namespace, keys: Mapping[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
    """What models are fitted and scored on, an ``Extraction``, and the section ``spacetime``.

    The section may hold ``keys``, each with its type, beside ``model`` and ``options``. The embeddings of an extraction
    that was made from lists say nothing.
    """
    from torchreid_dfrst import config
    from torchreid_dfrst.retrieval import Extraction

    file, words = features_among(args.words)
    if (args.root is None) != (args.target is None):
        raise ValueError("--root DIR and -t NAME go together")
    if (file is None) == (args.root is None):
        raise ValueError("give either a features file or --root DIR -t NAME")
    known = config.Keywords({"model": str, "options": Mapping[str, Any], **(keys or {})})
    settings = config.load(None, words, {"spacetime": known})["spacetime"]
    found = Extraction.load(file) if file is not None else _extraction_of_lists(args.target, args.root)
    for what, part in (("training sightings", found.train), ("road distances between its cameras", found.network)):
        if part is None:
            raise ValueError(f"{file or args.root} has no {what}: space and time need them")
    return found, settings


def models(settings: Mapping[str, Any]) -> list[Any]:
    """The model that the section ``spacetime`` asks for, or all."""
    from torchreid_dfrst.spatiotemporal import MODELS, build

    if "model" in settings:
        return [build(settings["model"], **settings.get("options", {}))]
    if settings.get("options"):
        raise ValueError("spacetime.options are those of one model: say which by spacetime.model NAME")
    return [build(name) for name in MODELS]


def _extraction_of_lists(name: str, root: str) -> Any:
    import numpy as np

    from torchreid_dfrst.data import DATASETS, VeRiFormat
    from torchreid_dfrst.data.veri776 import LISTS
    from torchreid_dfrst.messages import nearest
    from torchreid_dfrst.retrieval import Extraction, Features

    if name not in DATASETS:
        raise KeyError(f"no data set {name!r}{nearest(name, DATASETS)}")
    made: Any = DATASETS[name]
    if issubclass(made, VeRiFormat):
        data = made.read(made.find(root, (LISTS["train"],)), images=False)
    else:
        data = made.read(made.find(root))
    query, gallery = (Features(np.ones((len(part), 1)), part) for part in (data.query, data.gallery))
    return Extraction(query, gallery, train=data.train, network=data.network, source={"data": name}, file=root)
