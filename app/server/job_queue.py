"""The job queue of background responses, on huey. A task is the id of a queued response. The store enqueues a lost task
again, and a duplicate finds its response claimed already, so there are no results and no retries.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from time import monotonic, sleep
from typing import Any, Protocol

from huey import Huey, consumer
from huey.contrib.sql_huey import SqlStorage
from huey.exceptions import HueyException
from huey.registry import Message
from huey.serializer import Serializer
from huey.storage import RedisStorage

from app.errors import ConfigurationError, StoreUnavailable

log = logging.getLogger(__name__)

NAME = "antiphon"
#: Seconds between two polls of an idle worker; a run starts within 200 ms of its request.
POLL_SECONDS = 0.05
#: Seconds after which a waiting thread checks whether it has to stop.
_REDIS_POLL_SECONDS = 1.0
_REDIS_TIMEOUT = 3.0
#: Timeouts in seconds of a check whether Redis answers: to connect, then to read.
_PING_TIMEOUT = 1.0
#: Seconds between two log lines about a queue that does not answer.
_WARNING_SECONDS = 30.0

Answer = Callable[[str], object]


class SharedDatabase(Protocol):
    """The gateway's own database; see `app.store.database`."""

    @property
    def pool(self) -> Any:
        """The peewee database."""
        ...

    def connected(self) -> AbstractContextManager[None]:
        """A connection of this thread's. Raises StoreUnavailable."""
        ...


class Consumer(consumer.Consumer):  # type: ignore[misc]
    """The threads that run the tasks of the queue; `start` starts them."""

    def __init__(self, huey: Huey, threads: int) -> None:
        super().__init__(
            huey,
            workers=threads,
            periodic=False,
            initial_delay=POLL_SECONDS,
            max_delay=POLL_SECONDS,
            scheduler_interval=60,
        )

    def check_threads(self) -> None:
        """Replaces threads that have died."""
        self.check_worker_health()

    def end(self) -> None:
        """Stops each thread after its present task."""
        self.stop_flag.set()

    def _set_signal_handlers(self) -> None:
        """Installs no signal handlers: the process that uses this consumer has its own."""


class SqlQueue:
    """The queue in the gateway's own database: a task is committed together with its response."""

    def __init__(self, database: SharedDatabase) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._huey_queue: _HueyQueue | None = None

    def add_in_transaction(self, response_id: str) -> None:
        self._opened().add(response_id)

    def add_after_commit(self, response_id: str) -> None:
        """Nothing to do: `add_in_transaction` has put the task into the queue."""

    def answers(self) -> bool:
        """Always true: other checks cover the database."""
        return True

    def consumer(self, answer: Answer, threads: int) -> Consumer:
        """Raises StoreUnavailable."""
        with self._database.connected():
            huey_queue = self._opened()
        return huey_queue.consumer(answer, threads)

    def _opened(self) -> _HueyQueue:
        """Opens the queue within a connection, because huey queries the version of the server."""
        with self._lock:
            if self._huey_queue is None:
                self._huey_queue = _HueyQueue(
                    _JobTable(NAME, database=self._database.pool, connected=self._database.connected)
                )
            return self._huey_queue


class RedisQueue:
    """The queue in Redis. A task is sent after the commit of its response; if it is lost, it is sent again later."""

    def __init__(self, url: str) -> None:
        try:
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ImportError:
            raise ConfigurationError(
                "The driver for Redis is not installed.", fix="Run in the checkout: pip install '.[redis]'"
            ) from None
        self._connection_errors = (redis.RedisError, OSError)
        pool = redis.ConnectionPool.from_url(
            url, socket_connect_timeout=_REDIS_TIMEOUT, socket_timeout=_REDIS_TIMEOUT + _REDIS_POLL_SECONDS
        )
        self._probe = redis.Redis.from_url(
            url, socket_connect_timeout=_PING_TIMEOUT, socket_timeout=_PING_TIMEOUT, retry=Retry(NoBackoff(), 0)
        )
        self._huey_queue = _HueyQueue(
            _JobList(
                NAME, connection_pool=pool, read_timeout=_REDIS_POLL_SECONDS, connection_errors=self._connection_errors
            )
        )

    def add_in_transaction(self, response_id: str) -> None:
        """Nothing to do yet: the row is not committed, and a consumer could not find it."""

    def add_after_commit(self, response_id: str) -> None:
        try:
            self._huey_queue.add(response_id)
        except self._connection_errors as error:
            log.warning("the queue did not take %s, which is sent again later: %s", response_id, type(error).__name__)

    def answers(self) -> bool:
        """Whether Redis can be reached, within about two seconds."""
        try:
            return bool(self._probe.ping())
        except self._connection_errors:
            return False

    def consumer(self, answer: Answer, threads: int) -> Consumer:
        return self._huey_queue.consumer(answer, threads)


def open_queue(url: str | None, database: SharedDatabase) -> SqlQueue | RedisQueue:
    return RedisQueue(url) if url else SqlQueue(database)


# --- huey -------------------------------------------------------------------------------------------------------


class _HueyQueue:
    """A huey instance with its only task."""

    def __init__(self, storage: Any) -> None:
        self._huey = Huey(NAME, results=False, serializer=_Ids(), storage_class=lambda name: storage, immediate=False)
        self._answer: Answer | None = None
        self._task = self._huey.task(name=_Ids.TASK)(self._run)

    def add(self, response_id: str) -> None:
        self._task(response_id)

    def consumer(self, answer: Answer, threads: int) -> Consumer:
        self._answer = answer
        return Consumer(self._huey, threads)

    def _run(self, response_id: str) -> None:
        assert self._answer is not None
        self._answer(response_id)


class _Ids(Serializer):  # type: ignore[misc]
    """A task as the id that it carries: no pickle, so nothing in a queue is ever run as code."""

    TASK = "respond"

    def _serialize(self, message: Message) -> bytes:
        (response_id,) = message.args
        return str(response_id).encode()

    def _deserialize(self, data: bytes) -> Message:
        response_id = data.decode()
        return Message(response_id, f"{__name__}.{self.TASK}", retries=0, retry_delay=0, args=(response_id,), kwargs={})


class _JobTable(SqlStorage):  # type: ignore[misc]
    """huey's SQL storage in a table of our migrations, on the connections of the store.

    It stores tasks only: there are no results, schedules or revocations. One idle thread polls for all.
    """

    blocking = True

    def __init__(self, name: str, *, database: Any, connected: Callable[[], AbstractContextManager[None]]) -> None:
        super().__init__(name, database=database, create_tables=False)
        self._connected = connected
        self._polling = threading.Lock()

    def create_models(self) -> Any:
        models = super().create_models()
        task = models[2]
        task._meta.set_table_name("huey_task")
        return models

    def check_conn(self) -> None:
        """Nothing to check: the caller's session has a connection."""

    def dequeue(self) -> bytes | None:
        if not self._polling.acquire(timeout=_REDIS_POLL_SECONDS):
            return None
        try:
            deadline = monotonic() + _REDIS_POLL_SECONDS
            while monotonic() < deadline:
                if (data := self._next()) is not None:
                    return data
                sleep(POLL_SECONDS)
            return None
        except StoreUnavailable:
            # The store has logged the error.
            sleep(_REDIS_POLL_SECONDS)
            return None
        finally:
            self._polling.release()

    def _next(self) -> bytes | None:
        with self._connected():
            # An empty queue is seen without taking SQLite's one write lock.
            if not self.tasks(self.Task.id).limit(1).exists():
                return None
            data: bytes | None = super().dequeue()
            return data

    def peek_many(self, keys: list[str]) -> dict[str, bytes]:
        return {}

    def delete_data(self, key: str) -> bool:
        return False

    def read_schedule(self, timestamp: Any) -> list[bytes]:
        return []

    def add_to_schedule(self, data: bytes, timestamp: Any) -> None:
        raise HueyException("the queue has no scheduled tasks")


class _JobList(RedisStorage):  # type: ignore[misc]
    """huey's list in Redis. While the server does not answer, it retries, with a log line now and then."""

    def __init__(self, name: str, *, connection_errors: tuple[type[Exception], ...], **options: Any) -> None:
        super().__init__(name, **options)
        self._connection_errors = connection_errors
        self._warned_at = -_WARNING_SECONDS

    def dequeue(self) -> bytes | None:
        try:
            data: bytes | None = super().dequeue()
            return data
        except self._connection_errors as error:
            if monotonic() - self._warned_at >= _WARNING_SECONDS:
                self._warned_at = monotonic()
                log.warning("the queue does not answer: %s", type(error).__name__)
            sleep(_REDIS_POLL_SECONDS)
            return None
