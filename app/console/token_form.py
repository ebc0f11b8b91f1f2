"""The form of a token: texts that a person enters, the token that they mean, and the errors beside their fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from app.contract.limits import UNSTATED
from app.contract.records import Token
from app.reports import token_fields
from app.store.tokens import LONGEST_NAME, has_controls

#: The fields of the limits, by the member of `Limits` that each sets.
_LIMITS: Mapping[str, Callable[[str], Any]] = {
    "rpm": token_fields.amount,
    "tpm": token_fields.amount,
    "concurrency": token_fields.amount,
    "budgets": token_fields.budget_list,
    "tags": token_fields.tags,
}
#: The other fields, by the member of `Token` that each sets.
_RIGHTS: Mapping[str, Callable[[str], Any]] = {
    "models": token_fields.models,
    "tools": token_fields.tools,
    "expires_at": token_fields.expiry,
    "retention": token_fields.retention,
}
#: What an empty field means, as the command has it without the option.
_EMPTY: Mapping[str, Any] = {"models": (), "tools": ()}
_READERS = {**_LIMITS, **_RIGHTS}
NAMES = ("name", "owner")
FIELDS = (*NAMES, *_READERS, "console", "no_store", "metrics")
SELDOM = ("tools", "tpm", "tags", "retention", "no_store", "metrics")
_CONSOLE = {"": None, "owner": "owner", "operator": "operator"}
_CHECKED = "on"


#: In a form with errors.
NO_TOKEN = Token(0, "", "", "")


@dataclass(frozen=True)
class TokenForm:
    """What was entered, and what it means."""

    texts: Mapping[str, str]
    """By field, as they were entered."""
    errors: Mapping[str, str] = field(default_factory=dict)
    """By field. Without errors `token` is whole."""
    token: Token = NO_TOKEN

    @property
    def more(self) -> bool:
        """One of the fields that are seldom used says something."""
        return any(self.texts.get(name) or name in self.errors for name in SELDOM)

    def with_error(self, name: str, sentence: str) -> TokenForm:
        return replace(self, errors={**self.errors, name: sentence})


def texts_of(token: Token) -> dict[str, str]:
    """The texts that mean this token. An expiry to the minute, in UTC."""
    limits = token.limits
    return {
        "name": token.name,
        "owner": token.owner,
        "models": ", ".join(token.models),
        "tools": ", ".join(token.tools),
        "rpm": _amount(limits.rpm),
        "tpm": _amount(limits.tpm),
        "concurrency": _amount(limits.concurrency),
        "budgets": _listed([budget.text for budget in limits.budgets or ()], limits.budgets, token_fields.NONE),
        "tags": _listed(limits.tags or (), limits.tags, *token_fields.ALL),
        "expires_at": _minute(token.expires_at),
        "retention": "" if token.retention is None else _duration(token.retention),
        "console": token.console or "",
        "no_store": "" if token.stores else _CHECKED,
        "metrics": _CHECKED if token.metrics else "",
    }


def read(entered: Mapping[str, str], before: Token | None = None) -> TokenForm:
    """Reads a form: of a new token, or of changes to `before`, whose fields stay as they are where the text stays."""
    texts = {name: entered.get(name, "").strip() for name in FIELDS}
    known = {} if before is None else texts_of(before)
    values: dict[str, Any] = {}
    errors: dict[str, str] = {}
    for name, reader in _READERS.items():
        if before is not None and texts[name] == known[name]:
            values[name] = _value_of(before, name)
            continue
        try:
            values[name] = reader(texts[name]) if texts[name] else _EMPTY.get(name)
        except ValueError as error:
            errors[name] = f"{error}."
    if texts["console"] not in _CONSOLE:
        errors["console"] = f"{texts['console']!r} is no right to the console."
    if before is None:
        texts["owner"] = texts["owner"] or texts["name"]
        errors.update(_misnamed(texts))
    if errors:
        return TokenForm(texts, errors)
    token = replace(
        before or replace(NO_TOKEN, name=texts["name"], owner=texts["owner"]),
        **{name: values[name] for name in _RIGHTS},
        limits=replace(UNSTATED if before is None else before.limits, **{name: values[name] for name in _LIMITS}),
        stores=texts["no_store"] != _CHECKED,
        metrics=texts["metrics"] == _CHECKED,
        console=_CONSOLE[texts["console"]],
    )
    return TokenForm(texts, token=token)


#: The fields by the words of the form.
_LABELS = {
    "rpm": "requests a minute",
    "tpm": "tokens a minute",
    "concurrency": "requests at once",
    "budgets": "budget",
    "expires_at": "expires",
    "no_store": "store no content",
}


def changes(before: Token, after: Token) -> str:
    """What differs, for the audit: `requests a minute 60 → 120, console – → owner`."""
    old, new = texts_of(before), texts_of(after)
    return ", ".join(
        f"{_LABELS.get(name, name)} {old[name] or '–'} → {new[name] or '–'}" for name in old if old[name] != new[name]
    )


def _misnamed(texts: Mapping[str, str]) -> dict[str, str]:
    errors = {name: "No control characters, such as line breaks." for name in NAMES if has_controls(texts[name])}
    errors |= {name: f"At most {LONGEST_NAME} characters." for name in NAMES if len(texts[name]) > LONGEST_NAME}
    return errors if texts["name"] else {**errors, "name": "A token needs a name."}


def _value_of(token: Token, name: str) -> Any:
    return getattr(token.limits if name in _LIMITS else token, name)


def _minute(at: int | None) -> str:
    return "" if at is None else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}"


def _amount(value: int | None) -> str:
    return "" if value is None else str(value or token_fields.NONE)


def _listed(texts: Any, stated: Any, nothing: str) -> str:
    """An empty text for what is not stated, and a word for an empty list."""
    return "" if stated is None else ", ".join(texts) or nothing


def _duration(seconds: int) -> str:
    """As people write it, in the largest unit that has no rest."""
    for letter, unit in (("w", 604_800), ("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds % unit == 0:
            return f"{seconds // unit}{letter}"
    return f"{seconds}s"
