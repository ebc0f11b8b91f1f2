"""A token may be restricted to channels with certain tags: it sees and uses those only, at every endpoint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.gateway import Gateway
from tests.relay.conftest import eventually
from tests.response_contract import check_error, check_response
from tests.upstream import ScriptedUpstream

JSON = dict[str, Any]
TURN = {"input": "Say something to me"}


@dataclass(frozen=True, slots=True)
class Site:
    """`both` is served by a local channel and by one in the cloud, which is preferred; the other models by one."""

    gateway: Gateway
    local: ScriptedUpstream
    cloud: ScriptedUpstream


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with ScriptedUpstream() as local, ScriptedUpstream() as cloud:
        channels = [
            local.channel("local", models=["both", "here"], tags=["local", "cheap"], chat=True),
            cloud.channel(
                "cloud",
                models=["both", "far-away", "writer"],
                tags=["cloud"],
                chat=True,
                priority=5,
                encrypted_reasoning=True,
            ),
            {"name": "demo", "format": "demo", "models": ["demo"]},
        ]
        # Summaries are written in the cloud, where no token of the local channels may send anything.
        table = {"compaction": {"model": "writer"}}
        with Gateway(tmp_path_factory.mktemp("tags"), channels, table, worker_processes=1) as gateway:
            yield Site(gateway, local, cloud)


@pytest.fixture(scope="module")
def confined(site: Site) -> str:
    """A token for local channels, of the same owner as the gateway's other one."""
    return site.gateway.new_token("confined", "--owner", "tests", "--tags", "local, eu")


@pytest.fixture
def cloud_stays_unused(site: Site) -> Iterator[None]:
    before = len(site.cloud.bodies)
    yield
    assert len(site.cloud.bodies) == before


def _posted(site: Site, token: str, **keys: Any) -> JSON:
    answer = site.gateway.post("/responses", {**TURN, **keys}, token=token)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def _streamed(site: Site, token: str, **keys: Any) -> str:
    return site.gateway.post("/responses", {**TURN, "stream": True, **keys}, token=token).text


def _by_name(answer: Any, model: str) -> str:
    return str(answer.text.replace(model, "NAME"))


@pytest.mark.usefixtures("cloud_stays_unused")
def test_requests_go_to_channels_with_one_of_the_tags(site: Site, confined: str) -> None:
    check_response(_posted(site, confined, model="both"), status="completed")
    assert "response.completed" in _streamed(site, confined, model="both")
    chat = {"model": "both", "messages": [{"role": "user", "content": "hello"}]}
    assert site.gateway.post("/chat/completions", chat, token=confined).status_code == 200
    counted = site.gateway.post("/responses/input_tokens", {"model": "both", **TURN}, token=confined)
    assert counted.status_code == 200


def test_a_token_without_tags_uses_every_channel(site: Site) -> None:
    before = len(site.cloud.bodies)
    _posted(site, site.gateway.token, model="both")
    assert len(site.cloud.bodies) == before + 1


@pytest.mark.usefixtures("cloud_stays_unused")
@pytest.mark.parametrize("keys", [{}, {"stream": True}, {"background": True}], ids=str)
def test_a_model_of_other_channels_is_an_unknown_one(site: Site, confined: str, keys: JSON) -> None:
    post = site.gateway.post
    foreign = post("/responses", {"model": "far-away", **TURN, **keys}, token=confined)
    unknown = post("/responses", {"model": "none-such", **TURN, **keys}, token=confined)

    check_error(foreign, 400, code="model_not_found", param="model")
    assert _by_name(foreign, "far-away") == _by_name(unknown, "none-such")


@pytest.mark.usefixtures("cloud_stays_unused")
@pytest.mark.parametrize("path", ["/chat/completions", "/responses/input_tokens", "/responses/compact"])
def test_it_is_unknown_at_every_endpoint(site: Site, confined: str, path: str) -> None:
    messages = [{"role": "user", "content": "hello"}]
    rest = {"messages": messages} if path == "/chat/completions" else {"input": messages}
    foreign = site.gateway.post(path, {"model": "far-away", **rest}, token=confined)
    unknown = site.gateway.post(path, {"model": "none-such", **rest}, token=confined)

    assert foreign.json()["error"]["code"] == "model_not_found"
    assert (foreign.status_code, _by_name(foreign, "far-away")) == (unknown.status_code, _by_name(unknown, "none-such"))


def test_the_nearest_name_is_never_one_of_other_channels(site: Site, confined: str) -> None:
    answer = site.gateway.post("/responses", {"model": "far-aways", **TURN}, token=confined)
    assert "'far-away'" not in check_error(answer, 400, code="model_not_found")["message"]


def test_the_list_of_models_has_those_of_its_channels(site: Site, confined: str) -> None:
    listed = site.gateway.get("/models", token=confined).json()["data"]
    assert [(model["id"], model["owned_by"]) for model in listed] == [("both", "local"), ("here", "local")]
    check_error(site.gateway.get("/models/far-away", token=confined), 404, code="model_not_found")


@pytest.mark.usefixtures("cloud_stays_unused")
def test_a_background_response_keeps_to_them(site: Site, confined: str) -> None:
    queued = _posted(site, confined, model="both", background=True)

    def ended() -> JSON | None:
        found = site.gateway.get(f"/responses/{queued['id']}", token=confined).json()
        return None if found["status"] in ("queued", "in_progress") else found

    check_response(eventually(ended, "the response to end"), status="completed", background=True)


def test_a_conversation_that_began_elsewhere_goes_on_within_them(site: Site, confined: str) -> None:
    first = _posted(site, site.gateway.token, model="both", reasoning={"effort": "low"})
    before = len(site.cloud.bodies)
    second = _posted(site, confined, model="both", previous_response_id=first["id"])
    check_response(second, status="completed")
    assert len(site.cloud.bodies) == before


@pytest.mark.usefixtures("cloud_stays_unused")
@pytest.mark.parametrize("strategy", ["summary", "auto"])
def test_a_summary_is_written_within_them(site: Site, confined: str, strategy: str) -> None:
    first = _posted(site, confined, model="both", input="The word is fact-17. " * 40)
    settings = [{"type": "compaction", "strategy": strategy, "keep_turns": 0}]
    body = {"model": "both", "previous_response_id": first["id"], "context_management": settings}
    answer = site.gateway.post("/responses/compact", body, token=confined)
    assert answer.status_code == 200, answer.text


def test_the_tags_of_a_token_can_be_changed(site: Site) -> None:
    token = site.gateway.new_token("changing", "--tags", "cloud")
    site.gateway.command("tokens", "update", "changing", "--tags", "cheap")

    def models() -> list[str]:
        return [model["id"] for model in site.gateway.get("/models", token=token).json()["data"]]

    eventually(lambda: models() == ["both", "here"], "the tags to change")
    site.gateway.command("tokens", "update", "changing", "--tags", "*")
    eventually(lambda: models() == ["both", "demo", "far-away", "here", "writer"], "the tags to go")


@pytest.fixture(scope="module")
def confined_by_default(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    channels = [
        {"name": name, "format": "demo", "models": [name], "tags": [tag]}
        for name, tag in (("inside", "local"), ("outside", "cloud"))
    ]
    with Gateway(tmp_path_factory.mktemp("default"), channels, {"limits": {"tags": ["local"]}}) as gateway:
        yield gateway


@pytest.mark.parametrize(
    ("options", "models"),
    [
        ((), ["inside"]),
        (("--tags", "default"), ["inside"]),
        (("--tags", "cloud"), ["outside"]),
        (("--tags", "*"), ["inside", "outside"]),
        (("--tags", "nowhere"), []),
    ],
)
def test_the_table_sets_tags_for_tokens_without_their_own(
    confined_by_default: Gateway, options: tuple[str, ...], models: list[str]
) -> None:
    gateway = confined_by_default
    token = gateway.new_token(f"by-{'-'.join(options) or 'none'}", *options)
    assert [model["id"] for model in gateway.get("/models", token=token).json()["data"]] == models
    served = [name for name in ("inside", "outside") if _status(gateway, token, name) == 200]
    assert served == models


def _status(gateway: Gateway, token: str, model: str) -> int:
    return gateway.post("/responses", {"model": model, **TURN}, token=token).status_code
