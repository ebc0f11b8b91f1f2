"""The only place where the parts meet: `build` makes a process's parts once, before the first request."""

from __future__ import annotations

from flask import Flask

from app import endpoints, formats, last_good, web
from app.bodies import Bodies
from app.channels.catalog import Catalog
from app.channels.choice import Channels
from app.channels.watch import WatchedTable
from app.last_good import LastGood
from app.memory import Budget
from app.queue import open_queue
from app.relay import Background, Drain, Keeper, Mover, Pace, Pump, Relay
from app.relay.chat import ChatRelay
from app.relay.compaction import Compaction
from app.relay.context import Contexts
from app.relay.conversations import Conversations
from app.relay.keeper import Running
from app.relay.lineage import Lineage
from app.relay.responses import StoredResponses
from app.relay.turn_run import TurnParts
from app.sealing import Seal, Seals
from app.settings import Settings, read_environment
from app.store import Store
from app.web import Gateway, InFlight

#: Imported before any worker is forked, so that no request has to import a module.
FORMATS = {name: formats.load(name) for name in sorted(formats.names())}

MOVERS = {"pump": Pump, "generator": Mover}


def create_app(settings: Settings | None = None) -> Flask:
    """With what the process was forked with; where there is none, this is a first start, which raises
    ConfigurationError when the process must not serve.
    """
    if settings is not None:
        last = LastGood.of(settings)
    else:
        last = last_good.kept() or last_good.load(last_good.check_first)
    gateway = build(last)
    app = web.Application(__name__, static_folder=None)
    web.attach(app, gateway)
    endpoints.register(app)
    return app


def build(last: LastGood) -> Gateway:
    """Everything behind the endpoints, put together. It asks neither the files nor the database: what follows a process
    that serves has to start, and a database that does not answer yet is waited for in use.
    """
    settings, home = last.settings, last.settings.home
    budget = Budget(settings.memory)
    store = Store(
        settings.database_url,
        peppers=settings.keys_for("tokens"),
        lease=settings.lease,
        server=settings.told(),
        budget=budget,
    )
    table = WatchedTable(settings.channels, lambda: read_environment(home), FORMATS.keys(), last.table)
    channels = Channels(table, connections=settings.threads, memory=budget)
    drain = Drain()
    seals = Seals(*(Seal(purpose, settings.keys_for(purpose)) for purpose in ("compaction", "reasoning")))
    pace = Pace(settings.heartbeat, drain, settings.stall, settings.header_after)
    mover = MOVERS[settings.mover](pace)
    contexts = Contexts(store, seals)
    responses = StoredResponses(store, contexts)
    turns = TurnParts(
        store=store,
        seals=seals,
        contexts=contexts,
        channels=channels,
        compaction=Compaction(channels, seals.compaction, mover),
        lineage=Lineage(store),
        running=Running(),
        mover=mover,
    )
    queue = open_queue(settings.queue_url, store.database)
    waiting = Seal("job", settings.keys_for("job"))
    background = Background(store, turns, responses, queue, waiting, pace, settings.events_kept, budget)
    bodies = Bodies(settings.max_body, settings.stall)

    def tidy() -> None:
        bodies.uploads.look()
        budget.give_back()

    return Gateway(
        settings=settings,
        store=store,
        channels=channels,
        catalog=Catalog(channels),
        turns=turns,
        relay=Relay(turns),
        responses=responses,
        conversations=Conversations(store, contexts),
        chat=ChatRelay(store, channels, mover),
        background=background,
        queue=queue,
        mover=mover,
        keeper=Keeper(store, turns.running, channels.statuses, background.tend, tidy),
        drain=drain,
        budget=budget,
        bodies=bodies,
        in_flight=InFlight(settings.max_in_flight),
        sockets=InFlight(settings.max_sockets),
    )
