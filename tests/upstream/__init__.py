"""A model server for tests: real HTTP/1.1 on a loopback socket, in threads, with every fault an upstream can have.

Without a script it answers as OpenAI and Anthropic do, exactly and deterministically, on `/v1/responses`,
`/v1/chat/completions` and `/v1/messages`, and refuses the requests that they refuse. Its answer depends on the request:

    any text                            "You said: <last user text>. I have seen <n> items." (or messages)
    "weather" and a function tool       a function call; with "both" two, with "explain" a message before
    tool_choice that demands a tool     that call
    "search" and a web_search tool      a hosted call and a cited message (responses)
    "refuse"                            a refusal
    a JSON schema in the request        JSON that fits the schema
    reasoning in the request            a thought before the answer: include reasoning.encrypted_content or
                                        reasoning.summary (responses), "think" (chat), thinking (messages)
    an output limit from 16 to 20       an answer cut short
    compaction_trigger as last item     one compaction item, which only this upstream's family can read (responses)

`enqueue(script, …)` changes the next answer to a POST, `always(script, …)` all of them; scripts are the functions below
that return a `Script`, and several of them apply one after the other to the same answer.

By hand: `python -m tests.upstream --port 19001 [--sloppy] [--dialect vllm] [--close-delimited] [--models a,b] …`.
"""

from tests.upstream.chat_completions import DIALECTS, STRICT, Dialect
from tests.upstream.exchange import FIN, HOLD, RESET, Act, Answer, Exchange, Pause, Piece, Recorded, Script, event_bytes
from tests.upstream.responses import DEFAULTS, SEAL
from tests.upstream.scripts import (
    bomb,
    byte_by_byte,
    byte_order_mark,
    closing,
    commented,
    continued,
    dripping,
    dripping_head,
    dropped,
    ended,
    endless_line,
    failing,
    failing_at_once,
    followed,
    framed,
    garbage,
    going_stale,
    html,
    in_one_write,
    invalid_utf8,
    json_instead,
    line_ends,
    rate_limited,
    raw,
    redirect,
    refusal,
    respelled,
    retold,
    rewritten,
    silent,
    slammed,
    sloppy,
    split_at,
    split_randomly,
    sse,
    stalled,
    stepped,
    stream_instead,
    too_long,
    unnamed,
    unterminated,
    wire,
    zipped,
)
from tests.upstream.server import ScriptedUpstream, black_hole, mute, self_signed

__all__ = [
    "DEFAULTS",
    "DIALECTS",
    "FIN",
    "HOLD",
    "RESET",
    "SEAL",
    "STRICT",
    "Act",
    "Answer",
    "Dialect",
    "Exchange",
    "Pause",
    "Piece",
    "Recorded",
    "Script",
    "ScriptedUpstream",
    "black_hole",
    "bomb",
    "byte_by_byte",
    "byte_order_mark",
    "closing",
    "commented",
    "continued",
    "dripping",
    "dripping_head",
    "dropped",
    "ended",
    "endless_line",
    "event_bytes",
    "failing",
    "failing_at_once",
    "followed",
    "framed",
    "garbage",
    "going_stale",
    "html",
    "in_one_write",
    "invalid_utf8",
    "json_instead",
    "line_ends",
    "mute",
    "rate_limited",
    "raw",
    "redirect",
    "refusal",
    "respelled",
    "retold",
    "rewritten",
    "self_signed",
    "silent",
    "slammed",
    "sloppy",
    "split_at",
    "split_randomly",
    "sse",
    "stalled",
    "stepped",
    "stream_instead",
    "too_long",
    "unnamed",
    "unterminated",
    "wire",
    "zipped",
]
