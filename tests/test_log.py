"""The log's thread: what was logged is written, in order and once, however the process ends."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterator

import pytest

from app.log import BufferedHandler, request_log, write_at_once
from tests.conftest import MakeGateway
from tests.relay.conftest import eventually


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def log(stream: io.StringIO) -> Iterator[logging.Logger]:
    log = logging.Logger("gathered")
    log.addHandler(BufferedHandler(stream))
    yield log
    log.handlers[0].close()


def test_lines_come_by_themselves_and_in_order(log: logging.Logger, stream: io.StringIO) -> None:
    for number in range(1000):
        log.info("%d", number)
    eventually(lambda: stream.getvalue().endswith("999\n"), "the last line")
    log.info("later")
    eventually(lambda: stream.getvalue().endswith("later\n"), "a line after a pause")
    assert stream.getvalue().split() == [*map(str, range(1000)), "later"]


def test_waiting_lines_are_written_on_close(log: logging.Logger, stream: io.StringIO) -> None:
    log.info("last words")
    log.handlers[0].close()
    assert stream.getvalue() == "last words\n"


def test_a_line_that_comes_after_the_end_is_written_as_well(log: logging.Logger, stream: io.StringIO) -> None:
    log.info("one")
    log.handlers[0].close()
    log.info("two")
    assert stream.getvalue() == "one\ntwo\n"


def test_no_line_waits_once_the_process_must_end(stream: io.StringIO) -> None:
    before, request_log.handlers = request_log.handlers, [gathered := BufferedHandler(stream)]
    try:
        log = logging.Logger("ending")
        log.addHandler(gathered)
        log.info("before")
        write_at_once()
        for number in range(100):
            log.info("%d", number)
            assert stream.getvalue().endswith(f"\n{number}\n")
        assert stream.getvalue().split() == ["before", *map(str, range(100))]
    finally:
        request_log.handlers = before
        gathered.close()


def test_a_child_writes_its_own_lines_only(tmp_path) -> None:
    with (tmp_path / "log").open("w") as stream:
        log = logging.Logger("gathered")
        log.addHandler(gathered := BufferedHandler(stream))
        with gathered._writing:
            # The parent's thread cannot have written it yet, and holds what a child must not wait for.
            log.info("parent")
            child = os.fork()
            if child == 0:
                log.info("child")
                gathered.close()
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        gathered.close()
    assert sorted((tmp_path / "log").read_text().split()) == ["child", "parent"]


def test_a_line_about_every_answered_request_is_there_when_the_gateway_has_ended(gateway: MakeGateway) -> None:
    running = gateway([{"name": "demo", "format": "demo", "models": ["demo"]}])
    answers = [running.post("/responses", {"model": "demo", "input": "Hi"}) for _ in range(20)]
    running.stop()
    request_ids = [
        line.split(" request_id=")[1].split()[0] for line in running.log.splitlines() if " request_id=" in line
    ]
    assert request_ids == [answer.headers["X-Request-Id"] for answer in answers]
