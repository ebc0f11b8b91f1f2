"""The rows of the channel table: their keys and the values of each. Knows no file, line or variable."""

from __future__ import annotations

from collections.abc import Iterable
from operator import itemgetter
from typing import Any

import orjson
from marshmallow import ValidationError, fields

from app.contract.model_facts import MODALITIES
from app.contract.money import Price, Rates
from app.schemas import table_values, tool_servers
from app.schemas.readers import DEFINITIONS, REFERENCE, JSONSchema, Reader, a_list, either, reads, single
from app.schemas.rows import Row, Value, keys_of

#: Most seconds that a request waits for a place in a full channel: a request that gets none is refused by its status.
LONGEST_QUEUE = 8.0

#: Channels that answer by themselves and have no URL.
WITHOUT_UPSTREAM = frozenset({"demo"})


class TimeoutRow(Row):
    connect = Value(table_values.duration)
    first_byte = Value(table_values.duration)
    idle = Value(table_values.duration)
    total = Value(table_values.duration)


@reads(either(table_values.duration.schema, TimeoutRow.described()))
def timeout_of(value: Any) -> Any:
    """One duration, or a mapping of the four."""
    return TimeoutRow().load(value) if isinstance(value, dict) else table_values.duration(value)


class CooldownRow(Row):
    after = Value(table_values.number(int, 1, 1000))
    seconds = Value(table_values.duration, data_key="for")


class DefaultsRow(Row):
    timeout = Value(timeout_of)
    cooldown = Value(CooldownRow.reader())


class CompactionRow(Row):
    model = Value(table_values.model_name, allow_none=True)
    strategy = Value(table_values.one_of("auto", "native", "summary", "trim"))
    timeout = Value(table_values.duration)


class LimitsRow(Row):
    rpm = Value(table_values.limit)
    tpm = Value(table_values.limit)
    concurrency = Value(table_values.limit)
    budgets = Value(table_values.budget, data_key="budget")
    tags = Value(table_values.distinct(table_values.identifier))
    models = Value(table_values.distinct(table_values.model_name))
    no_store = Value(table_values.flag)


class AlertsRow(Row):
    url = Value(table_values.base_url, required=True)
    secret = Value(table_values.secret, required=True)


class TierRow(Row):
    input = Value(table_values.amount)
    cached_input = Value(table_values.amount)
    cache_write = Value(table_values.amount)
    output = Value(table_values.amount)


@reads(TierRow.described(), names=table_values.tokens.schema)
def tier_of(tokens: str, rates: Any) -> tuple[int, dict[str, int]]:
    return table_values.tokens(tokens), TierRow().load(rates)


class PriceRow(TierRow):
    input = Value(table_values.amount, required=True)
    output = Value(table_values.amount, required=True)
    above = Value(table_values.mapping(tier_of))
    effective = Value(table_values.day)


@reads(PriceRow.described())
def price_of(value: Any) -> Price:
    row = PriceRow().load(value)
    effective = row.pop("effective", 0)
    tiers = sorted(row.pop("above", {}).values(), key=itemgetter(0), reverse=True)
    return Price(Rates(**row), tuple((tokens, Rates(**{**row, **rates})) for tokens, rates in tiers), effective)


@reads(either(price_of.schema, a_list(price_of.schema)))
def prices_of(value: Any) -> tuple[Price, ...]:
    """One price, or a list of prices that begin on different days; the newest last."""
    if not isinstance(value, list):
        return (price_of(value),)
    prices = table_values.every(price_of)(value)
    days = [price.effective for price in prices]
    if len(set(days)) < len(days):
        raise ValidationError("two of the prices begin on the same day; each needs its own date under `effective`")
    return tuple(sorted(prices, key=lambda price: price.effective))


class FactsRow(Row):
    context_window = Value(table_values.number(int, 1, 1_000_000_000))
    max_output_tokens = Value(table_values.number(int, 1, 1_000_000_000))
    price = Value(prices_of)
    compact_at = Value(table_values.number(float, 0.05, 1))
    modalities = Value(table_values.distinct(table_values.one_of(*MODALITIES)))
    efforts = Value(table_values.distinct(table_values.identifier))
    display_name = Value(table_values.model_name)
    parallel_tools = Value(table_values.flag)
    verbosity = Value(table_values.flag)
    patch_tool = Value(table_values.one_of("freeform", "none"))
    tool_output_tokens = Value(table_values.number(int, 100, 1_000_000))
    catalogue = Value(table_values.flag)


class ParamsRow(Row):
    drop = Value(table_values.distinct(table_values.member))
    rename = Value(table_values.mapping(table_values.renamed_member))
    set = Value(table_values.mapping(table_values.set_member))


class ChannelRow(DefaultsRow):
    name = Value(table_values.identifier, required=True)
    format = Value(Reader(table_values.text, single({"$ref": f"{DEFINITIONS}format"})), required=True)
    base_url = Value(table_values.base_url)
    api_key = Value(table_values.text)
    api_key_file = Value(table_values.text)
    headers = Value(table_values.mapping(table_values.header))
    ca_file = Value(table_values.text)
    models = Value(table_values.models, required=True)
    priority = Value(table_values.number(int, -1_000_000, 1_000_000))
    weight = Value(table_values.number(int, 1, 1000))
    max_concurrency = Value(table_values.number(int, 1, 1_000_000), allow_none=True)
    queue = Value(table_values.duration_up_to(LONGEST_QUEUE))
    max_output_tokens = Value(table_values.number(int, 1, 1_000_000_000))
    family = Value(table_values.identifier)
    compact = Value(table_values.one_of("native", "trigger", "gateway"))
    bridge = Value(table_values.flag)
    chat = Value(table_values.flag)
    count_tokens = Value(table_values.flag)
    encrypted_reasoning = Value(table_values.flag)
    reasoning_text = Value(table_values.flag)
    hosted_tools = Value(table_values.one_of("drop", "refuse"))
    mcp = Value(table_values.one_of("gateway", "native"))
    cache_key = Value(table_values.one_of("auto", "on", "off"))
    item_ids = Value(table_values.one_of("given", "omit", "made"))
    call_ids = Value(table_values.one_of("given", "short"))
    call_signatures = Value(table_values.one_of("given", "google", "openrouter"))
    system_messages = Value(table_values.one_of("merge", "keep", "user"))
    message_order = Value(table_values.one_of("free", "strict"))
    tool_images = Value(table_values.one_of("user", "tool"))
    tools = Value(table_values.one_of("native", "functions"))
    tool_schemas = Value(table_values.one_of("given", "plain", "inlined"))
    text_format = Value(table_values.one_of("schema", "schema_only", "object", "instruction"))
    tool_strictness = Value(table_values.one_of("mixed", "uniform"))
    streaming = Value(table_values.one_of("both", "always"))
    sampling = Value(table_values.one_of("both", "one"))
    thinking = Value(table_values.one_of("adaptive", "budget", "always", "between_tools"))
    params = Value(ParamsRow.reader())
    retry_unanswered = Value(table_values.flag)
    tags = Value(table_values.distinct(table_values.identifier))
    enabled = Value(table_values.flag)

    between = (
        {
            "if": {"required": ["format"], "properties": {"format": {"enum": sorted(WITHOUT_UPSTREAM)}}},
            "else": {"required": ["base_url"]},
        },
        {
            "if": {"required": ["queue"]},
            "then": {"required": ["max_concurrency"], "properties": {"max_concurrency": {"not": {"type": "null"}}}},
        },
        {"not": {"required": ["api_key", "api_key_file"]}},
    )

    def violations(self, data: Any, original: dict[str, Any]) -> dict[str, str]:
        wrong = {}
        if data.get("format", "demo") not in WITHOUT_UPSTREAM and "base_url" not in original:
            wrong["base_url"] = "missing key 'base_url': where the upstream is, such as https://host/v1"
        if "queue" in original and data.get("max_concurrency") is None:
            wrong["queue"] = "needs max_concurrency; a channel without a limit is never full"
        if "api_key" in original and "api_key_file" in original:
            wrong["api_key_file"] = "stands beside api_key; a channel has one key"
        return wrong


@reads(single({"enum": [1, "1"]}))
def version_of(value: Any) -> int:
    if table_values.scalar(value).text != "1":
        raise ValidationError("must be 1: this gateway reads no other version of the table")
    return 1


class TableRow(Row):
    """The whole file."""

    version = Value(version_of, required=True)
    defaults = Value(DefaultsRow.reader())
    compaction = Value(CompactionRow.reader())
    limits = Value(LimitsRow.reader())
    alerts = Value(AlertsRow.reader())
    channels = fields.List(
        fields.Nested(ChannelRow, error_messages={"null": "must be a mapping"}),
        required=True,
        error_messages={"invalid": "must be a list of channels", "null": "must be a list of channels"},
    )
    models = Value(table_values.mapping(table_values.under_any_name(FactsRow.reader())))
    tools = Value(tool_servers.ToolsRow.reader())

    between = ({"properties": {"channels": {"minItems": 1}}},)

    def violations(self, data: Any, original: dict[str, Any]) -> dict[str, str]:
        return {"channels": "must hold at least one channel"} if original.get("channels") == [] else {}


_ROWS = (
    *(
        TableRow,
        ChannelRow,
        DefaultsRow,
        TimeoutRow,
        CooldownRow,
        CompactionRow,
        LimitsRow,
        AlertsRow,
        FactsRow,
        PriceRow,
        TierRow,
        ParamsRow,
    ),
    *tool_servers.ROWS,
)

#: Every key of the table, for messages that quote a line of it.
KEYS = frozenset(key for row in _ROWS for key in keys_of(row()))


def json_schema(formats: Iterable[str]) -> JSONSchema:
    """The JSON Schema of the whole file, for editors. `formats`: the values of `format`."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "The channel table of Antiphon",
        **TableRow.described(),
        "definitions": {"reference": REFERENCE, "format": {"enum": sorted(formats)}},
    }


def encoded_schema(formats: Iterable[str]) -> bytes:
    """The same as the file that the package has."""
    return orjson.dumps(json_schema(formats), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
