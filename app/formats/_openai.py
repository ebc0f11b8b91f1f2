"""What answers of OpenAI's formats have in common: errors by their statuses and codes, and usage."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from email.utils import parsedate_to_datetime
from time import time
from types import MappingProxyType
from typing import Any, NamedTuple

import orjson

from app.contract.usage import Usage
from app.errors import (
    UpstreamBroken,
    UpstreamDenied,
    UpstreamError,
    UpstreamFailed,
    UpstreamLacksEndpoint,
    UpstreamLacksModel,
    UpstreamLimited,
    UpstreamRefused,
)
from app.formats._error_body import Reason
from app.formats._error_body import limited as limited_text

MAX_RETRY_AFTER = 60.0
#: More tokens than that are no count.
MAX_COUNT = 10**12

_QUOTA_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached", "usage_limit_reached"})
_LIMIT_CODES = frozenset({"rate_limit_exceeded", "too_many_requests"})

#: Codes of errors in the request, not in the server: failover would not help.
_REFUSAL_CODES = frozenset(
    {
        "bio_policy",
        "content_filter",
        "context_length_exceeded",
        "cyber_policy",
        "invalid_encrypted_content",
        "invalid_prompt",
        "misalignment_policy_violation",
    }
)

#: Statuses of a server or proxy that cannot answer any request.
_OF_THE_SERVER = frozenset({408, 502, 503, 504, 529})

_DENIED = "The model's server does not accept this gateway's credentials."
_FAILED = "The model's server failed while processing the request"


def decode_count(body: bytes) -> int:
    """The upstream's count of input tokens. Raises UpstreamBroken."""
    try:
        counted = orjson.loads(body)
    except ValueError:
        counted = None
    tokens = counted.get("input_tokens") if isinstance(counted, dict) else None
    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 0:
        raise UpstreamBroken("The model's server did not count the tokens.")
    return tokens


def bearer(api_key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def http_error(status: int, headers: Mapping[str, str], reason: Reason) -> UpstreamError:
    """The failure for an HTTP status. The upstream's words reach the client, but not those about the channel's key."""
    words = reason.words
    if status in (402, 429) or (status == 413 and reason.code in _LIMIT_CODES) or reason.code in _QUOTA_CODES:
        code = reason.code or ("insufficient_quota" if status == 402 else None)
        return limited(code, words, retry_after(headers), exhausted=status == 402 or code in _QUOTA_CODES)
    if status == 401:
        return UpstreamDenied(_DENIED)
    if status == 403:
        return UpstreamDenied(with_words(_DENIED, words))
    if status == 404:
        return _not_found(reason)
    if status in (400, 413, 415, 422):
        return UpstreamRefused(
            words or f"The model's server refused the request (HTTP {status}).",
            code=reason.code,
            param=reason.param,
            status=413 if status == 413 else 400,
        )
    if 300 <= status < 400:
        return UpstreamBroken("The model's server answered with a redirect, which is not followed.")
    overloaded = status in (503, 529)
    failed = UpstreamFailed(
        with_words(f"{_FAILED} (HTTP {status}).", words),
        code="server_is_overloaded" if overloaded else None,
        status=503 if overloaded else 502,
        type="service_unavailable_error" if overloaded else None,
        retry_after=retry_after(headers),
    )
    failed.perhaps_input = status not in _OF_THE_SERVER
    return failed


def stream_error(reason: Reason) -> UpstreamError:
    """The failure for an error event, or for the error of a failed response, without an HTTP status."""
    code = reason.code
    if code in _QUOTA_CODES or code in _LIMIT_CODES:
        return limited(code, reason.words, None, exhausted=code in _QUOTA_CODES)
    if code in _REFUSAL_CODES:
        return UpstreamRefused(reason.words or "The model's server refused the request.", code=code, param=reason.param)
    return UpstreamFailed(reason.words or f"{_FAILED}.", code=code or "server_error")


def with_words(sentence: str, words: str) -> str:
    """A sentence of the gateway, followed by the upstream's own words."""
    return limited_text(f"{sentence.rstrip('.')}: {words}") if words else sentence


def limited(code: str | None, words: str, wait: float | None, *, exhausted: bool) -> UpstreamLimited:
    """`exhausted`: waiting does not help."""
    otherwise = "has no quota left for this gateway" if exhausted else "is receiving too many requests"
    error = UpstreamLimited(
        words or f"The model's server {otherwise}.",
        code=code or "rate_limit_exceeded",
        type="insufficient_quota" if exhausted else "requests",
        retry_after=wait,
    )
    if exhausted:
        error.exhausted, error.should_retry, error.retry_after = True, False, None
    return error


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The upstream's Retry-After in seconds, 0 to 60; None if absent or unreadable."""
    try:
        if text := headers.get("retry-after-ms"):
            seconds = float(text) / 1000
        elif text := headers.get("retry-after"):
            seconds = float(text) if text.replace(".", "", 1).isdecimal() else _until(text)
        else:
            return None
    except (ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)


_NO_ITEM = re.compile(r"\bitem with id\b", re.IGNORECASE)

_INPUT, _OUTPUT, _TOTAL, _READ, _WRITTEN, _REASONING = "input", "output", "total", "read", "written", "reasoning"
_NAMES: Mapping[str, Collection[str]] = {
    _INPUT: ("input_tokens", "prompt_tokens", "promptTokenCount", "inputTokens", "inputTokenCount"),
    _OUTPUT: ("output_tokens", "completion_tokens", "candidatesTokenCount", "outputTokens", "outputTokenCount"),
    _TOTAL: ("total_tokens", "totalTokenCount", "totalTokens"),
    _READ: (
        *("cached_tokens", "cached_input_tokens", "num_cached_tokens", "cachedInputTokens", "cached_prompt_tokens"),
        # Anthropic, Qwen and Bedrock
        *("cache_read_input_tokens", "cache_read_tokens", "cacheReadInputTokens", "cacheReadInputTokenCount"),
        # DeepSeek
        "prompt_cache_hit_tokens",
        # Gemini
        *("cachedContentTokenCount", "cached_content_token_count", "total_cached_tokens"),
        # Grok
        "cached_prompt_text_tokens",
    ),
    _WRITTEN: (
        *("cache_write_tokens", "cache_write_input_tokens", "cacheWriteInputTokens", "cacheWriteInputTokenCount"),
        *("cache_creation_input_tokens", "cache_creation_tokens"),
    ),
    _REASONING: ("reasoning_tokens", "thinking_tokens", "thoughtsTokenCount"),
}
#: What each member of a usage object counts, over all servers.
_COUNTED = {name: counted for counted, names in _NAMES.items() for name in names}
_NO_COUNTS: Mapping[str, int] = MappingProxyType({})
#: Objects inside of the usage that may hold those members.
_DETAILS_IN = ("input_tokens_details", "prompt_tokens_details", "input_token_details", "prompt_token_details")
_DETAILS_OUT = ("output_tokens_details", "completion_tokens_details")
#: Anthropic's and Qwen's object of written tokens, by how long they stay.
_BY_LIFETIME = "cache_creation"


class Cached(NamedTuple):
    """What a usage object says about the cache."""

    read: int
    """Tokens that were read from it."""
    written: int
    """Tokens that were written to it."""
    reported: bool
    """It has a member for the tokens that were read."""


def usage(value: object) -> Usage | None:
    """Usage of an answer; None unless both totals are numbers."""
    if not isinstance(value, dict):
        return None
    counts = _counts([value])
    total_in, total_out, total = counts.get(_INPUT), counts.get(_OUTPUT), counts.get(_TOTAL)
    if total_in is None or total_out is None:
        return None
    read, written, reported = _cached(value, counts)
    reasoning = _counts(_objects(value, _DETAILS_OUT), counts).get(_REASONING, 0)
    if reasoning and (
        "candidatesTokenCount" in value or reasoning > total_out or total == total_in + total_out + reasoning
    ):
        # Gemini and Grok count their thoughts beside the answer.
        total_out += reasoning
    if read + written > 0 and _are_beside(read + written, total_in, total_out, total):
        total_in += read + written
    return Usage(total_in, read, written, total_out, reasoning, reports_cache=reported)


def cached(value: Mapping[str, Any]) -> Cached:
    return _cached(value, _counts([value]))


def _cached(value: Mapping[str, Any], counts: Mapping[str, int]) -> Cached:
    details = _objects(value, _DETAILS_IN)
    counts = _counts(details, counts)
    written = counts.get(_WRITTEN) or max(map(_by_lifetime, (value, *details)))
    return Cached(counts.get(_READ, 0), written, _READ in counts)


def later(known: Usage | None, newer: Usage | None) -> Usage | None:
    """The newer of two counts of one answer. Some servers name the cached tokens in only one of them."""
    if known is None or newer is None:
        return newer or known
    return replace(
        newer,
        cached_tokens=newer.cached_tokens or min(known.cached_tokens, newer.input_tokens),
        cache_write_tokens=newer.cache_write_tokens or min(known.cache_write_tokens, newer.input_tokens),
        reasoning_tokens=newer.reasoning_tokens or min(known.reasoning_tokens, newer.output_tokens),
        reports_cache=newer.reports_cache or known.reports_cache,
    )


def largest(holder: Mapping[str, Any], names: Collection[str]) -> int | None:
    """The largest count under these names; None if there is none."""
    counts = [count for name, value in holder.items() if name in names and (count := count_of(value)) is not None]
    return max(counts) if counts else None


def _counts(holders: Iterable[Mapping[str, Any]], known: Mapping[str, int] = _NO_COUNTS) -> dict[str, int]:
    """What the members of these objects count, together with what is known. Of several that count the same the largest
    holds: gateways send zeros under the names of other APIs."""
    counts = dict(known)
    # A usage object has few members, and there are many names.
    for holder in holders:
        for name, value in holder.items():
            counted = _COUNTED.get(name)
            if counted is not None and (count := count_of(value)) is not None:
                counts[counted] = max(count, counts.get(counted, 0))
    return counts


def _are_beside(cached: int, total_in: int, total_out: int, total: int | None) -> bool:
    """Whether the count of the input leaves out the cached tokens, as Anthropic's does."""
    return cached > total_in or (cached > 0 and total == total_in + cached + total_out)


def _objects(value: Mapping[str, Any], names: Iterable[str]) -> list[Mapping[str, Any]]:
    """The members with these names that are objects."""
    return [member for name in names if isinstance(member := value.get(name), dict)]


def _by_lifetime(holder: Mapping[str, Any]) -> int:
    counts = holder.get(_BY_LIFETIME)
    return sum(count_of(value) or 0 for value in counts.values()) if isinstance(counts, dict) else 0


def _not_found(reason: Reason) -> UpstreamError:
    if reason.param == "input" or _NO_ITEM.search(reason.words):
        # OpenAI does not find an item of the input that it did not store.
        return UpstreamRefused(reason.words, code=reason.code, param=reason.param or "input")
    if reason.code == "model_not_found" or "model" in reason.words.lower():
        return UpstreamLacksModel(
            with_words("The model's server does not know this model.", reason.words), param="model"
        )
    sentence = "The model's server does not have this endpoint: its base_url may be wrong."
    return UpstreamLacksEndpoint(with_words(sentence, reason.words))


def _until(date: str) -> float:
    return parsedate_to_datetime(date).timestamp() - time()


def count_of(value: object) -> int | None:
    """The number of tokens that a value is; None if it is none. Some servers write it as a float or in quotes."""
    if type(value) is int:
        return value if 0 <= value <= MAX_COUNT else None
    if isinstance(value, str) and value.isdecimal() and len(value) < 16:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_COUNT:
        return None
    return int(value) if value == int(value) else None
