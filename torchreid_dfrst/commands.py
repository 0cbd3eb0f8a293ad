"""What every command line entry shares: a user's mistake ends in one line, not in a traceback."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable

from tqdm import tqdm

USER_ERROR = 2


def command(main: Callable[..., int | None]) -> Callable[..., None]:
    """Run ``main`` as a program: log to stderr, turn a user's mistake into one ``error:`` line and exit code 2.

    ``ValueError``, ``KeyError`` and ``OSError`` are what the package raises for input it cannot use. Their traceback
    is logged at debug level. An integer that ``main`` returns becomes the exit code.
    """

    @functools.wraps(main)
    def run(*args: object, **kwargs: object) -> None:
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
        try:
            code = main(*args, **kwargs)
        except (ValueError, KeyError, OSError) as error:
            logging.getLogger(__name__).debug("traceback of the error below", exc_info=True)
            text = error.args[0] if isinstance(error, KeyError) and error.args else error
            for bar in list(getattr(tqdm, "_instances", ())):
                bar.close()  # or the message would stand at the end of the bar's line
            print(f"error: {text}", file=sys.stderr)
            sys.exit(USER_ERROR)
        if code:
            sys.exit(code)

    return run
