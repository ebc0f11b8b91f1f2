"""Failures as the servers of open models and other people's APIs word them. What lies in the input is known by its
sentence: few have a code for it, and some answer it with a 500.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from app.errors import UpstreamError, UpstreamLoading, UpstreamRefused
from app.formats import _openai
from app.formats._refusals import refusal_of, refusal_of_body

TOO_LONG = "context_length_exceeded"
_TOO_LONG_TYPE = "exceed_context_size_error"
#: An upstream's sentence is passed on up to this length.
_MAX_SENTENCE = 2048

_FLAGGED = re.compile(r"(?:input|prompt|request|content) (?:was|has been) flagged", re.IGNORECASE)
#: Sentences that mean this very input: any of the words, the code that the client gets, and what it names.
_OF_THE_INPUT: tuple[tuple[str, str, str | None], ...] = (
    (
        r"maximum (?:context|prompt) length|maximum model length|(?:prompt|input) is too (?:long|large)|"
        r"prompt too long|exceed\w* (?:\w+ ){0,4}context|context (?:size|length|window)\w* (?:\w+ ){0,3}exceed|"
        r"(?:longer|greater|larger) than the (?:model's )?context (?:length|size|window)|"
        r"when context the overflows|exceeds the maximum number of tokens|"
        r"`?inputs`? tokens \+ `?max_new_tokens`? must be",
        TOO_LONG,
        "input",
    ),
    (
        r"(?:image|audio|video|vision|multi-?modal)\w* (?:inputs? |content |data )?(?:is|are) not supported|"
        r"(?:not|n't) support (?:\w+ ){0,2}(?:image|audio|video|vision|multi-?modal)|mmproj|"
        r"fail\w* to (?:load|decode|process|fetch) (?:the )?(?:image|audio|video|bitmap)|"
        r"missing data required for image input|is not a (?:multi-?modal|vision) model|"
        r"at most \d+ (?:image|audio|video)\S* may be provided|unsupported content\[\]\.type|"
        r"(?:invalid|cannot identify|unknown) image|image: unknown format",
        "invalid_value",
        "input",
    ),
    (
        r"(?:invalid|unsupported) (?:\w+ )?grammar|"
        r"(?:fail\w*|unable|error) (?:to |while )?(?:pars|compil)\w* (?:\w+ )?grammar|"
        r"grammar (?:error|is invalid|compilation)|json schema conversion failed|"
        r"(?:invalid|unsupported|fail\w* to (?:convert|compile)) (?:\w+ )?json[_ ]schema|failed to initialize samplers",
        "invalid_value",
        None,
    ),
    (r"roles must alternate|fail\w* to (?:apply|render) (?:\w+ )?(?:chat|prompt) template", "invalid_value", "input"),
    (_FLAGGED.pattern, "invalid_prompt", "input"),
)
_PATTERNS = tuple((re.compile(words, re.IGNORECASE), code, param) for words, code, param in _OF_THE_INPUT)
#: What these statuses mean is not in doubt, but for a 403 that flags the input.
_CERTAIN = frozenset({401, 404, 429})
#: llama.cpp, vLLM and SGLang, Ollama and LM Studio while they load.
_LOADING = re.compile(
    r"(?:loading|still loads) (?:the )?model|"
    r"model (?:\S+ )?is (?:being loaded|(?:still |currently )*(?:loading|starting))|"
    r"model (?:is )?not (?:yet )?(?:loaded|ready)|(?:engine|server) is (?:still )?(?:starting|warming|initiali[sz]ing)",
    re.IGNORECASE,
)


def http_error(status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
    """The failure behind an HTTP status."""
    failure = _failure(status, headers, body)
    failure.refusal = refusal_of_body(status, body)
    return failure


def _failure(status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
    error = _openai.error_object(body)
    refused = _of_the_input(error) if status < 600 and status not in _CERTAIN else None
    if refused is not None and (status != 403 or _FLAGGED.search(refused.message)):
        return _noted(refused, error, status)
    if status == 503 and _LOADING.search(_sentence(error) or ""):
        return _noted(UpstreamLoading(), error, status)
    return _noted(_openai.http_error(status, headers, body), error, status)


def stream_error(error: Mapping[str, Any]) -> UpstreamError:
    """The failure that an error event, or the error of a failed response, stands for. Many servers put the HTTP status
    that they could no longer send where a code should stand.
    """
    code = str(error.get("code"))
    if re.fullmatch("[45][0-9][0-9]", code):
        return http_error(int(code), {}, orjson.dumps({"error": error}))
    failure = _noted(_of_the_input(error) or _openai.stream_error(error), error, None)
    if isinstance(failure, UpstreamRefused):
        failure.refusal = refusal_of(failure.status, error)
    return failure


def _of_the_input(error: Mapping[str, Any]) -> UpstreamRefused | None:
    """The client's own fault, in the upstream's words."""
    sentence = _sentence(error) or ""
    if error.get("type") == _TOO_LONG_TYPE:
        return UpstreamRefused(sentence or "The input is too long.", code=TOO_LONG, param="input")
    for pattern, code, param in _PATTERNS:
        if pattern.search(sentence):
            own, place = error.get("code"), error.get("param")
            if code == TOO_LONG or not isinstance(own, str) or own.isdigit():
                own = code
            return UpstreamRefused(
                sentence[:_MAX_SENTENCE], code=own or code, param=place if isinstance(place, str) and place else param
            )
    return None


def _sentence(error: Mapping[str, Any]) -> str | None:
    message = error.get("message")
    return message if isinstance(message, str) and message else None


def _noted(failure: UpstreamError, error: Mapping[str, Any], status: int | None) -> UpstreamError:
    """The failure with the upstream's status and code for the log, and its message for the row."""
    code = error.get("code") or error.get("type")
    facts = [f"status={status}"] if status is not None else []
    # A code is a word: anything else may be a sentence, which the log does not show.
    if isinstance(code, str | int) and re.fullmatch(r"[\w.-]{1,64}", str(code), re.ASCII) and code != status:
        facts.append(f"upstream_code={code}")
    failure.cause = " ".join(facts)
    failure.upstream_message = (_sentence(error) or "")[:_MAX_SENTENCE] or None
    return failure
