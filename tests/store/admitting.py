"""Turns of a limited token, as many threads and processes admit them."""

from __future__ import annotations

import threading
from typing import Any

from app.store.store import Store
from app.store.token_counters import UNLIMITED, Admit, Amounts, Counters, Settle
from tests.store import rows

TOKEN = 7
THREADS, TRIES = 16, 4
NOTHING = Counters()
#: A minute, a day and a month that do not end while a test runs.
FAR = (4_102_444_800, 99_991_231, 999_912)


def use_without_end(url: str, token: int, used: Counters = NOTHING) -> None:
    """Writes the counters of a token whose minute, day and month do not end."""
    columns = ", ".join(("token", "minute", "day", "month", *Counters._fields))
    values = ", ".join(map(str, (token, *FAR, *used)))
    rows.execute(url, f"INSERT INTO token_use ({columns}) VALUES ({values})")


def admit(
    store: Store, limits: Counters = UNLIMITED, tokens: int = 1, micro: int = 0, needs: int | None = None
) -> Admit:
    amounts = Amounts(tokens, micro)
    needed = amounts if needs is None else Amounts(needs, micro)
    admission = Admit(TOKEN, limits, Counters.of(1, needed, 1), Counters.of(1, amounts, 1))
    store.admissions.admit(admission)
    return admission


def settlement(admission: Admit, tokens: int, micro: int = 0) -> Settle:
    assert admission.use is not None
    reserved = Amounts(admission.reserves.day_tokens, admission.reserves.day_micro)
    return Settle(TOKEN, admission.id, admission.use.windows, reserved, Amounts(tokens, micro))


def settle(store: Store, admission: Admit, tokens: int, micro: int = 0) -> None:
    store.admissions.settle_now(settlement(admission, tokens, micro))


def compete(url: str, together: Any, results: Any, limits: Counters, ends: bool) -> None:
    """Reports how many turns of this process were admitted, and the most of the token that were at work at once."""
    store = Store(url, peppers=[b"p" * 32])
    store.database.ping()
    lock = threading.Lock()
    admitted, most = 0, 0

    def work() -> None:
        nonlocal admitted, most
        for _ in range(TRIES):
            admission = admit(store, limits, tokens=3)
            if not admission.admitted:
                continue
            assert admission.use is not None
            with lock:
                admitted += 1
                most = max(most, admission.use.counters.running)
            if ends:
                settle(store, admission, 5)

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    together.wait()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results.put((admitted, most))
    store.close()
