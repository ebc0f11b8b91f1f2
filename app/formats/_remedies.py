"""The table of remedies: which words of a refusal call for which change of the request, for every format.

Two lists decide. `_BY_SENTENCE` has sentences that mean a change of the row. `_MEMBERS` says what becomes of a member
that a refusal names. A member may be left out only if it wishes for something that the answer does not depend on;
another member needs an equivalent, or the row's own `params`. Every function here is pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from app.contract.channel import Channel
from app.contract.items import CALL_TYPES, OUTPUT_TYPES
from app.contract.remedies import ALLOW, AT_MOST, DROP, HASH, OMIT, RENAME, ROW, Remedy
from app.errors import UpstreamError
from app.formats._adaptation import SCALES, means_none
from app.formats._caching import MARKS
from app.formats._named_members import SCHEMA_HINTS, Refused, members_named
from app.formats._paths import DEEP, parts
from app.formats._schema_references import has_references
from app.formats._tool_schemas import has_unions

#: Items of the input that exist only beside tools that are no functions.
TOOL_ITEMS = (CALL_TYPES | OUTPUT_TYPES | {"additional_tools"}) - {"function_call", "function_call_output"}
#: Refusals with these codes concern the content, not a member of the request.
_OF_THE_CONTENT = frozenset(
    {"context_length_exceeded", "request_too_large", "content_filter", "invalid_prompt", "invalid_encrypted_content"}
)


def remedies_for(error: UpstreamError, request: Mapping[str, Any], row: Channel) -> tuple[Remedy, ...]:
    """The changes that this refusal calls for; none if a retry cannot help. `request` is what `row` was sent."""
    if error.refusal is None or error.code in _OF_THE_CONTENT:
        return ()
    refused = Refused(error.refusal.words, error.refusal.params, request, row)
    for proposed in _proposals(refused):
        if news := tuple(remedy for remedy in dict.fromkeys(proposed) if remedy.apply(row) != row):
            return news
    return ()


def _proposals(refused: Refused) -> Iterator[Sequence[Remedy]]:
    """Remedies, the most certain first."""
    for sentence, remedies in _BY_SENTENCE:
        if sentence.search(refused.words) and (proposed := remedies(refused)):
            yield proposed
            # The sentence is about this; the names in it are no members.
            return
    yield _tools_as_functions(refused)
    for paths in members_named(refused):
        yield _for_members(paths, refused)


# --- by sentence ------------------------------------------------------------------------------------------------

Remedies = Callable[[Refused], Sequence[Remedy]]


def _row(key: str, value: Any) -> Remedies:
    return lambda refused: (Remedy(ROW, key, value),)


def _strict_order(refused: Refused) -> Sequence[Remedy]:
    return (Remedy(ROW, "message_order", "strict"),)


def _merged_system(refused: Refused) -> Sequence[Remedy]:
    """System messages in one, at the beginning; a strict order for servers that still find one elsewhere."""
    if refused.row.system_messages == "keep":
        return (Remedy(ROW, "system_messages", "merge"),)
    return _strict_order(refused)


def _plain_schemas(refused: Refused) -> Sequence[Remedy]:
    return (Remedy(ROW, "tool_schemas", "plain"),) if has_unions(refused.request) else ()


def _inlined_schemas(refused: Refused) -> Sequence[Remedy]:
    return (Remedy(ROW, "tool_schemas", "inlined"),) if has_references(refused.request) else ()


def _streamed(refused: Refused) -> Sequence[Remedy]:
    """A stream, which the gateway puts together, for servers that give nothing else."""
    return () if refused.request.get("stream") else (Remedy(ROW, "streaming", "always"),)


def _one_of_two(refused: Refused) -> Sequence[Remedy]:
    both = refused.has("temperature") and refused.has("top_p")
    return (Remedy(ROW, "sampling", "one"),) if both else ()


def _no_system_role(refused: Refused) -> Sequence[Remedy]:
    """Instructions in the user's message; on the Responses API, messages with the other of the two roles."""
    if "input" not in refused.request:
        return (Remedy(ROW, "system_messages", "user"),)
    roles, named = (
        refused.values("input[].role"),
        "developer" if re.search("developer", refused.words, re.I) else "system",
    )
    other = "system" if named == "developer" else "developer"
    return (Remedy(ALLOW, "input[].role", (other, "user", "assistant")),) if named in roles else ()


def _system_role(refused: Refused) -> Sequence[Remedy]:
    """`system` in place of `developer`, which only OpenAI's own models know."""
    if "developer" not in refused.values("input[].role"):
        return ()
    return (Remedy(ALLOW, "input[].role", ("system", "user", "assistant", "tool")),)


def _thinking(refused: Refused) -> Sequence[Remedy]:
    """Another form of thinking: models that cannot stop, that think between tools only, that count their tokens."""
    words = refused.words
    always = "between_tools" if "between_tools" in words else "always"
    return (Remedy(ROW, "thinking", always if re.search(r"thinking\.type\.disabled", words) else "budget"),)


def _no_reasoning_text(refused: Refused) -> Sequence[Remedy]:
    """No reasoning text with the history; only where the row sends it."""
    return (Remedy(ROW, "reasoning_text", False),) if refused.row.reasoning_text else ()


def _no_marks(refused: Refused) -> Sequence[Remedy]:
    """No marks for the cache: without them, text is sent as strings."""
    return tuple(Remedy(DROP, path) for name in MARKS if refused.has(path := f"{DEEP}.{name}"))


def _tools_as_functions(refused: Refused) -> Sequence[Remedy]:
    """Functions in place of the tools and items that an upstream of the Responses API does not know."""
    types = _types_beside_functions(refused.request)
    named = any(re.search(rf"(?<![\w-]){re.escape(kind)}(?![\w-])", refused.words) for kind in types)
    if types and (named or _ONLY_FUNCTIONS.search(refused.words) or _TOOL_TYPE.search(" ".join(refused.named))):
        return (Remedy(ROW, "tools", "functions"),)
    return ()


_ONLY_FUNCTIONS = re.compile(
    r"(?:unsupported|unknown|invalid|unrecogni[sz]ed) (?:tool|input item|item)s? types?|"
    r"tools? types?.{0,40}not support|only (?:support )?['\"`]?function|type['\"`]? of tool must be|tool type must be|"
    r"tools.{0,40}must be ['\"`]?function",
    re.IGNORECASE,
)
_TOOL_TYPE = re.compile(r"\b(?:tools|input)(?:\[\d+\]|\.\d+)\.(?:\w+\.)?(?:type|tools|format)\b")


def _types_beside_functions(request: Mapping[str, Any]) -> set[str]:
    """Types of the tools and items that become functions or go, where functions are all that is left."""
    if not isinstance(request.get("input"), list):
        return set()
    tools = {tool.get("type") for tool in request.get("tools") or () if isinstance(tool, dict)} - {"function"}
    items = {item.get("type") for item in request["input"] if isinstance(item, dict)}
    return {str(kind) for kind in (*tools, *(items & TOOL_ITEMS))}


#: In order. The words of the servers and templates themselves.
_BY_SENTENCE: tuple[tuple[re.Pattern[str], Remedies], ...] = tuple(
    (re.compile(words, re.IGNORECASE | re.DOTALL), remedies)
    for words, remedies in (
        (
            r"(?:system|developer) (?:role|messages?|prompts?|instructions?)(?: is| are)?(?: currently)? not "
            r"(?:be )?(?:supported|enabled|allowed)|n[o']t support (?:the )?['\"`]?(?:system|developer)\b|"
            r"developer instruction is not enabled|role['\"`]? does not support ['\"`](?:system|developer)|"
            r"only user.{0,30}roles are supported",
            _no_system_role,
        ),
        (
            r"system messages? (?:must|should|can only|is only|are only|has to|needs to)\b.{0,40}(?:first|begin|start)|"
            r"only (?:the )?first message can be|unexpected role ['\"`]?system|multiple system messages",
            _merged_system,
        ),
        (
            r"(?:role|message|turn|conversation|user|request)s?\b.{0,80}\balternat|\balternat\w* (?:between|role|user)|"
            r"unexpected role ['\"`]?\w+['\"`]? after|expected last role|"
            r"(?:multiple|consecutive|two) ['\"`]?(?:user|assistant)['\"`]? (?:roles|messages)|"
            r"(?:first|last) message (?:must|should|has to)|(?:start|begin|end)s? with an? ['\"`]?(?:user|assistant)|"
            r"cannot have 2 or more assistant messages|function call turn comes immediately after|"
            r"(?:user|role 'user').{0,40}(?:after|following) (?:a |the )?['\"`]?tool|"
            r"roles? .{0,40}in a row|must be followed by an? ['\"`]?assistant",
            _strict_order,
        ),
        (
            r"(?:unknown|unsupported|invalid|unexpected|unrecogni[sz]ed).{0,60}['\"`]?\bdeveloper\b|"
            r"\bdeveloper\b['\"`]?.{0,40}not (?:supported|allowed|valid)|input should be 'system'|"
            r"unexpected message role",
            _system_role,
        ),
        (
            r"thinking\.type\.disabled|adaptive thinking is not supported|thinking\.type\.adaptive\W+is not|"
            r"support the effort",
            _thinking,
        ),
        (
            r"reasoning_content.{0,80}(?:unsupported|not (?:supported|permitted|allowed)|unknown|extra)|"
            r"(?:unsupported|unknown|extra|unexpected).{0,80}reasoning_content",
            _no_reasoning_text,
        ),
        (
            r"reasoning_content.{0,80}(?:passed back|must be|required|missing)|"
            r"(?:missing|without|lacks?|requires?|must (?:include|contain)).{0,60}reasoning_content",
            _row("reasoning_text", True),
        ),
        (
            r"ResponseOutputMessage\w*\W+(?:id|status)\b|"
            r"missing required parameter: ['\"`]?input\[\d+\]\.(?:id|status)\b",
            _row("item_ids", "made"),
        ),
        (
            r"\binput\[\d+\]\.id\b|\binput\.\d+\.id\b|duplicate item found|without its required|"
            r"expected an id that begins|item with id .{1,100} not found",
            _row("item_ids", "omit"),
        ),
        (
            r"sequence, expected a string|content\b.{0,60}(?:must|should|has to|needs to) be an? (?:valid )?string|"
            r"expected a string, got (?:an? )?(?:array|list)|can only concatenate str",
            _no_marks,
        ),
        (r"thought[_ ]?signature", _row("call_signatures", "google")),
        (r"reasoning_?details|reasoning details", _row("call_signatures", "openrouter")),
        (
            r"tool[_ ]?calls?[_ ]ids?\b.{0,120}(?:a-z|length|must|match|invalid|pattern)|"
            r"tool_(?:calls?|use)\W{0,3}(?:\d+\W{0,3})?id\b.{0,120}(?:too long|length|match|pattern)",
            _row("call_ids", "short"),
        ),
        (
            r"mixed values for ['\"`]?strict|['\"`]?strict['\"`]? .{0,40}(?:mixed|same value|all tools)",
            _row("tool_strictness", "uniform"),
        ),
        (r"\$(?:ref|defs)\b|(?:undefined|unresolved|unresolvable) (?:schema|reference)", _inlined_schemas),
        (r"(?:oneOf|anyOf|allOf).{0,120}top[- ]level|top[- ]level.{0,120}(?:oneOf|anyOf|allOf)", _plain_schemas),
        (
            r"\bstream(?:ing)?\b['\"`]? (?:parameter )?(?:must|should|has to|needs to) be|"
            r"\bonly supports? (?:the )?stream|requires? stream(?:ing)?\b|enable the stream|stream(?:ing)? is required|"
            r"non-?stream\w*(?: \w+){0,3} (?:is|are) not|(?:not|n't) support (?:\w+ ){0,2}non-?stream|"
            r"for non-?streaming calls",
            _streamed,
        ),
        (
            r"temperature\W.{0,60}\btop_p\b.{0,80}(?:both|one|together|same time|exclusive|simultaneous)|"
            r"(?:both|only one of).{0,40}temperature\W.{0,40}top_p",
            _one_of_two,
        ),
    )
)


# --- what becomes of a member -----------------------------------------------------------------------------------

#: Wishes whose names mean something else at another place.
_WISHES = frozenset(
    {"input[].content[].logprobs", "reasoning.summary", "reasoning.generate_summary", "thinking", "thinking.display"}
)
#: Members with these names carry the conversation, the tools or what the client needs of the answer.
_NEEDED = frozenset(
    {
        *("model", "input", "messages", "system", "instructions", "prompt", "stream", "include", "n"),
        *("tools", "tool_choice", "functions", "function_call", "function", "parameters", "input_schema"),
        *("max_tool_calls", "logprobs", "top_logprobs", "stop", "stop_sequences", "strict", "modalities", "audio"),
        *("type", "role", "content", "text", "id", "call_id", "name", "arguments", "output", "description"),
        *(
            "image_url",
            "file_data",
            "file_id",
            "file_url",
            "url",
            "data",
            "source",
            "media_type",
            "input_audio",
            "file",
        ),
        *("tool_calls", "tool_call_id", "tool_use_id", "summary", "encrypted_content", "namespace", "format", "schema"),
        *("json_schema", "server_label", "server_url", "action", "actions", "operation", "environment", "refusal"),
        *("signature", "thinking", "reasoning_content", "reasoning_details", "extra_content", "properties", "required"),
        *("items", "enum", "anyOf", "oneOf", "allOf", "const", "$ref", "$defs", "definitions", "filename"),
        *("max_tokens", "max_completion_tokens", "max_output_tokens", "response_format", "output_config"),
    }
)
_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_LABELS = frozenset({"user", "user_id", "safety_identifier", "prompt_cache_key"})
_HASHABLE = re.compile(r"e-?mail|\bhash|\buuid|too long|at most \d+ char|maximum length|longer than", re.IGNORECASE)
_RENAMED = re.compile(
    r"unsupported|not (?:be )?(?:supported|permitted|allowed)|n't support|unknown|unrecogni|extra|instead"
)
_TOO_LARGE = re.compile(r"too (?:large|high|big)|exceed|at most|less than|range|greater|\d > \d", re.IGNORECASE)
_LEAST_LIMIT = 16


def _for_members(paths: Sequence[str], refused: Refused) -> Sequence[Remedy]:
    return [remedy for path in paths for remedy in _for_member(path, refused)]


def _for_member(path: str, refused: Refused) -> Sequence[Remedy]:
    """The remedies for one member; none if the request needs it."""
    *outer, name = parts(path)
    values = refused.values(path)
    if all(means_none(name, value) for value in values):
        return (Remedy(OMIT, path),)
    if path.startswith(("response_format", "text.format")):
        return _text_format(refused)
    if (special := _MEMBERS.get(name)) is not None:
        return special(path, refused)
    if outer and outer[0] == "tools" and name in SCHEMA_HINTS:
        return () if any(refused.values("tools[].strict") + refused.values("tools[].function.strict")) else _drop(path)
    if path in _WISHES:
        return _drop(path)
    return () if name in _NEEDED or (outer and outer[-1] == "properties") else _drop(path)


def _drop(path: str) -> Sequence[Remedy]:
    return (Remedy(DROP, path),)


def _step(path: str, refused: Refused) -> Sequence[Remedy]:
    """For a value on a scale: the values that the sentence lists, or else no such member."""
    value = refused.value(path)
    # No thinking at all is no neighbour of any effort but the least.
    steps = tuple(step for step in _listed(refused.words) if step != value and (step != "none" or value == "minimal"))
    if not steps and _OF_THE_VALUE.search(refused.words) and str(value) in refused.words:
        steps = tuple(step for step in ("low", "medium", "high") if step != value)
    allowed = Remedy(ALLOW, path, steps)
    if steps and value not in refused.row.params.allow.get(path, ()) and allowed.apply(refused.row) != refused.row:
        return (allowed,)
    return _drop(path)


_OF_THE_VALUE = re.compile(
    r"(?:unsupported|invalid|unknown|illegal) (?:value|level|variant)|"
    rf"(?:level|value|effort|support) ['\"`]?(?:{'|'.join(SCALES[0])})\b",
    re.IGNORECASE,
)
_LISTING = re.compile(
    r"\b(?:supported|allowed|valid|accepted|permitted|possible|available) (?:values?|options?|levels?|efforts?)?|"
    r"one of|should be|must be|expected|choose|\bonly\b|\buse\b|instead",
    re.IGNORECASE,
)
_GIVEN = re.compile(r"\b(?:but )?(?:got|given|received|found|provided|was|input_value)\b", re.IGNORECASE)


def _listed(words: str) -> Iterator[str]:
    """The steps of a scale that a sentence lists as supported."""
    opening = _LISTING.search(words)
    if opening is None:
        return
    listing = _GIVEN.split(words[opening.end() :])[0]
    for step in dict.fromkeys(re.findall(r"[a-z]+", listing)):
        if any(step in scale for scale in SCALES):
            yield step


def _label(path: str, refused: Refused) -> Sequence[Remedy]:
    """A label of the user or the cache: its hash says as much."""
    hashed = Remedy(HASH, path)
    if _HASHABLE.search(refused.words) and hashed.apply(refused.row) != refused.row:
        return (hashed,)
    return (Remedy(DROP, path),)


def _limit(path: str, refused: Refused) -> Sequence[Remedy]:
    """The limit of the answer under its other name, or as high as the upstream takes it."""
    value = refused.value(path)
    other = next((name for name in _LIMITS if name != path and re.search(rf"\b{name}\b", refused.words)), None)
    if _RENAMED.search(refused.words.lower()) and not _TOO_LARGE.search(refused.words):
        if path == "max_tokens" and other in (None, "max_completion_tokens"):
            return (Remedy(RENAME, path, "max_completion_tokens"),)
        if path == "max_completion_tokens" and other in (None, "max_tokens"):
            return (Remedy(RENAME, path, "max_tokens"),)
    numbers = [int(digits) for digits in re.findall(r"(?<![\w.])\d{2,9}(?![\w.]*\w)", refused.words)]
    lower = [number for number in numbers if isinstance(value, int) and _LEAST_LIMIT <= number < value]
    return (Remedy(AT_MOST, path, max(lower)),) if lower else ()


def _text_format(refused: Refused) -> Sequence[Remedy]:
    """A format of the answer: any JSON object with the schema as an instruction, or the instruction alone."""
    if re.search(r"invalid schema|in context=|\$ref|additionalProperties", refused.words, re.IGNORECASE):
        # The client's own schema is wrong.
        return ()
    kind = refused.value("response_format.type") or refused.value("text.format.type")
    if kind == "json_schema":
        return (Remedy(ROW, "text_format", "object"),)
    if kind == "json_object":
        wants_schema = re.search(r"must be ['\"`]?json_schema", refused.words, re.IGNORECASE)
        return (Remedy(ROW, "text_format", "schema_only" if wants_schema else "instruction"),)
    return ()


def _output_config(path: str, refused: Refused) -> Sequence[Remedy]:
    """The effort, if nothing else stands there."""
    return _drop("output_config.effort") if refused.request["output_config"].keys() == {"effort"} else ()


def _content(path: str, refused: Refused) -> Sequence[Remedy]:
    """Results as text, with their images in a message behind them."""
    in_results = path == "messages[].content" and refused.row.tool_images == "tool"
    return (Remedy(ROW, "tool_images", "user"),) if in_results else ()


_MEMBERS: Mapping[str, Callable[[str, Refused], Sequence[Remedy]]] = {
    # Where the tools of a namespace are offered, they have become functions before.
    "namespace": lambda path, refused: _drop(path),
    "reasoning_effort": _step,
    "effort": _step,
    "verbosity": _step,
    **dict.fromkeys(_LABELS, _label),
    **dict.fromkeys(_LIMITS, _limit),
    "reasoning_content": lambda path, refused: _no_reasoning_text(refused),
    "output_config": _output_config,
    "content": _content,
}
