"""What needs attention: each problem with what to do and where. Operators see the system's, owners those of their own
tokens. Nothing is written, and no upstream is asked.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from shlex import quote
from shutil import disk_usage
from typing import Any, NamedTuple

from app.alerts.watcher import BAD as BAD_STATE
from app.alerts.watcher import EXPIRES_SOON, disk_condition
from app.channels.watched_table import LastTable
from app.contract.limits import Budget, Limits
from app.contract.pauses import Pause
from app.contract.records import WorkerStatus
from app.limits.budget_alerts import LEVELS
from app.limits.periods import budget_used, end_of, start_of
from app.reports.channel_states import COOLDOWN, FULL, HALF_OPEN, ChannelReport, channel_reports
from app.store.alerts import BACKUP
from app.store.in_flight import InFlightResponse
from app.store.jobs import UNATTENDED
from app.store.migrations import needed
from app.store.standing import Standing, TokenStanding

WARNING, PROBLEM = "warning", "problem"

#: Seconds after which a queued response has waited for long although there is a worker.
LONG_WAIT = 60
#: Errors of the table of which one is quoted.
_QUOTED = 200


@dataclass(frozen=True, slots=True)
class Problem:
    grade: str
    """warning, problem."""
    subject: str
    text: str
    """Goes on after the subject."""
    remedy: str
    place: str
    """Where to look: table, channels, tokens, requests, or empty for nowhere."""
    named: str = ""
    """The channel or token."""
    key: int | None = None
    """Of the token."""
    quote: str = ""
    """The words of a file or a program."""

    def wire(self) -> dict[str, Any]:
        quote = f" {self.quote}" if self.quote else ""
        return {
            "grade": self.grade,
            "subject": self.subject,
            "text": f"{self.subject} {self.text}{quote}",
            "fix": self.remedy,
        }


@dataclass(frozen=True, slots=True)
class Attention:
    problems: Sequence[Problem]
    """The worst first."""
    fine: Sequence[str]
    """What was looked at and is well."""


def attention_report(
    scope: str | None,
    standing: Standing,
    table: LastTable,
    responses: Sequence[InFlightResponse] = (),
    workers: Sequence[WorkerStatus] = (),
    pauses: Sequence[Pause] = (),
    database_file: Path | None = None,
) -> Attention:
    """`responses` and `workers`: what is in flight. `scope`: the owner to whom it is shown; None for an operator."""
    problems = list(_of_tokens(standing, table.current.limits, _COMMANDS if scope is None else _ASKING))
    fine: list[str] = []
    if scope is None:
        problems += _of_table(table)
        problems += _of_channels(channel_reports(table.current, workers, pauses=pauses), workers)
        problems += _of_jobs(standing, responses)
        for problem, words in (_schema(standing), _backup(standing), _disk(database_file)):
            problems += [problem] if problem is not None else []
            fine += [words] if words else []
    return Attention(sorted(problems, key=lambda problem: problem.grade != PROBLEM), fine)


def stored_problems(standing: Standing, defaults: Limits) -> list[Problem]:
    """Those that the database alone knows: of tokens, and of the backup. `defaults`: the table's limits."""
    backup, _ = _backup(standing)
    return [*_of_tokens(standing, defaults, _COMMANDS), *([backup] if backup is not None else [])]


# --- channels ---------------------------------------------------------------------------------------------------


def _of_table(table: LastTable) -> Iterator[Problem]:
    if table.rejected is None:
        return
    first, *more = table.rejected.strip().splitlines()
    yield Problem(
        PROBLEM,
        f"{table.path.name} refused:",
        "the table before it still serves.",
        "Correct the file: it is read again within a second. antiphon check shows every error.",
        "table",
        quote=first.removeprefix(f"{table.path}:")[:_QUOTED] + (f" (and {len(more)} more lines)" if more else ""),
    )


def _of_channels(reports: Sequence[ChannelReport], workers: Sequence[WorkerStatus]) -> Iterator[Problem]:
    for report in reports:
        name, state = report.channel.name, report.state
        if state.label == COOLDOWN:
            resting = sum(
                status.cooldown_left > 0 for worker in workers for status in worker.channels if status.name == name
            )
            where = f" on {resting} of {len(workers)} workers" if resting < len(workers) else ""
            text = (
                f"cools down for another {state.cooldown_left} s{where}: {state.last_error or 'its requests failed'}."
            )
        elif state.label == HALF_OPEN:
            text = f"takes one request at a time after a cooldown: {state.last_error or 'its requests failed'}."
        elif state.label == FULL:
            text = "has as many requests as its max_concurrency allows; more of them wait."
        elif state.pause is not None:
            yield Problem(WARNING, name, f"is {state.text}.", "Resume it on its page.", "channels", name)
            continue
        else:
            continue
        yield Problem(WARNING, name, text, f"antiphon channels test {name}", "channels", name)
    yield from _unserved(reports)


def _unserved(reports: Sequence[ChannelReport]) -> Iterator[Problem]:
    """Models of which every channel is left out at the moment."""
    available = {model for report in reports if report.state.is_available for model in report.channel.models}
    out = {
        model: report.channel.name
        for report in reports
        if report.state.label == COOLDOWN or report.state.pause is not None
        for model in report.channel.models
        if model not in available
    }
    for model, channel in sorted(out.items()):
        text = "has no channel that takes a request now."
        yield Problem(PROBLEM, model, text, "Add a second channel for the model, or wait.", "channels", channel)


# --- tokens -----------------------------------------------------------------------------------------------------


class _Remedies(NamedTuple):
    """What to do about a token, with its name as `{name}`, and for a shell as `{word}`."""

    budget: str
    expiry: str

    def of(self, token: TokenStanding) -> _Remedies:
        names = {"name": token.name, "word": quote(token.name)}
        return _Remedies(*(remedy.format(**names) for remedy in self))


_COMMANDS = _Remedies(
    "Raise it: antiphon tokens update {word} --budget …",
    "Give it another expiry: antiphon tokens update {word} --expires 90d",
)
#: For owners, who change no limits.
_ASKING = _Remedies("Ask an operator for more, if {name} needs it.", "Ask an operator for another expiry of {name}.")


def _of_tokens(standing: Standing, defaults: Limits, remedies: _Remedies) -> Iterator[Problem]:
    for token in standing.tokens:
        remedy = remedies.of(token)
        for budget in token.limits.or_else(defaults).budgets or ():
            yield from _of_budget(token, budget, standing.now, remedy.budget)
        if token.expires_at is not None and token.expires_at - standing.now <= EXPIRES_SOON:
            yield Problem(
                WARNING,
                token.name,
                f"expires on {_day(token.expires_at)} at {_clock(token.expires_at)}.",
                remedy.expiry,
                "tokens",
                token.name,
                token.key,
            )


def _of_budget(token: TokenStanding, budget: Budget, now: int, remedy: str) -> Iterator[Problem]:
    used, amount = budget_used(budget, token.counters), budget.amount
    ends = int(end_of(budget.period, now).timestamp())
    named = f"{budget.shown(amount)} for {_period(budget, now)}"
    if used >= amount:
        text = f"has spent its {named}; its requests are refused until {_day(ends)}, {_clock(ends)}."
        yield Problem(PROBLEM, token.name, text, remedy, "tokens", token.name, token.key)
    elif used * 100 >= min(LEVELS) * amount:
        text = f"has used {used * 100 // amount} % of its {named}{_pace(budget, used, now, ends)}."
        yield Problem(WARNING, token.name, text, remedy, "tokens", token.name, token.key)


def _pace(budget: Budget, used: int, now: int, ends: int) -> str:
    """When it will be spent if it goes on like this, within its period."""
    begun = int(start_of(budget.period, now).timestamp())
    spent = begun + (now - begun) * budget.amount // used
    if spent >= ends:
        return ""
    return (
        f"; at this pace it stops on {_day(spent)}"
        if budget.period == "month"
        else f"; at this pace it stops at {_clock(spent)}"
    )


def _period(budget: Budget, now: int) -> str:
    return "today" if budget.period == "day" else f"{datetime.fromtimestamp(now).astimezone():%B}"


# --- background, database, disk ---------------------------------------------------------------------------------


def _of_jobs(standing: Standing, responses: Sequence[InFlightResponse]) -> Iterator[Problem]:
    patience = LONG_WAIT if standing.background_workers else UNATTENDED
    waiting = sum(one.status == "queued" and one.seconds >= patience for one in responses)
    if not waiting:
        return
    subject = f"{waiting} background response{'s' if waiting > 1 else ''}"
    have = "have" if waiting > 1 else "has"
    if standing.background_workers:
        text = f"{have} waited for over {LONG_WAIT} s: the {standing.background_workers} background workers are busy."
        remedy = "Start one more antiphon worker, or raise ANTIPHON_WORKER_THREADS."
        yield Problem(WARNING, subject, text, remedy, "requests")
    else:
        text = f"{have} no worker: none for background responses runs on any host."
        yield Problem(PROBLEM, subject, text, "Start antiphon serve or antiphon worker.", "requests")


def _schema(standing: Standing) -> tuple[Problem | None, str]:
    found, own = standing.schema, needed()
    if found is None or found == own:
        return None, f"schema {own}"
    if found > own:
        text = f"is newer than this Antiphon, which knows {own}."
        remedy = "Restart this server with the version that upgraded the database."
    else:
        text = f"is older than this Antiphon, which needs {own}."
        remedy = "Run antiphon db upgrade."
    return Problem(PROBLEM, f"Schema {found}", text, remedy, ""), ""


def _backup(standing: Standing) -> tuple[Problem | None, str]:
    known = standing.states.get(BACKUP)
    if known is None:
        return None, ""
    when = f"on {_day(known.changed_at)} at {_clock(known.changed_at)}" if known.changed_at else "the last time"
    if known.state != BAD_STATE:
        return None, f"backup {when}"
    text = f"has failed {when}."
    return Problem(PROBLEM, "The backup", text, "Run antiphon db backup FILE and read what it says.", ""), ""


def _disk(database_file: Path | None) -> tuple[Problem | None, str]:
    """`database_file`: None for a database of another machine."""
    if database_file is None:
        return None, ""
    try:
        size, usage = database_file.stat().st_size, disk_usage(database_file.parent)
        low = disk_condition(database_file.parent).is_bad
    except OSError:
        return None, ""
    if low:
        text = f"has only {usage.free // 1_000_000} MB free where the database is."
        return Problem(PROBLEM, "The disk", text, "antiphon db prune, or a larger disk.", ""), ""
    return None, f"database {_size(size)}, disk {usage.free * 100 // usage.total} % free"


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(1, size // 1_000_000)} MB"


def _day(moment: int) -> str:
    """In the server's time zone."""
    return time.strftime("%-d %b", time.localtime(moment))


def _clock(moment: int) -> str:
    return time.strftime("%H:%M", time.localtime(moment))
