"""Finds the members of a request that the words of a refusal name.

A word counts only if the request has such a member. So an unknown wording is understood as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.contract.channel import Channel
from app.formats._caching import BREAKPOINT, CONTROL, MARKS
from app.formats._paths import ANY, DEEP, joined, parts, places, resolved

#: Members of items that hold what the contract says.
_STATED = frozenset(
    {
        *("content", "output", "summary", "action", "actions", "operation", "tools", "results", "queries", "outputs"),
        *("arguments", "error", "pending_safety_checks", "acknowledged_safety_checks", "caller", "environment"),
    }
)
#: Those that are lists of parts, and the members of parts that do so.
_WITH_PARTS = ("content", "output", "summary")
_STATED_OF_PARTS = frozenset({"annotations", "image_url", "input_audio", "file", "source", "logprobs"})
#: Keywords of a schema without which the model still reads what a tool takes.
SCHEMA_HINTS = frozenset(
    {
        *("$schema", "$id", "$comment", "additionalProperties", "unevaluatedProperties", "default", "examples"),
        *("title", "format", "pattern", "minLength", "maxLength", "minimum", "maximum", "multipleOf", "minItems"),
        *("exclusiveMinimum", "exclusiveMaximum", "maxItems", "uniqueItems", "deprecated", "readOnly", "writeOnly"),
        *("propertyNames", "patternProperties", "minProperties", "maxProperties", "contentEncoding"),
    }
)

#: A sentence without any of these words does not say that something is not taken.
_NOT_TAKEN = re.compile(
    r"unsupported|not (?:be |currently |yet )*(?:support|allow|permit|accept|available|recogni|valid|implement)|"
    r"n[o'’]t (?:currently |yet )?(?:support|allow|accept|enable|recogni|have|take)|unrecogni|unknown|unexpected|extra|"
    r"additional propert|forbidden|prohibited|deprecated|invalid|\bonly\b|cannot|can't|must|should|incompatible|"
    r"no longer|exceed|at most|too (?:large|long|many|high|big)|exclusive|deserializ|(?:greater|less|larger) than|"
    r"out of range|remove|unavailable|no such|no field|cannot find|appears|required|range|maximum",
    re.IGNORECASE,
)
_WORD = r"[A-Za-z_$][\w$]*(?:(?:\.|/)(?:[A-Za-z_$][\w$]*|\d+)|\[\d*\])*"
_QUOTED = re.compile(rf"(?<!role )(?<!roles )['\"`‘“]({_WORD})['\"`’”]")
#: A name where a sentence speaks of a parameter.
_AS_PARAMETER = re.compile(
    r"(?:param(?:eter)?|argument|field|propert(?:y|ie)|key|option|member|attribute|input|name)(?:s|\(s\))?"
    rf"(?: supplied| provided| given| found| called| named)?\W{{1,6}}({_WORD}(?:\W{{0,2}},\W{{1,2}}{_WORD})*)",
    re.IGNORECASE,
)
#: A name, then what is wrong with it.
_BEFORE_VERDICT = re.compile(
    rf"(?<![\w$])({_WORD})['\"`’”]?"
    r"(?:: (?:extra inputs|input should|string should|value error|property|must|should|unexpected)| "
    r"(?:parameter |argument |field |option |value )?(?:is|are|was|has been|may|must|should|does|do|cannot|can) "
    r"(?:not |only |no |be |currently |an? )*(?:support|allow|permit|accept|deprecat|unsupport|valid|available|enabled|"
    r"forbidden|recogni|one of|between|set|appear|contain)| not (?:supported|permitted|allowed))",
    re.IGNORECASE,
)
#: A bare word that only names of members look like.
_TECHNICAL = re.compile(r"(?<![\w.'\"])([A-Za-z]+(?:_[A-Za-z0-9]+)+(?:(?:\.[A-Za-z_]\w*)|\[\d*\])*)|\b([a-z]+[A-Z]\w*)")
#: Names that are bare words and mean nothing else where a request is refused.
_PLAIN = re.compile(r"\b(?:temperature|verbosity|logit_bias|metadata|effort|think)\b")
#: What a sentence speaks of without meaning a member.
_SUBJECTS = frozenset({"model", "Model"})
#: What a name means where a format keeps that member elsewhere.
_ALSO = {
    "reasoning_effort": ("reasoning.effort", "output_config.effort"),
    "effort": ("reasoning_effort", "reasoning.effort", "output_config.effort"),
    "verbosity": ("text.verbosity",),
    "response_format": ("text.format",),
    "json_schema": ("response_format", "text.format"),
    "user_id": ("metadata.user_id",),
    "user": ("metadata.user_id",),
    "include_usage": ("stream_options",),
    "reasoning_summary": ("reasoning.summary",),
    "thinking": ("reasoning_effort", "reasoning.effort", "reasoning"),
    "reasoning": ("reasoning_effort",),
    "think": ("reasoning_effort", "reasoning.effort"),
    "strict": ("tools[].function.strict", "tools[].strict"),
    "detail": ("messages[].content[].image_url.detail", "input[].content[].detail"),
    "annotations": ("input[].content[].annotations",),
    "phase": ("input[].phase",),
}


#: The other way round.
_AFTER_VERDICT = re.compile(
    r"(?:not|n['’]t) (?:currently |yet )?(?:support|allow|accept|take|permit|recogni[sz]e)(?: the| an?| any| setting| "
    rf"parameter| use of| custom)*\W{{1,3}}({_WORD})",
    re.IGNORECASE,
)
#: What follows is a list of what the upstream takes.
_TAKEN = re.compile(
    r"expected one of|(?:supported|valid|allowed|known) (?:parameters|fields|arguments|keys)|did you mean"
)


#: A name before what is wrong with its value, and a name that a sentence ends with.
_OF_VALUE = re.compile(
    rf"(?:invalid|unsupported|unknown|illegal) ({_WORD}) (?:value|level|parameter|argument|field)\b", re.I
)
_AT_THE_END = re.compile(
    rf"(?:support|allow|permit|accept)\w*[^.:\n]{{0,40}}: ?['\"`]?({_WORD})['\"`]?\.?\s*$", re.I | re.M
)


@dataclass(frozen=True, slots=True)
class Refused:
    """A refusal, the request that it answers, and the row that the request was encoded for."""

    words: str
    named: Sequence[str]
    """The members that the answer names outside its sentences."""
    request: Mapping[str, Any]
    row: Channel

    def has(self, path: str) -> bool:
        return bool(places(self.request, path))

    def value(self, path: str) -> Any:
        """The first value at this path; None if there is none."""
        return next((holder[name] for holder, name in places(self.request, path)), None)

    def values(self, path: str) -> list[Any]:
        return [holder[name] for holder, name in places(self.request, path)]


def members_named(refused: Refused) -> Iterator[list[str]]:
    """The paths of the members that a refusal names, in groups, the most certain first."""
    yield _paths(refused.named, refused)
    if not _NOT_TAKEN.search(refused.words):
        return
    for pattern in (_AS_PARAMETER, _BEFORE_VERDICT, _AFTER_VERDICT, _OF_VALUE, _AT_THE_END):
        found = [name for match in pattern.finditer(refused.words) for name in re.findall(_WORD, match[1])]
        found = [name for name in found if name not in _SUBJECTS]
        if paths := _paths(found, refused):
            yield paths
            # Other names in the sentence are what the upstream takes, or quotations.
            return
    words = _TAKEN.split(refused.words)[0]
    technical = ("".join(match) for match in _TECHNICAL.findall(words))
    for name in (*_QUOTED.findall(words), *technical, *_PLAIN.findall(words)):
        yield _paths([name], refused)
    for name in (*refused.request, *_ALSO):
        # "Parallel tool calls are not supported"
        if "_" in name and re.search(rf"\b{name.replace('_', ' ')}s?\b", words, re.IGNORECASE):
            yield _paths([name], refused)


def _paths(names: Sequence[str], refused: Refused) -> list[str]:
    """The paths of these names in the request, each once."""
    return list(dict.fromkeys(path for name in names if (path := _path(name, refused)) is not None))


def _mark(path: str) -> str | None:
    """The marks for the cache at any place, or their lifetime: a server that refuses one refuses all. None for another
    path."""
    *_, holder, name = ("", *parts(path))
    if name in MARKS and holder:
        return f"{DEEP}.{name}"
    if holder == BREAKPOINT:
        return f"{DEEP}.{holder}"
    return f"{DEEP}.{holder}.{name}" if holder == CONTROL else None


def _private(path: str) -> str:
    """The path; for one below a private member of an item or of its content, that member: the server would refuse its
    others next."""
    names = parts(path)
    if names[:2] != ("input", ANY):
        return path
    if len(names) > 3 and names[2] not in _STATED:
        return joined(names[:3])
    is_of_part = len(names) > 5 and names[2] in _WITH_PARTS and names[3] == ANY and names[4] not in _STATED_OF_PARTS
    return joined(names[:5]) if is_of_part else path


def _path(name: str, refused: Refused) -> str | None:
    if (path := resolved(refused.request, name)) is not None:
        return _mark(path) or _private(path)
    plain = re.sub(r"(?<=[a-z])([A-Z])", lambda match: f"_{match[1].lower()}", name.rpartition(".")[2]).lower()
    if plain in MARKS and refused.has(f"{DEEP}.{plain}"):
        return f"{DEEP}.{plain}"
    if plain in refused.request:
        return plain
    for other in _ALSO.get(plain, ()):
        if (path := resolved(refused.request, other)) is not None:
            return path
    keyword = f"tools.**.{name.rpartition('.')[2]}"
    return keyword if parts(keyword)[-1] in SCHEMA_HINTS and refused.has(keyword) else None
