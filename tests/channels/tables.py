"""Tables as the tests write them."""

from pathlib import Path

FORMATS = ("responses", "chat_completions", "messages", "demo")
CANARY = "canary-7f3a91"
REPOSITORY = Path(__file__).parents[2]
DEMO = "version: 1\nchannels:\n  - {name: demo, format: demo, models: [demo]}\n"


def write(directory, text):
    path = directory / "channels.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(0o640)
    return path


def rows(text, *, head="version: 1\n"):
    return f"{head}channels:\n" + "".join(f"  {line}\n" for line in text.strip("\n").splitlines())
