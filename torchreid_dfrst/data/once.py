"""The same warning is said once, however often torchreid builds the same data set."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

PACKAGE = "torchreid_dfrst.data"


@contextlib.contextmanager
def said_once() -> Iterator[None]:
    """Meanwhile a message that our data sets repeat word for word is heard once.

    torchreid's data manager builds one object each for training, queries and gallery, and all of them read the same
    lists.
    """
    said: set[str] = set()

    def new(record: logging.LogRecord) -> bool:
        before = len(said)
        said.add(record.getMessage())
        return len(said) > before

    # a filter hears what its own logger says, not what the loggers below it say
    loggers = [logging.getLogger(name) for name in list(logging.root.manager.loggerDict) if name.startswith(PACKAGE)]
    for logger in loggers:
        logger.addFilter(new)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(new)
