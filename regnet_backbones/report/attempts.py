"""Predictions are worth a try: without them there is still a report."""

import logging
from collections.abc import Callable
from typing import TypeVar

from regnet_backbones.cli.failure_lines import error_line

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


def predicted_or_why(predict: Callable[[], Result]) -> tuple[Result | None, str]:
    """Return what is predicted, or None and why that could not be, which the user can mend.

    Raises:
        Exception: of `predict`, if it is no mistake of the user.
    """
    try:
        return predict(), ""
    except Exception as error:
        line = error_line(error)
        if line is None:
            raise
    logger.warning("nothing is predicted: %s", line)
    return None, f"Nothing is predicted: {line}"
