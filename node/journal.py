"""The journal: structured lines on standard error, event names and ids only.

A processor drops every key that is not on the allow-list, so that no text of an incident and no
secret can reach the journal through a careless call.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, Final

import structlog

_ALLOWED: Final = frozenset(
    {
        "event", "level", "timestamp", "peer", "witness", "code", "count", "index", "size", "port",
        "locked",
    }
)  # fmt: skip
_MAX_VALUE: Final = 256


def _only_allowed(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    for key in [key for key in event if key not in _ALLOWED]:
        del event[key]
        event["code"] = "dropped-key"
    for key, value in event.items():
        plain = value is None or isinstance(value, (str, int))
        if not plain or len(str(value)) > _MAX_VALUE:
            event[key] = "withheld"
    return event


def bug(error: Exception) -> str:
    """Note an unexpected exception by its type and place, without its text; return its code."""
    place = "unknown"
    for frame in traceback.extract_tb(error.__traceback__):
        place = f"{Path(frame.filename).name}:{frame.lineno}"
    structlog.get_logger().error("bug", code=f"{type(error).__name__} at {place}")
    return "internal-error"


def set_up(level: str, form: str) -> None:
    """Write lines of *level* and above in *form*, ``json`` or ``console``."""
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=False)
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _only_allowed,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    # Libraries speak through logging; their warnings and errors belong here too, without content.
    logging.basicConfig(level=logging.CRITICAL, force=True)
