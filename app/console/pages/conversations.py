"""/console/conversations: the newest conversations, and the page that asks before one is deleted."""

from __future__ import annotations

import time
from urllib.parse import urlencode

from flask import Blueprint, Response, request

from app.console.access import Visitor, signed_in
from app.console.answers import page, see_other
from app.console.sparklines import sparkline
from app.errors import InvalidRequest, NotFound
from app.reports.conversations import conversations_report, deletable, delete_conversation, tree_notes
from app.store.tree_list import MOST, SHOWN_TURNS, Place, TreeRow, Wanted, can_search
from app.web.client_names import CLIENTS

blueprint = Blueprint("conversations", __name__)

#: What a conversation can be searched for, with the words for it.
_WITH = (
    ("branch", "a branch"),
    ("compaction", "a compaction"),
    ("failover", "a failover"),
    ("error", "an error"),
    ("unstored", "nothing stored"),
)
#: Icon and kind of the badge of each note.
_BADGES = {
    "failovers": ("warn", "warn"),
    "incomplete": ("half", "warn"),
    "cancelled": ("bad", "bad"),
    "failed": ("bad", "bad"),
    "deleted": ("off", ""),
    "unstored": ("open", ""),
}
#: Digits of a number that a column can have.
_LONGEST_KEY = 18
_FILTERS = ("q", "owner", "model", "client", "has")


@blueprint.get("/conversations")
@signed_in
def conversations(visitor: Visitor) -> Response:
    asked = {name: request.args.get(name, "").strip() for name in _FILTERS}
    wanted = _wanted(visitor, asked)
    before = _place(request.args.get("before", ""))
    now = int(time.time())
    report = conversations_report(visitor.scope, visitor.gateway.store, visitor.owner, wanted, before, now)
    table, facts = visitor.gateway.channels.table, visitor.gateway.model_facts.facts
    query = urlencode({name: value for name, value in asked.items() if value})
    return page(
        "conversations.html",
        visitor,
        active="Conversations",
        report=report,
        asked=asked,
        is_filtered=any(asked.values()),
        reads_newest=wanted.is_filtered or bool(wanted.id and not wanted.id.startswith("resp_")),
        most=MOST,
        shown_turns=SHOWN_TURNS,
        lines=[(line, sparkline(line.contexts), _badges(line.row)) for line in report.lines],
        windows={line.row.model: facts(line.row.model).context_window for line in report.lines},
        owners=sorted({line.row.owner for line in report.lines}),
        models=sorted({name for channel in table.channels for name in channel.models} | {asked["model"]} - {""}),
        clients=CLIENTS,
        has=_WITH,
        newest=f"/console/conversations?{query}" if before else "",
        older=_older(query, report.older),
    )


@blueprint.get("/conversations/<id_>/delete")
@signed_in
def ask(visitor: Visitor, id_: str) -> Response:
    """Only one's own: an operator reads and cancels what is another's."""
    found = deletable(visitor.owner, visitor.gateway.store, id_)
    if found is None:
        raise NotFound("You have no such conversation.")
    return page("conversation_delete.html", visitor, active="Conversations", id=id_, found=found)


@blueprint.post("/conversations/<id_>/delete")
@signed_in
def delete(visitor: Visitor, id_: str) -> Response:
    store = visitor.gateway.store
    if deletable(visitor.owner, store, id_) is None:
        raise NotFound("You have no such conversation.")
    delete_conversation(visitor.owner, store, id_)
    left = deletable(visitor.owner, store, id_)
    return see_other(f"/console/conversations/{id_}/delete" if left and left.turns else "/console/conversations")


# --- values ---------------------------------------------------------------------------------------------------------


def _wanted(visitor: Visitor, asked: dict[str, str]) -> Wanted:
    if asked["has"] and asked["has"] not in dict(_WITH):
        raise InvalidRequest("There is no such filter.", param="has")
    if asked["q"] and not can_search(asked["q"]):
        raise InvalidRequest("Conversations are found by an id, its beginning or its end.", param="q")
    return Wanted(
        owner=(asked["owner"] or None) if visitor.is_operator else None,
        model=asked["model"] or None,
        client=asked["client"] or None,
        has=asked["has"] or None,
        id=asked["q"] or None,
    )


def _place(text: str) -> Place | None:
    if not text:
        return None
    newest_at, _, root = text.partition("-")
    if not all(part.isascii() and part.isdigit() and len(part) <= _LONGEST_KEY for part in (newest_at, root)):
        raise InvalidRequest("There is no such page.", param="before")
    return Place(int(newest_at), int(root))


def _older(query: str, place: Place | None) -> str:
    if place is None:
        return ""
    return f"/console/conversations?{query}{'&' if query else ''}before={place.newest_at}-{place.root}"


def _badges(row: TreeRow) -> list[tuple[str, str, str]]:
    return [(*_BADGES[name], words) for name, words in tree_notes(row)]
