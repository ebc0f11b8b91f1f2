"""The log of a process: gunicorn's lines and ours on one stream, as text or as JSON. A thread writes the lines
about requests, many at a time, so that no request waits for them.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TextIO

import orjson

request_log = logging.getLogger("app.requests")
#: A value that needs no quotes in a line of `name=value`.
_PLAIN = re.compile(r"[\w.:/*@+,-]+", re.ASCII)


class LogLine:
    """A line of the log, whose facts and text are made when it is written: `name=value name="a value"`."""

    __slots__ = ("_make_facts",)

    def __init__(self, make_facts: Callable[[], Iterable[tuple[str, Any]]]) -> None:
        self._make_facts = make_facts

    @property
    def facts(self) -> dict[str, Any]:
        """The facts that are not None."""
        return {name: value for name, value in self._make_facts() if value is not None}

    def __str__(self) -> str:
        return " ".join(f"{name}={_text(value)}" for name, value in self.facts.items())


def _text(value: Any) -> str:
    if type(value) is int:
        return str(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6f}".rstrip("0").rstrip(".")
    text = str(value)
    # JSON's quotes escape line breaks, so that a value cannot forge a line of the log.
    return text if _PLAIN.fullmatch(text) else orjson.dumps(text).decode()


TEXT = "[%(asctime)s] [%(process)d] [%(levelname)s] %(name)s: %(message)s"
#: Seconds during which lines about requests are collected before one write.
FLUSH_SECONDS = 0.05
#: Most lines that wait for the write; then the oldest are dropped.
_MAX_WAITING = 100_000


class JsonLines(logging.Formatter):
    """One JSON object a line; the facts of a request are members of its object."""

    def format(self, record: logging.LogRecord) -> str:
        facts = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            **(record.msg.facts if isinstance(record.msg, LogLine) else {"message": record.getMessage()}),
        }
        if record.exc_info:
            facts["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(facts, default=str).decode()


class BufferedHandler(logging.Handler):
    """Writes its records from a thread, all records of `FLUSH_SECONDS` seconds in one write. The rest is written on
    close, at the end of the process. After a stop signal each record is written at once, because the process may be
    killed. When no program reads the stream, the oldest records are dropped.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._records = deque[logging.LogRecord](maxlen=_MAX_WAITING)
        self.at_once = False
        """A plain flag, because a signal handler sets it: it may take no lock."""
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._records.clear()
        self._writing = threading.Lock()
        self._has_records = threading.Event()
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        self._records.append(record)
        if self.at_once:
            self.flush()
            return
        if not self._has_records.is_set():
            self._has_records.set()
        if self._thread is None or not self._thread.is_alive():
            # logging holds the handler's lock here: only one thread is started.
            self._thread = threading.Thread(target=self._run, name="log", daemon=True)
            self._thread.start()

    def flush(self) -> None:
        with self._writing:
            lines = []
            with suppress(IndexError):
                while True:
                    lines.append(f"{self.format(self._records.popleft())}\n")
            if lines:
                self._stream.write("".join(lines))
                self._stream.flush()

    def close(self) -> None:
        self.at_once = True
        self._ending.set()
        self.flush()
        super().close()

    def _run(self) -> None:
        while not self._ending.is_set():
            self._has_records.wait()
            self._ending.wait(FLUSH_SECONDS)
            self._has_records.clear()
            self.flush()


def write_at_once() -> None:
    """From now on each line about a request is written at once."""
    for handler in request_log.handlers:
        if isinstance(handler, BufferedHandler):
            handler.at_once = True


def configure_logging(log: str) -> None:
    """Sets up the log of this process. `log` is `text` or `json`. The queue's library logs only warnings and errors."""
    # No line shows threads, processes or source files: logging need not look them up for each record.
    logging.logThreads = logging.logMultiprocessing = False
    vars(logging)["_srcfile"] = None
    direct, buffered = logging.StreamHandler(), BufferedHandler(sys.stderr)
    direct.setFormatter(JsonLines() if log == "json" else logging.Formatter(TEXT))
    buffered.setFormatter(direct.formatter)
    for logger, handler, level in (
        (logging.getLogger("app"), direct, logging.INFO),
        (request_log, buffered, logging.INFO),
        (logging.getLogger("huey"), direct, logging.WARNING),
    ):
        logger.handlers = [handler]
        logger.setLevel(level)
        logger.propagate = False
