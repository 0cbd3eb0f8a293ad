"""Score features by appearance, space and time, and re-ranking.

    dfrst evaluate runs/demo/features.npz spacetime.weight 0.1 rerank.k1 30

prints four rows, by appearance, + ST, + re-ranking, + both, and writes a card and pictures. The sections are spacetime,
rerank and evaluate: `spacetime.model null` leaves space and time out, `evaluate.rerank false` re-ranking;
`evaluate.protocol image-to-track-min` ranks tracks (the default is the data set's own protocol).
"""

import argparse
import functools
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torchreid_dfrst.cli.arguments import USER_ERROR, ListKeys, features_among, say, scoring, tell, wrote


def arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``dfrst evaluate``."""
    words = "file of dfrst extract or dfrst import, and settings such as rerank.k1 30; --list-keys names all"
    scoring(parser, words, "; sections that only training needs are passed over")
    weights = "the network behind the features, for attention maps; settings come from --config-file"
    parser.add_argument("--weights", type=Path, help=weights)
    parser.add_argument("--out", type=Path, help="folder for card.json and pictures (default: beside the features)")
    parser.add_argument(
        "--lists", type=int, default=4, help="queries on the sheet of ranked lists (%(default)s; 0: no pictures)"
    )
    parser.add_argument("--page", type=Path, help="write a page that opens in any browser, as dfrst page does")
    parser.add_argument("--json", action="store_true", help="print the card instead of the table")
    parser.add_argument("--list-keys", action=ListKeys, const="evaluation")


def run(args: argparse.Namespace) -> int | None:
    """Run ``dfrst evaluate``."""
    from torchreid_dfrst import processes

    # a process that has died is noticed at once; this is how long the others may wait for one that works
    group = processes.start(timeout_minutes=7 * 24 * 60)
    if group.world_size > 1:
        return together(args, group)
    score(args, None)
    return None


def together(args: argparse.Namespace, group: Any) -> int:
    """Score on several processes; process 0 says what went wrong, or process 1 that process 0 is gone."""
    from torchreid_dfrst import processes
    from torchreid_dfrst.retrieval import shards

    file, _ = features_among(args.words)
    signal.signal(signal.SIGTERM, _end_on_signal)
    try:
        with processes.telling():
            shards.agree("features", pieces(file))
            if group.main:
                score(args, group)
                shards.dismiss(group)
            while not group.main and shards.follow(group):
                pass
    except (ValueError, KeyError, OSError, MemoryError) as error:
        if group.main or (group.rank == 1 and str(error).startswith("process 0 has ended")):
            raise
        return USER_ERROR
    processes.stop()
    return 0


def _end_on_signal(number: int, frame: object) -> None:
    raise OSError("ended by SIGTERM: another process of the run has failed or was killed, or the job was stopped")


def pieces(file: str | None) -> Iterator[bytes]:
    """The bytes of the features file, if one is named; what is wrong with the words is found out when they are read."""
    if file is not None:
        from torchreid_dfrst.files import require_file

        require_file(file, f"no features at {file}: every machine needs them")
        with open(file, "rb") as opened:
            yield from iter(functools.partial(opened.read, 1 << 20), b"")


def score(args: argparse.Namespace, group: Any) -> None:
    """Score, write and draw, with the help of the other processes of a group."""
    from torchreid_dfrst import evaluation
    from torchreid_dfrst.features import require_weights

    if args.lists < 0:
        raise ValueError(f"--lists is {args.lists}: how many queries to draw, 0 for none")
    file, extraction, choices = read(args)
    out = args.out or Path(file).parent
    if args.weights:
        require_weights(args.weights, extraction.source)
    result = evaluation.score(extraction, **choices, group=group)
    calibration = evaluation.calibrate(extraction, result.transit)
    measured = None if calibration is None else evaluation.open_set(calibration, result)
    card = evaluation.card(result, extraction, args.command, measured)
    # before anything that may fail: scoring can take hours
    say(card.content if args.json else card.table())
    card.save(out / "card.json")
    wrote(out / "card.json")
    if calibration:
        calibration.save(out / "calibration.json")
        wrote(out / "calibration.json")
    if args.lists:
        from torchreid_dfrst.inference.pictures_and_pages import missing_images, show_attention, show_rankings

        if missing := missing_images(result):
            tell(f"no pictures: {missing}")
        else:
            wrote(*show_rankings(result, out / "pictures", args.lists))
            if args.weights:
                wrote(*show_attention(args.weights, result, out / "pictures", (args.lists + 1) // 2))
    if args.page:
        from torchreid_dfrst.inference.pictures_and_pages import page_of_result

        page_of_result(result, args.weights).save(args.page)
        wrote(args.page)


def read(args: argparse.Namespace) -> tuple[str, Any, dict[str, Any]]:
    """The features file among ``args.words``, what it holds, an ``Extraction``, and the sections for scoring it."""
    from torchreid_dfrst import config, evaluation
    from torchreid_dfrst.retrieval import Extraction

    file, words = features_among(args.words)
    if file is None:
        command = args.command.split()[1]
        raise ValueError(f"no features file among {' '.join(args.words)}: dfrst {command} FEATURES [section.key value]")
    known = sections = evaluation.sections()
    if args.config_file is not None:
        from torchreid_dfrst import training

        sections = training.sections()
    settings = config.load(args.config_file, [], sections)
    choices = config.override({name: settings[name] for name in known}, words, known)
    return file, Extraction.load(file), choices
