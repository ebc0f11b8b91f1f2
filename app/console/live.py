"""Tells open pages that something has changed. Events carry names only: a page fetches what it shows.

One thread a worker looks at the database every two seconds, with one query, while a page listens. The stream of a page
holds one thread of the worker, which sleeps. Handing the socket to the pump would free no thread, because a request's
own thread waits there too; so the number of such pages is limited.
"""

from __future__ import annotations

import logging
import re
import select
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import NamedTuple

from app.contract.records import WorkerStatus
from app.errors import InvalidRequest, StoreUnavailable, Unavailable
from app.request_watch import Bell, Drain
from app.store.changes import LOOK_BACK, MOST, Change, Changes, Look

log = logging.getLogger(__name__)

#: The key of an application's `Live`.
LIVE = "antiphon.live"
#: Seconds between two looks: a session that has ended loses its streams within two seconds.
CHECK_SECONDS = 1.8
#: Seconds after which a stream notices the worker's shutdown, at the latest.
TICK = 0.5
FLIGHT, REQUESTS, TREE = "flight", "requests", "tree:"
_TREE = re.compile(r"tree:[0-9A-Za-z_-]{1,64}\Z")
_MOST_TOPICS = 8
#: Milliseconds until a browser opens a broken stream again.
_BEGIN = b"retry: 3000\n\n"
_BEAT = b": beat\n\n"


def topics_of(text: str) -> frozenset[str]:
    """The topics of a page: `flight`, `requests` and `tree:ID` of its root, with commas. Raises InvalidRequest."""
    topics = frozenset(filter(None, text.split(",")))
    if not topics or len(topics) > _MOST_TOPICS or not all(map(_is_topic, topics)):
        raise InvalidRequest("'topics' must be flight, requests or tree:ID, with commas.", param="topics")
    return topics


def _is_topic(topic: str) -> bool:
    return topic in (FLIGHT, REQUESTS) or _TREE.match(topic) is not None


@dataclass(slots=True, eq=False)
class ListeningPage:
    """One open page. The looking thread says what has changed; the page's own thread sends it."""

    topics: frozenset[str]
    owner: str
    role: str
    scope: str | None
    """The owner whose changes it learns of; None for all."""
    session: str
    ended: bool = False
    """Its session has ended."""
    bell: Bell = field(default_factory=Bell)
    _due: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def tell(self, topics: Iterable[str]) -> None:
        with self._lock:
            self._due.update(topics)
            if self._due:
                self.bell.ring()

    def end(self) -> None:
        self.ended = True
        self.bell.ring()

    def take(self) -> Sequence[str]:
        """The topics that have changed since the last call."""
        with self._lock:
            self.bell.clear()
            due, self._due = sorted(self._due), set()
        return due


class Live:
    """The open pages of one worker."""

    def __init__(self, changes: Changes, limit: int) -> None:
        self._changes = changes
        self._limit = limit
        self._pages: set[ListeningPage] = set()
        self._fresh: set[ListeningPage] = set()
        """Pages that no look has seen."""
        self._lock = threading.Lock()
        self._empty = threading.Event()
        self._next_look = 0.0
        self._thread: threading.Thread | None = None

    def enter(self, topics: frozenset[str], owner: str, role: str, scope: str | None, session: str) -> ListeningPage:
        """A page of this session, which leaves at its end. Raises Unavailable when as many listen as may."""
        with self._lock:
            if len(self._pages) >= self._limit:
                raise Unavailable(
                    f"{self._limit} pages are live here, which is as many as may be. This one shows what is new when it"
                    " is loaded again.",
                    code="too_many_live_pages",
                    retry_after=30,
                )
            page = ListeningPage(topics, owner, role, scope, session)
            self._pages.add(page)
            self._fresh.add(page)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="console-live", daemon=True)
                self._thread.start()
        return page

    def leave(self, page: ListeningPage) -> None:
        with self._lock:
            self._pages.discard(page)
            self._fresh.discard(page)
            if not self._pages:
                # The thread ends at once.
                self._empty.set()
        page.bell.close()

    def _run(self) -> None:
        known = _Known()
        while self._await_look():
            try:
                self._look(known)
            except StoreUnavailable:
                # The store has logged it. What changes meanwhile is seen at the next look.
                pass
            except Exception:
                # The border that must not die.
                log.exception("the open pages could not be told of changes")

    def _await_look(self) -> bool:
        """Waits until a look is due. False as soon as no page listens; the thread ends then."""
        while True:
            with self._lock:
                self._empty.clear()
                if not self._pages:
                    self._thread = None
                    return False
                left = self._next_look - monotonic()
                if left <= 0:
                    self._next_look = monotonic() + CHECK_SECONDS
                    return True
            self._empty.wait(left)

    def _look(self, known: _Known) -> None:
        with self._lock:
            pages, fresh = list(self._pages), set(self._fresh)
        if not pages:
            return
        topics = frozenset[str]().union(*(page.topics for page in pages))
        roots = sorted(topic.removeprefix(TREE) for topic in topics if topic.startswith(TREE))
        after = known.after if topics - {FLIGHT} else None
        look = self._changes.look(after, sorted({page.session for page in pages}), roots)
        changed = known.compared(look)
        with self._lock:
            self._fresh -= fresh
        for page in pages:
            if look.sessions.get(page.session) != (page.owner, page.role):
                page.end()
            elif page in fresh:
                # Something may have changed between the page and its stream.
                page.tell(page.topics)
            else:
                page.tell(topic for topic in page.topics if changed.has(topic, page.scope))


class _Changed(NamedTuple):
    """The owners whose responses have changed; None among them if anyone's."""

    flight: Collection[str | None]
    """Those of responses at work. None is also among them when a worker reports another state."""
    rows: Collection[str | None]
    """Those of new and of ended responses."""
    trees: Collection[str]
    """The topics of the trees that may have changed, of the owners of `rows`."""
    roots: Mapping[str, str]
    """The owners of the roots of the trees that are followed."""
    anything: bool

    def has(self, topic: str, scope: str | None) -> bool:
        if topic == FLIGHT:
            return scope in self.flight
        if topic == REQUESTS:
            return self.anything or scope in self.rows
        root = topic.removeprefix(TREE)
        return (self.anything or topic in self.trees) and root in self.roots and scope in (None, self.roots[root])


class _Known:
    """What the last look has seen."""

    def __init__(self) -> None:
        self.after: int | None = None
        """The key behind which the next look reads rows."""
        self._flight: Mapping[str, Change] = {}
        self._rows: Collection[str] = frozenset()
        self._reports: Sequence[object] = ()
        self._trees: frozenset[str] = frozenset()

    def compared(self, look: Look) -> _Changed:
        """What has changed since the last look."""
        flight = {one.id: one for one in look.flight}
        moved = [one for id, one in {**self._flight, **flight}.items() if self._flight.get(id) != flight.get(id)]
        new = [one for one in look.new if one.id not in self._rows]
        reports = [_report(worker) for worker in look.workers]
        reported = reports != self._reports
        rows = _owners([*new, *moved])
        trees = frozenset(TREE + root for root, owner in look.roots.items() if owner in rows)
        changed = _Changed(
            _owners(moved) | ({None} if reported else set()),
            rows,
            # The place of a turn whose parent is inferred is known a moment after its row.
            trees | self._trees,
            look.roots,
            # Of so many new rows the look has not read all.
            len(new) == MOST,
        )
        self.after = max(0, look.newest - LOOK_BACK)
        self._flight, self._reports, self._trees = flight, reports, trees
        self._rows = frozenset(one.id for one in look.new)
        return changed


def _owners(changes: Iterable[Change]) -> set[str | None]:
    owners: set[str | None] = {one.owner for one in changes}
    return owners | {None} if owners else owners


def _report(worker: WorkerStatus) -> object:
    """What a page shows of a worker."""
    return worker.worker, [
        (status.name, status.in_flight, status.cooldown_left > 0, status.half_open) for status in worker.channels
    ]


class PageStream:
    """The events of one page as bytes. The server closes it."""

    def __init__(self, live: Live, page: ListeningPage, client_fd: int | None, drain: Drain, heartbeat: float) -> None:
        """`client_fd`: the descriptor that shows the browser's hang-up, if there is one."""
        self._live = live
        self._page = page
        self._client_fd = client_fd
        self._drain = drain
        self._heartbeat = heartbeat

    def __iter__(self) -> Iterator[bytes]:
        yield _BEGIN
        poll = select.poll()
        poll.register(self._page.bell.fileno(), select.POLLIN)
        if self._client_fd is not None:
            poll.register(self._client_fd, select.POLLRDHUP)
        beat = monotonic() + self._heartbeat
        while not (self._page.ended or self._drain.begun):
            ready = dict(poll.poll(TICK * 1000))
            if self._client_fd in ready:
                return
            if topics := self._page.take():
                yield b"".join(b"data: %b\n\n" % topic.encode() for topic in topics)
            elif monotonic() < beat:
                continue
            else:
                yield _BEAT
            beat = monotonic() + self._heartbeat

    def close(self) -> None:
        self._live.leave(self._page)
