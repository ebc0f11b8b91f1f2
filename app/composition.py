"""The one place where the rooms meet: a process that serves is put together here, once, before the first request."""

from __future__ import annotations

from contextlib import suppress

from flask import Flask

from app import endpoints, formats, web
from app.bodies import Bodies
from app.channels.catalog import Catalog
from app.channels.choice import Channels
from app.channels.watch import WatchedTable
from app.errors import StoreUnavailable
from app.memory import Budget
from app.queue import open_queue
from app.relay import Background, Drain, Keeper, Mover, Pace, Pump, Relay
from app.relay.chat import ChatRelay
from app.sealing import Seal, Seals
from app.settings import Settings, load_settings, read_environment
from app.store import Store
from app.web import Gateway, InFlight

#: Loaded here, before any worker is forked: nothing is imported while requests are served.
FORMATS = {name: formats.load(name) for name in sorted(formats.names())}

MOVERS = {"pump": Pump, "generator": Mover}


def create_app(settings: Settings | None = None) -> Flask:
    """Raises ConfigurationError when this process must not serve."""
    settings = settings or load_settings()
    gateway = build(settings)
    app = web.Application(__name__, static_folder=None)
    web.attach(app, gateway)
    endpoints.register(app)
    return app


def build(settings: Settings) -> Gateway:
    """Everything behind the endpoints, put together. A database that does not answer yet is waited for in use."""
    store = Store(
        settings.database_url, peppers=settings.keys_for("tokens"), lease=settings.lease, server=settings.told()
    )
    with suppress(StoreUnavailable):
        store.check_schema()
    home = settings.home
    table = WatchedTable(settings.channels, lambda: read_environment(home), FORMATS.keys())
    channels = Channels(table, connections=settings.threads)
    drain = Drain()
    seals = Seals(*(Seal(purpose, settings.keys_for(purpose)) for purpose in ("compaction", "reasoning")))
    pace = Pace(settings.heartbeat, drain, settings.stall, settings.header_after)
    mover = MOVERS[settings.mover](pace)
    relay = Relay(store, channels, seals, mover)
    queue = open_queue(settings.queue_url, store.database)
    waiting = Seal("job", settings.keys_for("job"))
    background = Background(store, relay, queue, waiting, pace, settings.events_kept)
    budget, bodies = Budget(settings.memory), Bodies(settings.max_body, settings.stall)

    def tidy() -> None:
        bodies.uploads.look()
        budget.give_back()

    return Gateway(
        settings=settings,
        store=store,
        channels=channels,
        catalog=Catalog(channels),
        relay=relay,
        chat=ChatRelay(store, channels, mover),
        background=background,
        queue=queue,
        mover=mover,
        keeper=Keeper(store, relay.running, channels.statuses, background.tend, tidy),
        drain=drain,
        budget=budget,
        bodies=bodies,
        in_flight=InFlight(settings.max_in_flight),
        sockets=InFlight(settings.max_sockets),
    )
