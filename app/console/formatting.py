"""Values as the pages show them. Unknown is a dash, never 0; numbers have three figures, and the unit beside them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from shlex import quote
from typing import Any

from markupsafe import Markup

from app.contract.limits import TOKENS

UNKNOWN = "–"
_NARROW = "\u202f"
#: Micro-units in one unit of money.
_UNIT = 1_000_000
#: Characters of an id that are shown: its end, because ids begin with the time and look alike.
_SHOWN = 6


def count(value: int | None) -> str:
    """`1 204`: every figure."""
    return UNKNOWN if value is None else f"{value:,}".replace(",", _NARROW)


def amount(value: float | None) -> str:
    """Three figures: `950`, `6.1k`, `64k`, `2.9 M`, `1.2 G`."""
    if value is None:
        return UNKNOWN
    for size, unit in ((1_000_000_000, f"{_NARROW}G"), (1_000_000, f"{_NARROW}M"), (1000, "k")):
        if value >= size * 0.9995:
            scaled = value / size
            return f"{scaled:.0f}{unit}" if scaled >= 9.95 else f"{scaled:.1f}{unit}"
    return f"{value:.0f}"


def money(micros: int | None) -> str:
    """Of micro-units: `$5.81`, `$0.0042` when cents would hide it."""
    if micros is None:
        return UNKNOWN
    value = micros / _UNIT
    return f"${value:.4f}" if 0 < value < 0.01 else f"${value:,.2f}".replace(",", _NARROW)


def in_unit(value: int, unit: str) -> str:
    """An amount of a budget: `$31.10` of micro-units, `31.10 EUR`, `1.5 M tokens`."""
    if unit == TOKENS:
        return f"{amount(value)} tokens"
    shown = money(value)
    return shown if unit == "usd" else f"{shown.removeprefix('$')} {unit.upper()}"


def seconds(milliseconds: float | None) -> str:
    """Of milliseconds: `0.62 s`, `3.1 s`, `14 s`, `4 m 10 s`, `2 h 11 m`."""
    if milliseconds is None:
        return UNKNOWN
    value = milliseconds / 1000
    if value < 0.995:
        return f"{value:.2f} s"
    if value < 9.95:
        return f"{value:.1f} s"
    if value < 59.5:
        return f"{value:.0f} s"
    return duration(round(value))


def duration(value: int | None) -> str:
    """Of whole seconds: `38 s`, `4 m 10 s`, `2 h 11 m`, `3 d 4 h`."""
    if value is None:
        return UNKNOWN
    for large, small, names in ((86_400, 3600, "d h"), (3600, 60, "h m"), (60, 1, "m s")):
        if value >= large:
            first, second = names.split()
            whole, rest = divmod(value, large)
            return f"{whole} {first} {rest // small} {second}" if rest // small else f"{whole} {first}"
    return f"{value} s"


def share(part: float | None, whole: float | None) -> str:
    """`76 %`, `0.4 %`; unknown without a whole."""
    if part is None or not whole:
        return UNKNOWN
    percent = 100 * part / whole
    return f"{percent:.1f} %" if 0 < percent < 0.95 else f"{percent:.0f} %"


def short_id(id_: str) -> str:
    return f"…{id_[-_SHOWN:]}"


def moment(at: int | None) -> Markup | str:
    """Unix time in the server's zone: `14:02:11` today, `23 Nov 09:14` this year, `23 Nov 2025` before."""
    if at is None:
        return UNKNOWN
    then, now = time.localtime(at), time.localtime()
    day = f"{then.tm_mday} {time.strftime('%b', then)}"
    if then[:3] == now[:3]:
        words = time.strftime("%H:%M:%S", then)
    elif then.tm_year == now.tm_year:
        words = f"{day} {time.strftime('%H:%M', then)}"
    else:
        words = f"{day} {then.tm_year}"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at)), time.strftime("%Y-%m-%d %H:%M:%S", then), words
    )


def zone() -> str:
    """The server's zone: `UTC`, `CET`."""
    return time.strftime("%Z") or "UTC"


#: Of the templates.
FILTERS: Mapping[str, Callable[..., Any]] = {
    "amount": amount,
    "count": count,
    "duration": duration,
    "in_unit": in_unit,
    "moment": moment,
    "money": money,
    "seconds": seconds,
    "share": share,
    "short_id": short_id,
    "shell_word": quote,
}
