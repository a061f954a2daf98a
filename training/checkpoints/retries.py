"""Errors of a disk that may pass: what failed by one of them is done again."""

import errno
import logging
import time
from collections.abc import Callable
from typing import TypeVar

PASSING = {errno.EIO, errno.ESTALE, errno.EAGAIN, errno.ETIMEDOUT, errno.ENOENT}
"""An unsteady disk, or a folder that vanished and can be made again."""
_log = logging.getLogger(__name__)
Result = TypeVar("Result")


def retried(action: Callable[[], Result], *, retries: int = 3, wait_s: float = 1.0) -> Result:
    """Return what an action returns, trying it again after an error that may pass.

    Args:
        action: What may raise an OSError.
        retries: How often it is tried again.
        wait_s: Seconds before the first retry; doubled for each further one.
    """
    for attempt in range(retries):
        try:
            return action()
        except OSError as error:
            if error.errno not in PASSING:
                raise
            _log.warning("%s It is tried again in %g s", error, wait_s * 2**attempt)
            time.sleep(wait_s * 2**attempt)
    return action()
