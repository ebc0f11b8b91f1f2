"""Every route of the console with a path of it, and what each person gets. The things in the paths are ada's."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from werkzeug.routing import Rule

from app import create_app
from app.settings import Settings
from app.store.store import Store

TABLE = "version: 1\nchannels:\n  - {name: demo, format: demo, models: [demo]}\n"
PREFIX = "/console"
#: Ids of what never existed, by the placeholder that they stand for.
UNKNOWN = {"turn": f"resp_{'0' * 48}", "fresh": f"resp_{'0' * 48}", "token": "6999999999"}


@dataclass(frozen=True, slots=True)
class Route:
    """`{turn}`, `{fresh}`, `{token}` and `{channel}` in the path are things of the owner. `{fresh}`, a response, and
    `{token}` are there for this request alone, which may end them."""

    method: str
    path: str
    owner: int
    """The status for ada, whose things they are."""
    other: int
    """The status for another owner."""
    operator: int
    anonymous: int = 0
    """Where it differs from that of a page: 303 to the sign-in, 401 for what changes something."""
    form: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    endless: bool = False
    """Its answer is a stream that ends with the client."""
    is_part: bool = False
    """Its answer is no page: a fragment, a file, a value."""

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def is_public(self) -> bool:
        return self.anonymous in (200, self.owner)

    @property
    def without_session(self) -> int:
        return self.anonymous or (303 if self.method == "GET" else 401)

    @property
    def placeholders(self) -> list[str]:
        return re.findall(r"\{(\w+)\}", self.path)


def everyones(path: str, **keys: Any) -> Route:
    return Route("GET", path, 200, 200, 200, **keys)


def owners(path: str, **keys: Any) -> Route:
    """Shows a thing of its owner to the owner and to operators."""
    return Route("GET", path, 200, 404, 200, **keys)


def operators(path: str, **keys: Any) -> Route:
    return Route("GET", path, 404, 404, 200, **keys)


ROUTES = (
    # Without a session.
    Route("GET", "/console", 303, 303, 303, anonymous=303),
    Route("GET", "/console/", 303, 303, 303, anonymous=303),
    Route("GET", "/console/sign-in", 200, 200, 200, anonymous=200),
    Route("POST", "/console/sign-in", 401, 401, 401, anonymous=401, form={"token": "ap_unknown"}),
    Route("POST", "/console/sign-in/code", 401, 401, 401, anonymous=401, form={"code": "unknown"}),
    Route("GET", "/console/static/style.css", 200, 200, 200, anonymous=200, is_part=True),
    Route("GET", "/console/no-such-page", 404, 404, 404, anonymous=404),
    # Of everyone who is signed in.
    everyones("/console/overview"),
    everyones("/console/overview/now", is_part=True),
    everyones("/console/live?topics=flight,requests", endless=True),
    # It has ended, and stays as it is.
    Route("POST", "/console/requests/{turn}/cancel", 303, 404, 303),
    # Requests: one's own, and for operators all. A look at another's text needs a reason.
    everyones("/console/requests"),
    owners("/console/requests?at={turn}"),
    Route("POST", "/console/requests/{turn}/curl", 200, 404, 200, form={"reason": "a test"}),
    # Tools. The table of the tests has no server.
    everyones("/console/tools"),
    Route("POST", "/console/tools/{server}/test", 404, 404, 404),
    # Channels: an owner sees those of their models, and changes nothing.
    everyones("/console/channels"),
    operators("/console/channels/{channel}/test"),
    Route("POST", "/console/channels/{channel}/test", 404, 404, 200),
    Route("POST", "/console/channels/{channel}/pause", 404, 404, 303),
    Route("POST", "/console/channels/{channel}/drain", 404, 404, 303),
    Route("POST", "/console/channels/{channel}/resume", 404, 404, 303),
    Route("POST", "/console/channels/{channel}/end-cooldown", 404, 404, 303),
    Route("POST", "/console/channels/{channel}/forget", 404, 404, 303),
    Route("POST", "/console/channels/reload", 404, 404, 303),
    # The playground: one's own things, for operators as well.
    everyones("/console/playground"),
    Route("POST", "/console/playground", 200, 200, 200, json={"model": "demo", "input": "hello"}),
    Route("POST", "/console/playground/compact", 200, 200, 200, json={"model": "demo", "input": "hello"}),
    Route("GET", "/console/playground/{turn}", 200, 404, 404, anonymous=401, is_part=True),
    Route("GET", "/console/playground/{turn}/facts", 200, 404, 404, anonymous=401, is_part=True),
    # It is not a background response.
    Route("POST", "/console/playground/{turn}/cancel", 400, 404, 404),
    # Conversations. An operator reads what is another's, and deletes none of it.
    everyones("/console/conversations"),
    Route("GET", "/console/conversations/{fresh}/delete", 200, 404, 404),
    Route("POST", "/console/conversations/{fresh}/delete", 303, 404, 404),
    owners("/console/c/{turn}"),
    owners("/console/c/{turn}/turns", is_part=True),
    owners("/console/c/{turn}/fold?first={turn}&last={turn}", is_part=True),
    Route("POST", "/console/c/{turn}/text", 200, 404, 200, form={"reason": "a question about this turn"}),
    # Exports of another's conversation are recorded, so a link is not enough.
    Route("GET", "/console/c/{turn}/export?as=json", 200, 404, 403, is_part=True),
    Route("POST", "/console/c/{turn}/export", 200, 404, 200, form={"as": "json"}),
    # Tokens: owners see theirs, and rotate and revoke them.
    everyones("/console/people"),
    Route("POST", "/console/people", 404, 404, 200, form={"name": "made", "owner": "ada", "once": "made-once"}),
    operators("/console/people/{token}"),
    Route("POST", "/console/people/{token}", 404, 404, 303, form={"name": "changed", "owner": "ada"}),
    owners("/console/people/{token}/rotate"),
    Route("POST", "/console/people/{token}/rotate", 200, 404, 200, form={"overlap": "24h", "once": "rotated-once"}),
    owners("/console/people/{token}/revoke"),
    Route("POST", "/console/people/{token}/revoke", 303, 404, 303),
    everyones("/console/audit"),
    everyones("/console/connect"),
    owners("/console/connect/seen?token={token}", is_part=True),
    # Last, because it ends the session.
    Route("POST", "/console/sign-out", 303, 303, 303),
)


@contextmanager
def console_rules(folder: Path) -> Iterator[dict[str, Rule]]:
    """The rules of the application under /console, by method and rule: `GET /console/overview`."""
    (folder / "channels.yaml").write_text(TABLE)
    settings = Settings(
        database_url=f"sqlite:///{folder}/rules.db", channels=folder / "channels.yaml", secret_key="k" * 43
    )
    store = Store(settings.database_url, peppers=settings.keys_for("tokens"))
    store.schema.upgrade()
    store.close()
    application = create_app(settings)
    try:
        yield {
            f"{method} {rule.rule}": rule
            for rule in application.url_map.iter_rules()
            if rule.rule.startswith(PREFIX)
            for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        }
    finally:
        application.extensions["antiphon"].close()


def rule_of(route: Route, rules: Mapping[str, Rule]) -> str | None:
    """The rule that a route's path belongs to: the one that takes its words for themselves."""
    words = route.path.partition("?")[0].split("/")

    def matches(rule: str) -> bool:
        parts = rule.split("/")
        return len(parts) == len(words) and all(
            part == word or (part.startswith("<") and "{" in word) for part, word in zip(parts, words, strict=True)
        )

    return next((name for name in rules if name.startswith(f"{route.method} ") and matches(name.split(" ")[1])), None)
