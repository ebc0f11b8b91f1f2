"""The store: responses, conversations, tokens and usage in SQLite or MySQL. It knows nothing of HTTP, of upstreams or
of wire formats; JSON passes through it as bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from types import MappingProxyType

from app.memory import Budget
from app.metrics.measures import OFF, Measures
from app.store.admissions import Admissions
from app.store.alerts import AlertStates
from app.store.audit import Audit
from app.store.changes import Changes
from app.store.channel_facts import ChannelFactsStore
from app.store.console_sessions import ConsoleSessions
from app.store.conversations import Conversations
from app.store.database import Database, Session
from app.store.events import Events
from app.store.figures import PeriodFigures
from app.store.grouped_writes import Group, Statements
from app.store.idempotency import IdempotencyKeys
from app.store.in_flight import InFlight
from app.store.items import Items
from app.store.jobs import Jobs
from app.store.leases import Leases
from app.store.maintenance import Maintenance
from app.store.migrations import Migrations
from app.store.pauses import ChannelPauses
from app.store.prefix_hashes import PrefixHashes
from app.store.prompt_digests import PromptDigests
from app.store.reaper import Reaper
from app.store.recent_errors import RecentErrors
from app.store.remedies import Remedies
from app.store.request_log import RequestLog
from app.store.requests import Requests
from app.store.responses import Responses, ResponseStore
from app.store.standing import Standings
from app.store.tokens import Tokens
from app.store.tool_calls import ToolCalls, ToolCallStore
from app.store.tree import Trees
from app.store.tree_list import TreeList
from app.store.tree_positions import TreePositions
from app.store.unwritten import Unwritten
from app.store.usage import UsageSums
from app.store.writer import Writer

_NO_SERVER: Mapping[str, str] = MappingProxyType({})


class Store:
    """One per process, for all its threads. Nothing is opened before the first call, and no connection crosses a fork.

    Each attribute is a part with its own functions. A function that touches an owner's data takes the owner first.
    Every part raises StoreUnavailable when the database cannot answer.
    """

    def __init__(
        self,
        url: str,
        *,
        peppers: Sequence[bytes],
        group_limit: int = 64,
        lease: int = 60,
        server: Mapping[str, str] = _NO_SERVER,
        budget: Budget | None = None,
        measures: Measures = OFF,
    ) -> None:
        """`url`: sqlite:///relative.db, sqlite:////absolute.db or mysql://user:password@host:port/name. `peppers`: the
        key that new tokens are hashed with, then earlier keys. `lease`: seconds for which a silent worker counts as
        alive. `server`: the facts of its server that this worker reports. `budget`: the memory budget for large bodies;
        None for no limit. `measures` get its calls, groups and ended responses.
        """
        self.database = Database(url, budget=budget)
        self.database.on_call = measures.on_database_call
        self.leases = Leases(self.database, lease, server)
        statements = Statements.of(self.database.dialect, self.leases)

        def open_group(session: Session) -> Group:
            return Group(session, statements)

        self._writer: Writer[Group] = Writer(self.database, open_group, limit=group_limit, measures=measures)
        self.unwritten = Unwritten(self._writer)
        responses = Responses(self.database, self._writer, self.leases, TreePositions(), self.unwritten, measures)
        self.responses: ResponseStore = responses
        self.conversations = Conversations(self.database)
        self.items = Items(self.database, self.conversations)
        self.prefixes = PrefixHashes(self._writer, peppers[0], self.database.dialect)
        self.idempotency = IdempotencyKeys(self.database, self.leases, self.unwritten)
        self.jobs = Jobs(self.database, self._writer, self.leases, responses)
        self.events = Events(self.database, self._writer, self.leases)
        self.reaper = Reaper(self.database, self.leases, self.jobs, self.unwritten)
        self.alerts = AlertStates(self.database)
        self.admissions = Admissions(self.database, self._writer, statements.counters)
        self.audit = Audit(self.database)
        self.console_sessions = ConsoleSessions(self.database)
        self.tokens = Tokens(self.database, self._writer, peppers)
        self.pauses = ChannelPauses(self.database)
        self.channel_facts = ChannelFactsStore(self.database)
        self.recent_errors = RecentErrors(self.database, self._writer)
        self.remedies = Remedies(self.database, self._writer)
        self.tool_calls: ToolCallStore = ToolCalls(self.database, self._writer, self.unwritten, measures)
        self.in_flight = InFlight(self.database)
        self.changes = Changes(self.database)
        self.figures = PeriodFigures(self.database)
        self.standing = Standings(self.database)
        self.usage = UsageSums(self.database)
        self.trees = Trees(self.database)
        self.tree_list = TreeList(self.database)
        self.request_log = RequestLog(self.database)
        self.requests = Requests(self.database)
        self.prompts = PromptDigests(self.database)
        self.schema = Migrations(self.database, url)
        self.maintenance = Maintenance(self.database, self._writer, self.unwritten)

    def with_parts(self, responses: ResponseStore, tool_calls: ToolCallStore) -> Store:
        """The same store, except that responses and calls of tools are read and written through these."""
        store = copy(self)
        store.responses, store.tool_calls = responses, tool_calls
        return store

    def close(self) -> None:
        """Writes the waiting jobs and closes the connections."""
        self._writer.close()
        self.database.close()
