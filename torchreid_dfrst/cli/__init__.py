"""The command ``dfrst``: each subcommand is a file here whose ``arguments(parser)`` says what ``run(args)`` takes.

Only ``run`` imports what the work needs, so that a help costs no more than Python itself.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import logging
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

from torchreid_dfrst.cli.arguments import USER_ERROR, Parser

COMMANDS = (
    "demo", "city", "check", "split", "train", "extract", "import", "evaluate", "rank", "compare", "spacetime", "audit",
    "gallery", "search", "same", "page",
)  # fmt: skip
FILES = {"import": "importing"}
"""Files that are not named as their subcommand."""


def command(main: Callable[..., int | None]) -> Callable[..., None]:
    """Run ``main`` as a program: a user's mistake becomes one ``error:`` line and exit code 2, not a traceback.

    ``ValueError``, ``KeyError`` and ``OSError`` are what the package raises for input it cannot use. Their traceback
    is logged at debug level. An integer that ``main`` returns becomes the exit code.
    """

    @functools.wraps(main)
    def run(*args: object, **kwargs: object) -> None:
        logging.basicConfig(format="%(message)s", stream=sys.stderr)
        try:
            code = main(*args, **kwargs)
        except (ValueError, KeyError, OSError) as error:
            logging.getLogger(__name__).debug("traceback of the error below", exc_info=True)
            text = error.args[0] if isinstance(error, KeyError) and error.args else error
            bars = sys.modules["tqdm"].tqdm if "tqdm" in sys.modules else None
            for bar in list(getattr(bars, "_instances", ())):
                bar.close()  # or the message would stand at the end of the bar's line
            print(f"error: {text}", file=sys.stderr)
            sys.exit(USER_ERROR)
        if code:
            sys.exit(code)

    return run


def overview() -> str:
    """What ``dfrst --help`` prints: a line for each subcommand, the first of its file's docstring."""
    lines = ["usage: dfrst COMMAND ... [--verbose]", ""]
    for name in COMMANDS:
        lines.append(f"  {name:11}{(_module(name).__doc__ or '').splitlines()[0]}")
    return "\n".join([*lines, "", "dfrst COMMAND --help says more; dfrst --version prints the version"])


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The arguments of one subcommand, given as the words after ``dfrst``, and what runs it.

    Raises:
        KeyError: there is no such subcommand.
    """
    if words[0] not in COMMANDS:
        from torchreid_dfrst.checks import nearest

        raise KeyError(f"dfrst has no command {words[0]!r}{nearest(words[0], COMMANDS)}")
    module = _module(words[0])
    parser = Parser(prog=f"dfrst {words[0]}", description=module.__doc__)
    module.arguments(parser)
    parser.add_argument("--verbose", action="store_true", help="log what is done, not only results and warnings")
    parser.set_defaults(run=module.run, command=shlex.join(["dfrst", *words]))
    return parser.parse_intermixed_args(words[1:])


def invoke(words: Sequence[str]) -> int:
    """Run one subcommand, given as the words after ``dfrst``; returns its exit code.

    Raises:
        ValueError, KeyError, OSError: as the subcommand raises them.
    """
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return 0
    if words[0] == "--version":
        from torchreid_dfrst.version import __version__

        print(__version__)
        return 0
    args = parse(words)
    if args.verbose:
        logging.getLogger().setLevel(logging.INFO)
    return args.run(args) or 0


@command
def main(words: Sequence[str] | None = None) -> int:
    """The program; ``words`` stand for those of the command line."""
    return invoke(sys.argv[1:] if words is None else words)


def _module(name: str) -> Any:
    return importlib.import_module(f"{__name__}.{FILES.get(name, name)}")
