"""The command ``dfrst``: each subcommand is a file here whose ``arguments(parser)`` says what ``run(args)`` takes.

Only ``run`` imports what the work needs, so that a help costs no more than Python itself.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import logging
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from torchreid_dfrst.cli.arguments import USER_ERROR, Parser, say
from torchreid_dfrst.cli.threads import settle
from torchreid_dfrst.messages import error_text, nearest, printable, short

COMMANDS = (
    "demo", "city", "check", "split", "train", "extract", "export", "import", "evaluate", "rank", "compare",
    "spacetime", "audit", "trips", "gallery", "search", "same", "page",
)  # fmt: skip
SHARED = ("train", "evaluate")
"""Those that several processes do together, see docs/scaling.md."""
OPTIONS = ("--help", "--version")
FILES = {"import": "importing"}
"""Files that are not named as their subcommand."""
BUG, INTERRUPTED = 70, 130
"""Exit codes beside ``USER_ERROR``."""
A_SCREEN = 1600
"""Characters of a message, at most."""


def command(main: Callable[..., int | None]) -> Callable[..., None]:
    """Run ``main`` as a program: a user's mistake becomes one ``error:`` line and exit code 2, not a traceback.

    ``ValueError``, ``KeyError`` and ``OSError`` are what the package raises for input it cannot use. Their traceback
    is logged at debug level. Everything else, and a ``KeyError`` that is only a key, is a bug: the line says where to
    report it, the traceback follows, and the exit code is 70. An integer that ``main`` returns becomes the exit code.
    """

    @functools.wraps(main)
    def run(*args: object, **kwargs: object) -> None:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_Formatter("%(message)s"))
        logging.basicConfig(handlers=[handler])
        plain, warnings.formatwarning = warnings.formatwarning, lambda *told: printable(plain(*told))
        try:
            code = main(*args, **kwargs)
        except KeyboardInterrupt:
            code = _exit_with(INTERRUPTED, "interrupted")
        except Exception as error:
            text = error_text(error)
            if isinstance(error, MemoryError):
                code = _exit_with(USER_ERROR, f"memory ran out {text}".rstrip())
            elif isinstance(error, ValueError | OSError) or (isinstance(error, KeyError) and " " in text):
                logging.getLogger(__name__).debug("traceback of the error below", exc_info=True)
                code = _exit_with(USER_ERROR, text)
            else:
                what = f"{type(error).__name__} {' '.join(text.split())[:200]}".rstrip()
                report = "please report it, with the lines below, at the project's issue tracker"
                code = _exit_with(BUG, f"this is a bug ({what}): {report}")
                print(printable(traceback.format_exc()), file=sys.stderr)
        finally:
            warnings.formatwarning = plain
            logging.getLogger().removeHandler(handler)
        if code:
            sys.exit(code)

    return run


class _Formatter(logging.Formatter):
    """Names in files are data, and nothing that a terminal would obey."""

    def format(self, record: logging.LogRecord) -> str:
        """The message, printable."""
        return printable(super().format(record))


def _exit_with(code: int, text: str) -> int:
    bars = sys.modules["tqdm"].tqdm if "tqdm" in sys.modules else None
    for bar in list(getattr(bars, "_instances", ())):
        bar.close()  # or the message would stand at the end of the bar's line
    print(f"error: {printable(short(text, A_SCREEN))}", file=sys.stderr)
    return code


def overview() -> str:
    """What ``dfrst --help`` prints: a line for each subcommand, the first of its file's docstring."""
    lines = ["usage: dfrst COMMAND ... [--verbose]", ""]
    for name in COMMANDS:
        lines.append(f"  {name:11}{(_subcommand(name).__doc__ or '').splitlines()[0]}")
    return "\n".join([*lines, "", "dfrst COMMAND --help says more; dfrst --version prints the version"])


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The arguments of one subcommand, given as the words after ``dfrst``, and what runs it."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{word!a} is not UTF-8: rename it, or reach it by a link with another name") from None
    if words[0] not in COMMANDS:
        what, known = ("option", OPTIONS) if words[0].startswith("-") else ("command", COMMANDS)
        raise KeyError(f"dfrst has no {what} {words[0]!r}{nearest(words[0], known)}")
    parser = parser_of(words[0])
    parser.set_defaults(run=_subcommand(words[0]).run, command=shlex.join(["dfrst", *words]))
    return parser.parse_intermixed_args(words[1:])


def parser_of(name: str) -> Parser:
    """What reads the arguments of one subcommand."""
    module = _subcommand(name)
    parser = Parser(prog=f"dfrst {name}", description=module.__doc__)
    module.arguments(parser)
    parser.add_argument("--verbose", action="store_true", help="log what is done, not only results and warnings")
    return parser


def invoke(words: Sequence[str]) -> int:
    """Run one subcommand, given as the words after ``dfrst``, which may raise anything; returns its exit code."""
    if not words or words[0] in ("-h", "--help"):
        say(overview())
        return 0
    if words[0] == "--version":
        from torchreid_dfrst.version import __version__

        say(__version__)
        return 0
    args = parse(words)
    if args.verbose:
        # what libraries log, such as FAISS of the processor, says nothing of the work
        logging.getLogger("torchreid_dfrst").setLevel(logging.INFO)
    if (count := os.environ.get("WORLD_SIZE", "1")) != "1" and words[0] not in SHARED:
        raise ValueError(
            f"WORLD_SIZE is {count}, as torchrun sets it, but dfrst {words[0]} works in one process: start it without "
            f"torchrun; {' and '.join(SHARED)} share their work"
        )
    settle()
    return args.run(args) or 0


@command
def main(words: Sequence[str] | None = None) -> int:
    """The program; ``words`` stand for those of the command line."""
    return invoke(sys.argv[1:] if words is None else words)


def _subcommand(name: str) -> Any:
    return importlib.import_module(f"{__name__}.{FILES.get(name, name)}")
