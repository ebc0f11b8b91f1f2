"""Slots of a limited channel, between real processes of one machine."""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from app.channels.slots import UNLIMITED, Slot, Slots
from app.contract.channel import Channel

#: The names of slots are the machine's. Test processes that ran beside this one would share those of a fixed key.
KEY = secrets.token_bytes(32)
HOLDER = """
import sys
from app.channels.slots import Slots
from app.contract.channel import Channel
key = bytes.fromhex(sys.argv[1])
channel = Channel("limited", "demo", max_concurrency=int(sys.argv[2]))
held = [Slots(key).take(channel) for _ in range(int(sys.argv[3]))]
print(sum(slot is not None for slot in held), flush=True)
sys.stdin.read()
"""

#: A process that the kernel gives no socket.
FORBIDDEN = """
import logging, resource, sys
from app.channels.slots import UNLIMITED, Slots
from app.contract.channel import Channel
logging.basicConfig(format="%(message)s")
slots, channel = Slots(b"k" * 32), Channel("limited", "demo", max_concurrency=1)
resource.setrlimit(resource.RLIMIT_NOFILE, (0, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
sys.exit(any(slots.take(channel) is not UNLIMITED for _ in range(5)))
"""


def limited(limit: int | None, name: str = "limited") -> Channel:
    return Channel(name, "demo", max_concurrency=limit)


@contextmanager
def holder(limit: int, wanted: int) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Another process that wants so many slots, and the number that it got."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, KEY.hex(), str(limit), str(wanted)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process, int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


@pytest.fixture
def taken() -> Iterator[list[Slot]]:
    slots: list[Slot] = []
    yield slots
    for slot in slots:
        slot.close()


def take_all(channel: Channel, taken: list[Slot], key: bytes = KEY) -> int:
    """Takes slots until there are none; returns their number."""
    slots, count = Slots(key), 0
    while (slot := slots.take(channel)) is not None:
        taken.append(slot)
        count += 1
        assert count <= 100
    return count


def test_two_processes_share_the_slots(taken: list[Slot]) -> None:
    with holder(5, 3) as (_, got):
        assert got == 3
        assert take_all(limited(5), taken) == 2


def test_no_process_gets_more_than_there_are() -> None:
    with holder(4, 10) as (_, got):
        assert got == 4


def test_a_killed_process_gives_its_slots_back(taken: list[Slot]) -> None:
    with holder(3, 3) as (process, got):
        assert got == 3
        assert take_all(limited(3), taken) == 0
        process.kill()
        process.wait()
        assert take_all(limited(3), taken) == 3


def test_a_slot_that_is_closed_is_free(taken: list[Slot]) -> None:
    assert take_all(limited(2), taken) == 2
    taken.pop().close()
    assert take_all(limited(2), taken) == 1


def test_channels_and_gateways_have_slots_of_their_own(taken: list[Slot]) -> None:
    assert take_all(limited(2), taken) == 2
    assert take_all(limited(2, "another"), taken) == 2
    assert take_all(limited(2), taken, secrets.token_bytes(32)) == 2


def test_a_process_that_may_take_no_slots_serves_on_and_says_so_once() -> None:
    done = subprocess.run([sys.executable, "-c", FORBIDDEN], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("max_concurrency holds within this process only") == 1


def test_a_channel_without_a_limit_costs_nothing() -> None:
    assert Slots(KEY).take(limited(None)) is UNLIMITED
