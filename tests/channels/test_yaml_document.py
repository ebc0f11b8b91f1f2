import re
import traceback
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.channels.table import load
from app.channels.yaml_document import ChannelsInvalid
from app.schemas.channels import KEYS
from tests.channels.tables import CANARY, DEMO, FORMATS, REPOSITORY, rows, write


def problems_of(path):
    try:
        return load(path, {"X": "1"}, FORMATS).warnings
    except ChannelsInvalid as error:
        return error.problems or pytest.fail("refused without a reason")


# --- bounds -----------------------------------------------------------------------------------------------------


def test_an_unreadable_file_is_a_problem(tmp_path):
    for path in (tmp_path / "missing.yaml", tmp_path, tmp_path / ("x" * 5000), Path("a\0b")):
        with pytest.raises(ChannelsInvalid):
            load(path, {}, FORMATS)


def test_a_file_full_of_faults_stays_within_bounds(tmp_path):
    text = DEMO + "".join(f"wrong{number}: 1\n" for number in range(5000))
    assert len(problems_of(write(tmp_path, text))) == 200


@pytest.mark.parametrize("text", ["channels: '" + "${A:-" * 700_000 + "'", "a: " + "[" * (4 << 20), "'" * (4 << 20)])
def test_a_hostile_file_is_refused(tmp_path, text):
    assert 1 <= len(problems_of(write(tmp_path, text))) <= 3


# --- secrets ----------------------------------------------------------------------------------------------------

PLACES = [
    "api_key: {}",
    "api_key: '{}' # {}",
    "api_key: ${{NONE:-{}}}",
    "api_key: ${{{}}}",
    "api_key: ${{X:-{}",
    "api_key: [{}]",
    "api_key: {{{}: {}}}",
    "api_key: |\n      {}",
    "api_key: \"{}\n      {}\"",
    "api_key {}",
    "api_key:{}",
    "api_key: {}\n  bad: ]",
    "api_key: *{}",
    "api_key: &{} x",
    "api_key: !{} x",
    "api_key: '{}",
    "api_key: @{}",
    "api_kye: {}",
    "api_kye: {{deep: [{}]}}",
    "base_url: https://u:{}@h/v1",
    "base_url: https://h/v1?key={}",
    "headers: {{Authorization: {}, Authorization: {}}}",
    "headers: {{X-A: \"{}\\n\"}}",
    "headers: [{}]",
    "headers: {}",
    "{{a, api_key:{}}}",
    "# {}",
    "x: *y # {}",
    "weight: 0 # {}",
    "timeout: [1, 2] # {}",
]  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("wrong", ["", "    weight: 0\n    api_key: 1\n", "  - [\n"])
def test_a_secret_is_never_shown(read, place, wrong, caplog):
    line = place.format(*[CANARY] * 3)
    text = rows("- {name: ok, format: demo, models: [m]}") + f"  - name: a\n    format: responses\n    {line}\n{wrong}"
    with pytest.raises(ChannelsInvalid) as caught:
        read(text, X=CANARY)
    seen = [str(caught.value), repr(caught.value), repr(caught.value.problems)]
    seen += traceback.format_exception(caught.value)
    assert CANARY not in "".join(seen)


def test_a_table_shows_neither_keys_nor_headers(read):
    table = read(
        rows("- {name: a, format: demo, models: [m], api_key: '${K}', headers: {api-key: '${K}'}}"),
        K=CANARY,
    )
    channel = table.channels[0]
    assert CANARY not in repr(table) + repr(channel) + str(channel) + repr([channel.api_key, channel.headers])
    assert (channel.api_key, channel.headers["api-key"]) == (CANARY, CANARY)


def test_the_value_of_a_variable_is_not_quoted(read):
    text = rows("- {name: '${S}', format: '${S}', models: ['${S}', '${S}'], base_url: '${S}', compact: '${S}'}")
    with pytest.raises(ChannelsInvalid) as caught:
        read(text, S=f"{CANARY}/:")
    assert len(caught.value.problems) == 5
    assert CANARY not in str(caught.value)


# --- any text ---------------------------------------------------------------------------------------------------

WORDS = [*sorted(KEYS), "demo", "1", "0", "a", "*", "&a", "*a", "!t", "${X}", "${", "<<", "~", "'", '"', "|", ">", "#"]
PIECES = st.sampled_from(
    [*WORDS, ": ", ":", "- ", ", ", "[", "]", "{", "}", "\n", "\n  ", "\n    ", "\t", "---\n", "\x85", " "]
)
BROKEN = st.builds(
    lambda text, at, piece: text[: at % len(text)] + piece + text[at % len(text) :],
    st.just((REPOSITORY / "channels.yaml").read_text().replace("\n#  ", "\n  ").replace("\n#d", "\nd")),
    st.integers(0, 10_000),
    PIECES,
)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(text=st.one_of(st.text(), st.lists(PIECES, max_size=60).map("".join), BROKEN, st.binary()))
def test_any_text_is_a_table_or_has_errors(tmp_path, text):
    path = write(tmp_path, text)
    lines = re.split("\r\n|[\n\r\x85\u2028\u2029]", path.read_bytes().decode("utf-8-sig", "replace"))
    for problem in problems_of(path):
        assert 1 <= problem.line <= len(lines)
        assert 0 <= problem.caret <= len(problem.text)
        assert problem.render()
