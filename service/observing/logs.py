"""The logs of the service: two formats, and the writers of standard output and standard error."""

from __future__ import annotations

import logging
import os
import sys
import time
from functools import lru_cache
from typing import Any

import orjson

from service.observing.log_writer import Stream, Writer
from service.observing.metrics import DROPPED_LINES

STANDARD_OUTPUT, STANDARD_ERROR = 1, 2
output, errors = Writer(STANDARD_OUTPUT, DROPPED_LINES.inc), Writer(STANDARD_ERROR, DROPPED_LINES.inc)


@lru_cache(maxsize=1)
def clock(second: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(second))


def logs_text(log_format: str) -> bool:
    """Return whether to log text for people in place of JSON: by the setting, or if standard output is a terminal."""
    return log_format == "text" or (log_format == "auto" and os.isatty(STANDARD_OUTPUT))


class JsonFormatter(logging.Formatter):
    """A formatter of one JSON object a line: time, level, logger, message and the fields of `extra={"fields": …}`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": record.created,
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


class TextFormatter(logging.Formatter):
    """A formatter for people: time, level, message and fields in a line, and below it the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={value}" for name, value in getattr(record, "fields", {}).items())
        line = f"{clock(int(record.created))} {record.levelname} {record.getMessage()}{fields}"
        if not line.isprintable():  # it may contain a path with a command of the terminal
            line = line.encode("unicode_escape").decode()
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def configure_logging(*, as_text: bool) -> None:
    """Send the service's logs to standard output, and give gunicorn's log the same format: text or JSON."""
    formatter = TextFormatter() if as_text else JsonFormatter()
    handler = logging.StreamHandler(Stream(output))
    logger = logging.getLogger("nabla")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for each in (handler, *logging.getLogger("gunicorn.error").handlers):
        each.setFormatter(formatter)


def write_from_threads() -> None:
    """Let threads write the logs, so that no request waits for a reader. Call this in a worker, after the fork."""
    for handler in logging.getLogger("gunicorn.error").handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stderr:
            handler.setStream(Stream(errors))
    output.start()
    errors.start()
