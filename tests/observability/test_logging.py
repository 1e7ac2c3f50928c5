import io
import json
import logging
import re
from collections.abc import Iterator
from importlib import resources
from typing import Any, Literal

import pytest
import structlog
from jsonschema import Draft202012Validator

from perch.observability.logging import REDACTED, Redaction, configure_logging
from perch.observability.tracing import Tracing

KEY = "pk-correct-horse-battery"


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """The process's logging, put back after each test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


class Log:
    """A process that logs into memory."""

    def __init__(
        self, *, level: str = "info", fmt: Literal["json", "pretty"] = "json", secrets: tuple[str, ...] = ()
    ) -> None:
        self.stream = io.StringIO()
        configure_logging(level=level, fmt=fmt, stream=self.stream, secrets=secrets)

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]


def session_schema() -> Draft202012Validator:
    text = resources.files("perch.observability").joinpath("log_schema.json").read_text()
    schema = json.loads(text)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


# --- where lines come from ---------------------------------------------------------------------------


def test_structlog_and_the_standard_library_write_the_same_fields() -> None:
    log = Log()
    structlog.get_logger("perch.server").info("engine_ready", problem=None)
    logging.getLogger("grpc").warning("channel %s is down", 7)
    ours, theirs = log.lines
    assert ours["event"] == "engine_ready"
    assert (theirs["event"], theirs["level"], theirs["logger"]) == ("channel 7 is down", "warning", "grpc")
    assert {"event", "level", "timestamp", "logger"} <= ours.keys() & theirs.keys()


def test_timestamps_are_utc_and_iso() -> None:
    log = Log()
    structlog.get_logger("perch").info("now")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", log.lines[0]["timestamp"])


def test_lines_inside_a_stream_carry_its_ids_whoever_logs_them() -> None:
    log = Log()
    with Tracing(None).stream_span("st_1", {}) as stream:
        structlog.get_logger("perch").info("ours")
        logging.getLogger("aiohttp.server").error("theirs")
    structlog.get_logger("perch").info("after")
    *inside, after = log.lines
    assert [(line["stream_id"], line["trace_id"]) for line in inside] == [("st_1", stream.trace_id)] * 2
    assert "stream_id" not in after


def test_the_level_holds_for_both_sources() -> None:
    log = Log(level="warning")
    structlog.get_logger("perch").info("quiet")
    logging.getLogger("grpc").info("quiet")
    structlog.get_logger("perch").warning("loud")
    assert [line["event"] for line in log.lines] == ["loud"]


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="LOUD"):
        configure_logging(level="loud", fmt="json", stream=io.StringIO())


def test_configuring_twice_writes_each_line_once() -> None:
    Log()
    log = Log()
    structlog.get_logger("perch").info("once")
    assert len(log.lines) == 1


def test_an_exception_is_one_line_with_its_traceback() -> None:
    log = Log()
    error = RuntimeError(f"refused by https://engine/?api_key={KEY}&x=1")
    structlog.get_logger("perch").error("request_broke", exc_info=error)
    [line] = log.lines
    assert "RuntimeError: refused by" in line["exception"]
    assert KEY not in log.text
    assert "&x=1" in line["exception"]


def test_pretty_is_for_people_and_hides_the_same_secrets() -> None:
    log = Log(fmt="pretty", secrets=(KEY,))
    error = RuntimeError(f"bad key {KEY}")
    structlog.get_logger("perch").error("request_broke", api_key="x", exc_info=error)
    assert "request_broke" in log.text
    assert "RuntimeError: bad key" in log.text
    assert KEY not in log.text
    assert "\x1b[" not in log.text


# --- redaction ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "field", ["authorization", "Authorization", "api_key", "X-API-Key", "token", "password"]
)
def test_a_field_with_a_secret_name_is_not_written(field: str) -> None:
    log = Log()
    structlog.get_logger("perch").info("asked", **{field: "anything", "nested": {field: ["anything"]}})
    [line] = log.lines
    assert line[field] == line["nested"][field] == REDACTED


def test_a_configured_secret_is_not_written_whatever_holds_it() -> None:
    log = Log(secrets=(KEY, "short"))
    structlog.get_logger("perch").info(
        f"key {KEY} refused", odd_name=KEY, held=[{"deep": f"<{KEY}>"}], by=ValueError(KEY), code="short"
    )
    logging.getLogger("grpc").warning("metadata %s", (("x-key", KEY),))
    assert KEY not in log.text
    assert log.lines[0]["event"] == f"key {REDACTED} refused"
    assert log.lines[0]["code"] == REDACTED


def test_a_short_secret_does_not_eat_the_words_it_happens_to_be_in() -> None:
    assert Redaction(["no"])(None, "", {"event": "no", "text": "nothing known"}) == {
        "event": REDACTED,
        "text": "nothing known",
    }


def test_the_longer_of_two_secrets_goes_first() -> None:
    redact = Redaction(["secret-one", "secret-one-and-more"])
    assert redact(None, "", {"event": "<secret-one-and-more>"}) == {"event": f"<{REDACTED}>"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('"GET /ws?api_key=abc&language=en HTTP/1.1"', '"GET /ws?api_key=[redacted]&language=en HTTP/1.1"'),
        ("Authorization: Bearer abc.def", "Authorization: Bearer [redacted]"),
        ("a token of thanks, the token is spent", "a token of thanks, the token is spent"),
    ],
)
def test_text_that_quotes_a_request_loses_its_credentials(line: str, expected: str) -> None:
    assert Redaction()(None, "", {"event": line})["event"] == expected


def test_numbers_and_nothing_pass_as_they_are() -> None:
    event = {"event": "x", "n": 1, "f": 0.5, "yes": True, "none": None}
    assert Redaction(["1"])(None, "", dict(event)) == event


# --- the session lines -------------------------------------------------------------------------------


def write_session(**ended: Any) -> None:
    with Tracing(None).stream_span("st_1", {}):
        log = structlog.get_logger("perch.server.app").bind(backend="mock")
        log.info("session_started", remote="127.0.0.1")
        fields = {"outcome": "done", "duration_s": 2.5, "audio_s": 5.0, "bytes": 160_000, "rtfx": 2.0}
        log.info("session_ended", **fields | ended)


def test_the_lines_of_a_session_fit_the_schema() -> None:
    log = Log()
    write_session(segments=1)
    assert [line["event"] for line in log.lines] == ["session_started", "session_ended"]
    for line in log.lines:
        session_schema().validate(line)


@pytest.mark.parametrize(
    "wrong",
    [{"text": "what was said"}, {"outcome": "Done!"}, {"bytes": -1}, {"rtfx": "fast"}, {"trace_id": "x"}],
)
def test_the_schema_refuses_what_does_not_belong_in_it(wrong: dict[str, Any]) -> None:
    log = Log()
    write_session(**wrong)
    assert not session_schema().is_valid(log.lines[1])


@pytest.mark.parametrize(
    "missing", ["stream_id", "trace_id", "duration_s", "audio_s", "bytes", "rtfx", "outcome"]
)
def test_the_schema_refuses_an_end_without(missing: str) -> None:
    log = Log()
    write_session()
    line = log.lines[1]
    del line[missing]
    assert not session_schema().is_valid(line)
