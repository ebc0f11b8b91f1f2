"""A scripted upstream by hand: `python -m tests.upstream --port 19001`."""

from __future__ import annotations

import argparse
import signal

from tests.upstream.chat_completions import DIALECTS
from tests.upstream.scripts import framed, sloppy
from tests.upstream.server import ScriptedUpstream

ENDS = {signal.SIGINT, signal.SIGTERM}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.upstream", description="A scripted upstream, by hand.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--sloppy", action="store_true", help="a dialect like llama.cpp's")
    parser.add_argument("--dialect", choices=DIALECTS, default="tolerant", help="of chat completions")
    parser.add_argument("--close-delimited", action="store_true", help="bodies end with the connection")
    parser.add_argument("--api-key", help="refuse any other key")
    parser.add_argument("--models", type=lambda names: names.split(","), help="refuse any other model")
    chosen = parser.parse_args()
    standing = [*([sloppy()] if chosen.sloppy else []), *([framed("close")] if chosen.close_delimited else [])]
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
    with ScriptedUpstream(
        models=chosen.models, api_key=chosen.api_key, port=chosen.port, dialect=DIALECTS[chosen.dialect]
    ) as upstream:
        upstream.always(*standing)
        print(upstream.base_url, flush=True)
        signal.sigwait(ENDS)


if __name__ == "__main__":
    main()
