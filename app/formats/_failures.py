"""Failures as the servers of open models and other people's APIs word them: one table of sentences, one of names.

What lies in the input is known by its sentence or its code: few statuses mean it, and some servers answer it with a
500, with status 200, or inside of a stream.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from app.errors import BodyTooLarge, ContextTooLong, UpstreamBroken, UpstreamError, UpstreamLoading, UpstreamRefused
from app.formats import _error_body, _openai
from app.formats._error_body import Reason
from app.formats._refusals import refusal_of, refusal_of_body

_FLAGGED = re.compile(r"(?:input|prompt|request|content) (?:was|has been) flagged", re.IGNORECASE)


# --- the context is too long ------------------------------------------------------------------------------------

#: Codes and types, in small letters without separators.
_TOO_LONG_NAMES = frozenset(
    {
        "contextexceeded",
        "contextlengtherror",
        "contextlengthexceeded",
        "contextlengthexceedederror",
        "contextlimitexceeded",
        "contextoverflow",
        "contextoverflowerror",
        "contextsizeexceeded",
        "contexttoolong",
        "contextwindowexceeded",
        "contextwindowexceedederror",
        "exceedcontextsizeerror",
        "inputtokenlimitexceeded",
        "inputtokensexceeded",
        "inputtoolong",
        "maxprompttokensexceeded",
        "maxcontextlengthexceeded",
        "maximumcontextlengthexceeded",
        "modelcontextwindowexceeded",
        "modelmaxprompttokensexceeded",
        "outofcontexterror",
        "prompttoolong",
        "tokenlimitexceeded",
        "tokenslimitreached",
    }
)

_CONTEXT = r"context(?: (?:length|window|size|limit|budget|capacity|token limit))?"
_LIMIT = r"(?:limit|max(?:imum)?\b|allowed|configured|supported|capacity|model len)"
_ASKED = r"(?:prompt|inputs?|messages?|conversation|history|transcript|query|chat)"
_EXCEEDS = (
    r"(?:exceed\w*|overflow\w*|overr[au]n\w*|surpass\w*|outgr[eo]w\w*|goes (?:over|beyond)|go over|is (?:over|above)|"
    r"(?:longer|larger|greater|bigger|more|higher) than|(?:does|do|did|can|will)(?: not|n't|not) fit)"
)
_COUNTED = rf"(?:{_ASKED}|request|total|requested|text) (?:tokens?|token counts?|length|size)"

#: Sentences about the context or the window, whatever else they mention.
_OF_THE_CONTEXT = re.compile(
    "|".join(
        (
            # exceeds the context window of this model; exceed context limit: 190000 + 32000 > 200000
            rf"{_EXCEEDS}(?: [\w.,'()]+){{0,6}}? {_CONTEXT}\b",
            # Context size has been exceeded; the model has reached its context window limit
            r"context (?:length|window|size|limit|budget) (?:\w+ ){0,3}?(?:exceed\w*|overflow\w*|reached|full)",
            r"(?:reached|hit|out of|filled|at) (?:\w+ ){0,4}?context (?:length|window|size|limit)",
            r"context (?:overflow|is full|is too (?:long|large|big)|too (?:long|large|big))|exceeded context",
            # This model's maximum context length is 8192; maximum prompt length is 131072; max seq len is 32768
            r"max(?:imum)? (?:\w+ )?(?:context|prompt|model|sequence|seq) (?:length|len|size|window|tokens)\b(?! = )",
            r"max(?:imum)? (?:allowed )?input (?:length|size|tokens|token|characters|chars)\b",
            r"max(?:imum)? (?:number of )?(?:context|prompt|input|message) tokens",
            # context length of only 4096; but the configured context size is; the model context window is 4096 tokens
            r"(?:tokens|length \d+|long|fit|but|has a|have a|model|only|while)(?: [\w.,'()]+){0,7}? "
            r"context (?:length|window|size|limit)(?: \w+){0,2} (?:is|of|was|:)",
            r"fit (?:in(?:to|side)?|within) (?:\w+ ){0,3}?(?:context|model \(context)",
            # n_keep >= n_ctx of LM Studio; n_ctx of llama.cpp
            r"n keep\b.{0,40}\bn ctx|(?:exceed\w*|>=?) (?:\w+ )?n ctx|when context the overflows",
            # inputs tokens + max_new_tokens must be <= 8193 of TGI
            r"inputs? (?:tokens )?\+ max new tokens must be|inputs? must have less than \d+ tokens",
            # Range of input length should be [1, 983616] of Qwen
            r"range of input length",
            # SiliconFlow, TensorRT-LLM, vLLM, SGLang
            r"(?:prompt|input|total)\w*(?: \w+){0,3} ?(?:\([^)]*\) ?)?(?:(?:must|should) (?:be|not)|is|cannot)"
            r"(?: \w+){0,6} max (?:seq|model|num|total|input|position)\w*",
            r"max (?:seq|model) len\b.{0,40}(?:no smaller|prompt|too long)",
            r"(?:longer|greater) than (?:the )?max (?:seq|model) len",
            r"more tokens than the [\w -]{0,30}kv cache|kv cache (?:is )?(?:full|too small)",
            # What vLLM computes when nothing is left for the answer
            r"max (?:completion |new )?tokens must be (?:at least|greater than) \d+, got -\d+",
            # Gemini on Vertex
            r"token count is \d+ but (?:the )?model only supports",
            # The name of an exception of LiteLLM, in its sentence
            r"context ?(?:length|window|size|limit)? ?(?:exceeded|overflow)",
            # Z.ai
            r"tokens in (?:the )?request more than|prompt length.{0,80}not exceed",
            # Kimi
            r"exceed\w* (?:the )?(?:model's? )?(?:model )?token limit",
            # Together, Groq, Cerebras
            rf"reduce the (?:length|size|number of tokens) (?:of|in) (?:the |your )?(?:input |chat )?{_ASKED}",
            rf"(?:shorten|reduce|truncate) (?:the|your) (?:input )?(?:{_ASKED})\b(?! size)",
            r"too (?:long|large|big) for (?:(?:the|this|that|requested|selected) ){0,2}(?:model|context)",
            r"max position embeddings|> max (?:model |context )|tokens,? but (?:the )?context",
            r"supports? (?:only )?a context (?:length |window |size )?of \d+|sequence (?:is )?too long",
            r"(?:prompt|input|context) (?:length|size|tokens) \(?\d+\)? ?>=? ?\(?(?:max|limit|\d)",
            # GLM, Qwen, Volcengine and others in Chinese
            r"(?:prompt|输入|上下文|提示词?|消息|对话|内容|token)[^,。;]{0,12}(?:超长|过长|太长|超限)",
            r"(?:prompt|输入|上下文|提示词?|消息|对话|内容|token)[^,。;]{0,16}超(?:过|出)[^,。;]{0,12}(?:长度|上限|限制|最大|窗口|上下文|token)",
            r"超(?:过|出)[^,。;]{0,8}(?:最大长度|上下文|长度限制|最大token|模型(?:的)?(?:上限|最大))|上下文长度|长度超(?:过|出|限)",
        )
    )
)
_BETWEEN = r"(?:\([^)]*\)|of|\d+|tokens?|and|is|are|was|were|has|have|become|been|got|in|the|your|this|request)"

#: Sentences about the length of the input; see `_OTHER_LIMITS`.
_OF_THE_LENGTH = re.compile(
    "|".join(
        (
            # prompt is too long: 213462 tokens > 200000 maximum; Input prompt (35247 tokens) is too long
            rf"\b{_ASKED}(?: (?:tokens?|token count|length|size|text|prompt))?(?: {_BETWEEN}){{0,8}}? "
            r"(?:too|very|overly) (?:long|large|big|many)",
            r"too many (?:input |prompt |total |context )?tokens\b|too many total text bytes",
            # Input token length too long; Request body too large for gpt-4o model. Max size: 8000 tokens
            rf"\b{_ASKED} tokens? (?:length|count|size) (?:is )?too (?:long|large|big|high)",
            r"too (?:large|long|big)\b.{0,60}\bmax(?:imum)? size:? \d+ tokens",
            # The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)
            rf"(?:{_COUNTED}|\b{_ASKED}|tokens of [\w ]{{1,30}}|\btokens in (?:the )?(?:request|prompt|input))"
            rf"(?: (?:\([^)]*\)|[\w.'()]+)){{0,8}}? {_EXCEEDS}(?: [\w.'()]+){{0,6}}? {_LIMIT}",
            rf"\b(?:input|prompt|request|total|message) ?\(?\d+ (?:input |prompt )?tokens\)?(?: \w+){{0,4}} {_EXCEEDS}",
            # Total number of tokens (40000) exceeds the model's limit (32768); exceeds maximum token count of 8192
            r"\b(?:total|number of|requested|sequence)[\w .,'()]{0,40}?(?:tokens|length)[\w .,()]{0,20} " + _EXCEEDS,
            rf"{_EXCEEDS}(?: [\w']+){{0,3}} {_LIMIT}(?: \w+){{0,2}} tokens?\b",
            r"request (?:has|is|contains)\b[^.]{0,30}\b\d+ tokens[^.]{0,30}\b(?:more than|at most|maximum)",
            r"(?:at most|up to|allowed tokens is|maximum of) \d+ (?:input |prompt )?tokens (?:of|for|in) (?:the )?"
            r"(?:input|prompt)",
            r"max(?:imum)? (?:allowed )?tokens is \d+,? but (?:the |your )?(?:prompt|input|request)",
            # prompt token count of 130431 exceeds the limit of 128000
            rf"token count of \d+ {_EXCEEDS}",
            r"\b(?:input|prompt|context) tokens?(?: \w+){0,2} exceed\w*|number of (?:input|prompt) tokens exceed\w*",
            r"\b(?:input |prompt |context )?token limit (?:has been |was |is )?(?:exceeded|reached)",
            r"current length is \d+ while (?:the )?limit is",
        )
    )
)
#: Limits of another kind: rates, and the sizes of bodies, files, names and answers.
_RATES = re.compile(
    r"per (?:min(?:ute)?|day|hour|second|month|week)\b|\b[tr]p[mdhs]\b|rate[ -]?limit|quota|throttl|too many requests|"
    r"try again (?:in|after|later)|please wait|per minute|usage limit|请求频率|限流|速率|额度|余额|并发"
)
_OF_THE_ANSWER = re.compile(
    r"max (?:completion |output |new )?tokens\b(?!.*got -)[^.;]{0,40}? "
    r"(?:cannot|must|should|exceeds?|too (?:large|big|high)|greater)"
)
_OTHER_LIMITS = re.compile(
    r"\b(?:[kmg]i?b|bytes?|megabytes?|kilobytes?|pixels?|pages?|dimensions?)\b|"
    r"\b(?:images?|files?|pictures?|photos?|audio|videos?|pdfs?|attachments?|documents?|url|string|name|names|id|key|"
    r"metadata|tools?|functions?|schema|enum|description|header|temperature|top p|user)\b|"
    r"\bmax (?:completion |output |new )?tokens\b|\b(?:completion|output) tokens\b|maximum tokens you requested|"
    r"图片|文件|音频|视频"
)

#: Sentences about the size of the request in bytes, and words of those about one part of it.
_OF_THE_BODY = re.compile(
    r"(?:request|payload|content|entity)(?: (?:body|entity|payload|size))* (?:is )?too (?:large|big)|"
    r"request(?: (?:body|payload|size))* exceeds? the (?:size )?(?:limit|max)",
    re.IGNORECASE,
)
_OF_A_PART = re.compile(
    r"\b(?:images?|files?(?! api)|pictures?|photos?|audio|videos?|pdfs?|attachments?|documents?|url|string|names?|"
    r"metadata|tools?|schema|header|headers)\b|图片|文件|音频|视频"
)

#: How a sentence names the model's window, in order: the first that matches decides.
_WINDOWS = tuple(
    re.compile(pattern)
    for pattern in (
        r"> (\d{3,})(?: max|\b)",
        r"n ctx:? ?=? ?\(?(\d{3,})",
        r"range of input length \w+ \w+ \[\d+, ?(\d{3,})\]",
        r"(?:max(?:imum)?|configured|available|model(?:'s)?) (?:\w+ ){0,3}?(?:context|prompt|model|input|seq|sequence) "
        r"(?:token )?(?:length|len|size|window|limit|tokens)(?:(?: is| of|:| =|=| only| to| the| be)* ?\(?)(\d{3,})",
        r"context (?:length|window|size|limit)(?:(?: is| of|:| only|=)* ?\(?)(\d{3,})",
        r"(?:(?:number of|max(?:imum)?) tokens allowed|allowed length|maximum length)(?: is| of|:)? ?\(?(\d{3,})",
        r"with (\d{3,}) maximum context",
        r"supports? (?:only )?a context (?:length |window |size )?of (\d{3,})",
        r"(?:the maximum of|, max|> max length) (\d{3,})",
        r"(?:configured |model |token )limit(?: is| of|:)? ?(\d{3,})",
        r"only supports up to (\d{3,})",
        r"must be <= (\d{3,})|less than (\d{3,}) tokens",
        r"limit (?:of|is|:) ?(\d{3,})",
        r"max (?:seq|model) len ?(?:of|is|=|:|\()? ?(\d{3,})",
    )
)


def is_too_long(reason: Reason) -> bool:
    """Whether the upstream means that the context exceeds the model's window."""
    if reason.names & _TOO_LONG_NAMES:
        return True
    sentence = _plain(reason.words)
    if not sentence or _RATES.search(sentence) or "ratelimitexceeded" in reason.names:
        return False
    if _OF_THE_ANSWER.search(sentence) and not re.search(rf"\b{_ASKED}\b", sentence):
        return False
    if _OF_THE_CONTEXT.search(sentence):
        return True
    return _OF_THE_LENGTH.search(sentence) is not None and not _OTHER_LIMITS.search(sentence)


def window_of(reason: Reason) -> int | None:
    """The model's window in tokens, if the upstream names it."""
    if reason.window is not None:
        return reason.window
    sentence = _plain(reason.words)
    for pattern in _WINDOWS:
        if named := pattern.search(sentence):
            return int(next(filter(None, named.groups())))
    return None


def _plain(words: str) -> str:
    """A sentence in small letters, without quotes and the separators of names and numbers."""
    words = words.lower().replace("’", "'").replace("_", " ")
    # Volcengine ends every sentence with the id of the request.
    words = re.sub(r"\(?request id:? ?[\w-]+\)?", "", words)
    words = re.sub(r"[`\"“”*]|(?<!\w)'|'(?!\w)", "", words)
    words = re.sub(r"(?<=\d)[,](?=\d{3}\b)", "", words)
    return re.sub(r"(?<=\w)-(?=[a-z])", " ", words)


# --- other sentences --------------------------------------------------------------------------------------------


class _Sentence(NamedTuple):
    """A sentence that means this very input: the code that the client gets, and what it names."""

    pattern: re.Pattern[str]
    code: str
    param: str | None


_OF_THE_INPUT = tuple(
    _Sentence(re.compile(words, re.IGNORECASE), code, param)
    for words, code, param in (
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
            r"(?:invalid|unsupported|fail\w* to (?:convert|compile)) (?:\w+ )?json[_ ]schema|"
            r"failed to initialize samplers",
            "invalid_value",
            None,
        ),
        (
            r"roles must alternate|fail\w* to (?:apply|render) (?:\w+ )?(?:chat|prompt) template",
            "invalid_value",
            "input",
        ),
        (_FLAGGED.pattern, "invalid_prompt", "input"),
    )
)
#: llama.cpp, vLLM and SGLang, Ollama and LM Studio while they load.
_LOADING = re.compile(
    r"(?:loading|still loads) (?:the )?model|"
    r"model (?:\S+ )?is (?:being loaded|(?:still |currently )*(?:loading|starting))|"
    r"model (?:is )?not (?:yet )?(?:loaded|ready)|(?:engine|server) is (?:still )?(?:starting|warming|initiali[sz]ing)",
    re.IGNORECASE,
)

#: What these statuses mean is not in doubt, but for a 403 that flags the input and a context that is too long.
_CERTAIN = frozenset({401, 404, 429})
_UNAUTHENTICATED = 401

#: How the rest of an event stream may begin.
_FIELDS = (b"event:", b"data:", b"id:", b"retry:", b":", b"error:", b"\xef\xbb\xbf")
_NO_STREAM = "The model's server answered with something that is not an event stream."

#: Codes and types that stand where an HTTP status cannot: in an event, or in a body with status 200.
_STATUSES: Mapping[str, int] = {
    "badrequest": 400,
    "badrequesterror": 400,
    "failedprecondition": 400,
    "invalidargument": 400,
    "invalidrequest": 400,
    "invalidrequesterror": 400,
    "validationerror": 400,
    "validationexception": 400,
    "authenticationerror": 401,
    "unauthenticated": 401,
    "unauthorized": 401,
    "billingerror": 402,
    "insufficientbalance": 402,
    "accessdeniedexception": 403,
    "permissiondenied": 403,
    "permissiondeniederror": 403,
    "permissionerror": 403,
    "notfound": 404,
    "notfounderror": 404,
    "resourcenotfoundexception": 404,
    "requesttoolarge": 413,
    "unprocessableentityerror": 422,
    "billinghardlimitreached": 429,
    "insufficientquota": 429,
    "ratelimitexceeded": 429,
    "usagelimitreached": 429,
    "ratelimiterror": 429,
    "ratelimitreachederror": 429,
    "resourceexhausted": 429,
    "throttlingexception": 429,
    "toomanyrequests": 429,
    "apierror": 500,
    "internal": 500,
    "internalservererror": 500,
    "internalserverexception": 500,
    "serviceunavailable": 503,
    "serviceunavailableerror": 503,
    "serviceunavailableexception": 503,
    "unavailable": 503,
    "deadlineexceeded": 504,
    "timeouterror": 504,
    "engineoverloadederror": 529,
    "overloadederror": 529,
}
#: The numbers of MiniMax's `base_resp`.
_NUMBERS: Mapping[int, int] = {
    1001: 504,
    1002: 429,
    1004: 401,
    1008: 402,
    1026: 400,
    1027: 400,
    1039: 429,
    2013: 400,
    2049: 401,
    2056: 429,
}


# --- decisions --------------------------------------------------------------------------------------------------


def http_error(status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
    """The failure behind an HTTP status."""
    reason = _error_body.read(body)
    failure = _noted(_of_status(status, headers, reason, empty=not body.strip()), reason, status)
    # Some servers refuse a request with a 500; the sentence alone says so.
    failure.refusal = refusal_of_body(failure.status if isinstance(failure, UpstreamRefused) else status, body)
    return failure


def stream_error(error: object, otherwise: int | None = None) -> UpstreamError:
    """The failure that an error event stands for, or the error of a failed response, or a body with status 200. Many
    servers put the HTTP status that they could no longer send where a code should stand. `otherwise`: the status for an
    error that names none.
    """
    reason = _error_body.of(error)
    status = _status_of(reason) or otherwise
    if status is not None:
        failure = _of_status(status, {}, reason)
    else:
        failure = _of_the_input(reason) or _openai.stream_error(reason)
    if isinstance(failure, UpstreamRefused):
        failure.refusal = refusal_of(failure.status, error)
    return _noted(failure, reason, status)


def error_in_answer(answer: object, otherwise: int | None = None) -> UpstreamError | None:
    """The failure in a body or event with status 200 that is not an answer; None if it says nothing."""
    says = isinstance(answer, Mapping | list) and bool(_error_body.of(answer).words)
    return stream_error(answer, otherwise) if says else None


def error_in_body(body: bytes) -> UpstreamError | None:
    """The failure in a body that should have been an event stream; None for a part of one."""
    if not body.strip() or body.lstrip().startswith(_FIELDS):
        return None
    return error_in_answer(_error_body.value_of(body)) or unreadable(_NO_STREAM, body)


def unreadable(sentence: str, body: bytes) -> UpstreamBroken:
    """The failure for a body with status 200 that is neither an answer nor an error, with the words in it."""
    words = _error_body.read(body).words
    return UpstreamBroken(_openai.with_words(sentence, words))


def _status_of(reason: Reason) -> int | None:
    """The HTTP status that a reason without one stands for."""
    if reason.status is not None:
        return reason.status
    own = (_error_body.plain_name(name) for name in (reason.code, reason.type) if name)
    named = next((_STATUSES[name] for name in (*own, *sorted(reason.names)) if name in _STATUSES), None)
    return named or _NUMBERS.get(reason.number or 0)


def _of_status(status: int, headers: Mapping[str, str], reason: Reason, *, empty: bool = False) -> UpstreamError:
    if status == 413 and empty:
        # Cerebras says no more than that.
        return _too_long(reason)
    refused = _of_the_input(reason) if status != _UNAUTHENTICATED else None
    if isinstance(refused, ContextTooLong):
        return refused
    if refused is not None and status not in _CERTAIN and (status != 403 or _FLAGGED.search(refused.message)):
        return refused
    if status == 503 and _LOADING.search(reason.words):
        return UpstreamLoading()
    failure = _openai.http_error(status, headers, reason)
    if status == 413 and isinstance(failure, UpstreamRefused) and not _is_of_a_part(reason.words):
        return BodyTooLarge(failure.message)
    return failure


def _of_the_input(reason: Reason) -> UpstreamRefused | None:
    """The client's own fault, in the upstream's words."""
    if is_too_long(reason):
        return _too_long(reason)
    if _OF_THE_BODY.search(reason.words) and not _is_of_a_part(reason.words):
        return BodyTooLarge(reason.words)
    for pattern, code, param in _OF_THE_INPUT:
        if pattern.search(reason.words):
            return UpstreamRefused(reason.words, code=reason.code or code, param=reason.param or param)
    return None


def _is_of_a_part(words: str) -> bool:
    """Whether a sentence about a size is about a part of the request, or about a rate."""
    sentence = _plain(words)
    return bool(_OF_A_PART.search(sentence) or _RATES.search(sentence))


def _too_long(reason: Reason) -> ContextTooLong:
    return ContextTooLong(reason.words or "The input is too long for the model's context window.", window_of(reason))


def _noted(failure: UpstreamError, reason: Reason, status: int | None) -> UpstreamError:
    """The failure with the upstream's status and code for the log, and its message for the row."""
    facts = [f"status={status}"] if status is not None else []
    # A code is a word: anything else may be a sentence, which the log does not show.
    if (label := reason.label) and label != status and re.fullmatch(r"[\w.-]{1,64}", str(label), re.ASCII):
        facts.append(f"upstream_code={label}")
    failure.cause = " ".join(facts)
    failure.upstream_message = reason.words or None
    return failure
