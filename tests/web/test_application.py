"""Flask's steps for every request: the view is found, every answer has the gateway's headers once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flask.testing import FlaskClient

from app import create_app
from app.settings import Settings
from app.store.store import Store
from app.web.application import Application
from app.web.current_request import CurrentRequest

TABLE = "version: 1\nchannels:\n  - {name: demo, format: demo, models: [demo]}\n"
EVERY_ANSWER = ("X-Request-Id", "OpenAI-Processing-Ms", "Cache-Control", "X-Content-Type-Options", "Content-Type")


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    home = tmp_path_factory.mktemp("application")
    channels = home / "channels.yaml"
    channels.write_text(TABLE)
    settings = Settings(database_url=f"sqlite:///{home}/a.db", channels=channels, secret_key="k" * 43)
    store = Store(settings.database_url, peppers=settings.keys_for("tokens"))
    store.schema.upgrade()
    _, secret = store.tokens.create("ada", "ada")
    store.close()
    application = create_app(settings)
    assert isinstance(application, Application)
    application.config["SECRET"] = secret
    yield application
    application.extensions["antiphon"].close()


@pytest.fixture
def client(application: Application) -> FlaskClient:
    client = application.test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {application.config['SECRET']}"
    return client


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models", 200),
        ("HEAD", "/v1/models", 200),
        ("OPTIONS", "/v1/models", 200),
        ("GET", "/healthz", 200),
        ("GET", "/v1/responses/resp_1", 404),
        ("GET", "/v1/nope", 404),
        ("DELETE", "/v1/models", 405),
        ("GET", "/v1/responses", 426),
        ("GET", "/v1//models", 308),
    ],
)
def test_every_answer_has_the_headers_once(client: FlaskClient, method: str, path: str, status: int) -> None:
    with client.open(path, method=method) as answer:
        assert answer.status_code == status
        assert [len(answer.headers.getlist(name)) for name in EVERY_ANSWER] == [1] * len(EVERY_ANSWER)
        assert "Set-Cookie" not in answer.headers


def test_a_request_without_a_token_has_them_as_well(application: Application) -> None:
    with application.test_client().get("/v1/models") as answer:
        assert answer.status_code == 401
        assert [len(answer.headers.getlist(name)) for name in EVERY_ANSWER] == [1] * len(EVERY_ANSWER)


def test_an_error_that_no_one_expects_is_answered_in_the_same_shape(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(current: CurrentRequest) -> object:
        raise ZeroDivisionError

    monkeypatch.setattr(CurrentRequest, "json", broken)
    with client.post("/v1/responses") as answer:
        assert answer.status_code == 500
        assert answer.get_json()["error"]["code"] == "server_error"
        assert [len(answer.headers.getlist(name)) for name in EVERY_ANSWER] == [1] * len(EVERY_ANSWER)


def test_a_wrong_method_is_told_the_right_ones(client: FlaskClient) -> None:
    with client.put("/v1/conversations") as answer:
        assert (answer.status_code, answer.headers["Allow"]) == (405, "OPTIONS, POST")


def test_a_redirect_leads_to_the_host_that_the_client_named(client: FlaskClient) -> None:
    with client.get("/v1//models?a=b", headers={"Host": "gateway.example:8080"}) as answer:
        assert answer.headers["Location"] == "http://gateway.example:8080/v1/models?a=b"


def test_a_refused_request_does_not_count_as_running(application: Application, client: FlaskClient) -> None:
    running = application.extensions["antiphon"].in_flight
    for path in ("/v1/models", "/v1/nope", "/v1/responses/resp_1", "/healthz"):
        client.get(path).close()
    assert running.count == 0
