"""Rows of the audit as people read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.console.access import Visitor
from app.store.audit import AuditRow

#: What each action is called, in front of what it was done to.
_WORDS: Mapping[str, str] = {
    "cancel": "cancelled",
    "pause": "paused channel",
    "resume": "resumed channel",
    "end cooldown": "ended the cooldown of channel",
    "drain": "drained channel",
    "test channel": "tested channel",
    "forget": "deleted what was learnt about channel",
    "reload": "reloaded",
    "show text": "looked at the text of",
    "export": "exported",
    "create token": "made token",
    "rotate token": "gave another secret to token",
    "revoke token": "revoked token",
    "change token": "changed token",
}
ACTIONS = tuple(_WORDS)
#: Actions that show another's content.
_LOOKS = frozenset({"show text", "export"})
#: Actions whose reason a person has written.
_WITH_REASON = frozenset({"show text", "pause", "drain", "cancel"})
_RESPONSE = "resp_"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    at: int
    actor: str
    token: str
    words: str
    is_look: bool
    """It shows an owner's content to another."""
    owner: str
    """Whom it concerns; empty for none."""
    response: str
    """The id of the response that it concerns; empty for none."""
    reason: str
    quoted: bool
    """The reason is a person's own words."""


def audit_entries(
    visitor: Visitor, *, before: int | None = None, filters: Mapping[str, str] | None = None, limit: int = 50
) -> Sequence[tuple[int, AuditEntry]]:
    """The newest entries that the visitor may see, with their keys. One query."""
    rows = visitor.gateway.store.audit.rows(visitor.scope, before=before, filters=filters, limit=limit)
    return [(row.key, _entry(row)) for row in rows]


def _entry(row: AuditRow) -> AuditEntry:
    response = row.subject if row.subject.startswith(_RESPONSE) else ""
    what = "a response" if response else row.subject
    return AuditEntry(
        at=row.at,
        actor=row.actor,
        token=row.token,
        words=f"{_WORDS.get(row.action, row.action)} {what}".strip(),
        is_look=row.action in _LOOKS and row.owner is not None and row.owner != row.actor,
        owner=row.owner or "",
        response=response,
        reason=row.reason or "",
        quoted=row.action in _WITH_REASON,
    )
