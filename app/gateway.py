"""What one process consists of, and `build`: the only place where the parts meet."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from time import time
from typing import TYPE_CHECKING

from app import formats
from app.alerts.budgets import budget_alerts
from app.alerts.watcher import Watcher
from app.alerts.webhook import Webhook
from app.channels.affinity import SHARED, RecentChannels
from app.channels.model_facts import KnownFacts
from app.channels.model_list import ModelList
from app.channels.pauses import Pauses
from app.channels.remedies import LearntRemedies
from app.channels.selection import Channels
from app.channels.slots import Slots
from app.channels.upstream_lists import UpstreamLists
from app.channels.watched_table import WatchedTable
from app.contract.money import cost_of
from app.errors import ConfigurationError
from app.last_good import LastGood
from app.limits.budget_alerts import BudgetAlerts
from app.limits.limiter import Limiter
from app.memory import Budget, InFlight
from app.metrics.measures import OFF, Measures, Several
from app.relay.background.jobs import BackgroundJobs
from app.relay.compaction.context import Contexts
from app.relay.compaction.service import CompactionService
from app.relay.conversation_names import CacheKeys
from app.relay.conversations import Conversations
from app.relay.inferred_parents import InferredParents
from app.relay.lease_keeper import LeaseKeeper, RunningStreams
from app.relay.passthrough import PassthroughRelay
from app.relay.prompts import Prompts
from app.relay.responses import StoredResponses
from app.relay.streaming.pump import Pump
from app.relay.streaming.transport import StreamTiming, ThreadTransport
from app.relay.turn_run import TurnParts
from app.request_bodies import Bodies
from app.request_watch import Drain
from app.sampling import ProcessState
from app.sealing import OwnerDigests, Pseudonyms, Seal, Seals
from app.server.job_queue import RedisQueue, SqlQueue, open_queue
from app.settings import Settings, database_file, read_environment
from app.store.store import Store
from app.tools.servers import ToolServers
from app.trace_context import passed_on

if TYPE_CHECKING:
    from app.metrics.spans import Spans

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Gateway:
    """The parts of one process, as `build` makes them."""

    settings: Settings
    store: Store
    channels: Channels
    model_list: ModelList
    model_facts: KnownFacts
    turns: TurnParts
    responses: StoredResponses
    conversations: Conversations
    passthrough: PassthroughRelay
    background: BackgroundJobs
    queue: SqlQueue | RedisQueue
    tool_servers: ToolServers
    transport: ThreadTransport
    lease_keeper: LeaseKeeper
    drain: Drain
    budget: Budget
    bodies: Bodies
    limiter: Limiter
    measures: Measures
    alerts: Watcher
    state: ProcessState
    in_flight: InFlight = field(default_factory=lambda: InFlight(1))
    sockets: InFlight = field(default_factory=lambda: InFlight(1))

    def start(self) -> None:
        """Starts the threads beside the requests. Call it in a serving process, after the fork."""
        self.transport.start()
        self.lease_keeper.start()
        self.model_list.prefetch()
        self.measures.start(self.state)
        self.alerts.start()
        log.info("streams are moved by the %s", self.settings.stream_transport)

    def close(self) -> None:
        self.transport.close()
        self.lease_keeper.close()
        self.measures.close()
        self.alerts.close()
        self.turns.inferred_parents.close()
        self.tool_servers.close()
        self.channels.close()
        self.store.close()


#: Imported before any worker is forked, so that no request has to import a module.
FORMATS = {name: formats.load(name) for name in sorted(formats.names())}

TRANSPORTS = {"pump": Pump, "generator": ThreadTransport}


def build(last: LastGood) -> Gateway:
    """Builds the parts of a process. It reads neither files nor the database: the successor of a serving process must
    start, and the requests themselves wait for a database that does not answer yet.
    """
    settings, home = last.settings, last.settings.home
    budget = Budget(settings.memory)
    spans = open_spans(settings)
    measures = open_measures(settings)
    if spans is not None:
        measures = Several([measures, spans])
    store = Store(
        settings.database_url,
        peppers=settings.keys_for("tokens"),
        lease=settings.lease,
        server=settings.server_facts(),
        budget=budget,
        measures=measures,
    )
    table = WatchedTable(settings.channels, lambda: read_environment(home), FORMATS.keys(), last.table)
    remedies = LearntRemedies(store.remedies)
    slots = Slots(settings.keys_for("slots")[0])
    channels = Channels(
        table,
        connections=settings.threads,
        memory=budget,
        remedies=remedies,
        slots=slots,
        recent=RecentChannels(SHARED),
        pauses=Pauses(store.pauses),
    )
    webhook = Webhook(lambda: table.current.alerts)
    lists = UpstreamLists(channels)
    model_facts = KnownFacts(channels, lists)
    drain = Drain()
    seals = Seals(*(Seal(purpose, settings.keys_for(purpose)) for purpose in ("compaction", "reasoning")))
    timing = StreamTiming(settings.heartbeat, drain, settings.client_write_timeout, settings.header_after)
    transport = TRANSPORTS[settings.stream_transport](timing)
    contexts = Contexts(store, seals)
    tool_servers = ToolServers()
    responses = StoredResponses(store, contexts)
    prompts = Prompts(OwnerDigests(settings.key_for("prompt")))
    limiter = Limiter(
        store.admissions,
        defaults=lambda: channels.table.limits,
        cost_of=lambda model, usage: cost_of(usage, channels.table.prices(model), int(time())),
        alerts=BudgetAlerts(store.admissions, budget_alerts(webhook)),
    )
    turns = TurnParts(
        store=store,
        seals=seals,
        contexts=contexts,
        channels=channels,
        compaction=CompactionService(channels, model_facts, seals.compaction, transport),
        inferred_parents=InferredParents(store, prompts),
        prompts=prompts,
        running=RunningStreams(),
        transport=transport,
        cache_keys=CacheKeys(Pseudonyms(settings.key_for("cache"))),
        tool_servers=tool_servers,
        limiter=limiter,
        read_trace=passed_on if spans is None else spans.read_trace,
    )
    queue = open_queue(settings.queue_url, store.database)
    job_seal = Seal("job", settings.keys_for("job"))
    background = BackgroundJobs(
        *(store, turns, responses, queue, job_seal, timing, settings.events_kept, budget), settings.worker_threads
    )
    bodies = Bodies(settings.max_body, settings.client_write_timeout)

    def tidy() -> None:
        bodies.uploads.look()
        budget.give_back()
        limiter.retry()

    def refresh() -> None:
        channels.refresh()
        remedies.refresh()

    in_flight, sockets = InFlight(settings.max_in_flight), InFlight(settings.max_sockets)
    return Gateway(
        settings=settings,
        store=store,
        channels=channels,
        model_list=ModelList(channels, lists, model_facts),
        model_facts=model_facts,
        turns=turns,
        responses=responses,
        conversations=Conversations(store, contexts),
        passthrough=PassthroughRelay(store, channels, transport, limiter),
        background=background,
        queue=queue,
        tool_servers=tool_servers,
        transport=transport,
        lease_keeper=LeaseKeeper(
            store, turns.running, channels.statuses, background.housekeeping, refresh, tidy, measures
        ),
        drain=drain,
        budget=budget,
        bodies=bodies,
        limiter=limiter,
        measures=measures,
        alerts=Watcher(store, table, webhook, database_file(settings.database_url)),
        state=ProcessState(store, channels, table, transport, in_flight, sockets, database_file(settings.database_url)),
        in_flight=in_flight,
        sockets=sockets,
    )


def open_measures(settings: Settings) -> Measures:
    """Imports `prometheus_client` only where metrics are on."""
    if not settings.metrics:
        return OFF
    from app.metrics import files

    try:
        files.prepare()
    except OSError as error:
        log.error("metrics are off: their directory cannot be made: %s", error)
        return OFF
    from app.metrics.tally import Tally

    return Tally()


def open_spans(settings: Settings) -> Spans | None:
    """Imports OpenTelemetry only where traces are on. Raises ConfigurationError when it is not installed."""
    if not settings.traces:
        return None
    try:
        from app.metrics.spans import Spans
    except ImportError:
        raise ConfigurationError(
            "ANTIPHON_TRACES is set, and OpenTelemetry is not installed", "run in the checkout: pip install '.[otel]'"
        ) from None
    return Spans(settings.traces)
