from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from typing import Any

import pytest

from app.store.store import Store
from tests.store.turns import OWNER, chain_ids, line, turn

processes = multiprocessing.get_context("spawn")


def branch_off(url: str, parent: str, together: Barrier, results: Any) -> None:
    store = Store(url, peppers=[b"p"])
    store.database.ping()
    together.wait()
    results.put([line(store, 2, parent) for _ in range(15)])
    store.close()


def test_two_processes_that_go_on_from_one_parent_at_once_both_keep_their_chain(
    store: Store, database_url: str
) -> None:
    turns = line(store, 3)
    together, results = processes.Barrier(2), processes.Queue()
    running = [
        processes.Process(target=branch_off, args=(database_url, turns[-1], together, results)) for _ in range(2)
    ]
    for process in running:
        process.start()
    written = [branch for _ in running for branch in results.get(timeout=60)]
    for process in running:
        process.join(60)
        assert process.exitcode == 0
    assert len(written) == 30
    for branch in written:
        assert chain_ids(store, branch[-1]) == [*turns, *branch]


def in_child(work: Callable[[], None]) -> int:
    """The exit code of a fork that does `work`."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_its_own_connections_and_its_own_writer(store: Store) -> None:
    root = turn(store)

    def work() -> None:
        for _ in range(3):
            assert chain_ids(store, turn(store, root))[0] == root
        store.close()

    assert in_child(work) == 0
    assert in_child(work) == 0
    child = turn(store, root)
    assert chain_ids(store, child) == [root, child]
    assert store.maintenance.stats()["rows"]["response"] == 8
    assert store.responses.read(OWNER, root) is not None
