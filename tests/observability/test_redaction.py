"""003-148: no credential comes into the log, whatever quotes it."""

import io
import json
import logging

import pytest
import structlog

from perch.observability.logging import configure_logging

CREDENTIALS = {
    "query": ("GET /v1/listen?key=abc123def&x=1", "abc123def"),
    "token": ("GET /?token=abc123def", "abc123def"),
    "deepgram": ("Authorization: Token 0123456789abcdef", "0123456789abcdef"),
    "bearer": ("Authorization: Bearer abc", "abc"),
    "subprotocol": ("Sec-WebSocket-Protocol: perch.v1, perch-key.abc123def", "abc123def"),
    "openai": ("realtime, openai-insecure-api-key.abc123def", "abc123def"),
    "nim": ("realtime, realtime-token.abc123def", "abc123def"),
    "perch key": ("it is pk_" + "aB3" * 8, "aB3aB3"),
    "browser token": ("it is ek_" + "aB3" * 8, "aB3aB3"),
    "ngc": ("it is nvapi-" + "aB3" * 8, "aB3aB3"),
    "aws": ("it is AKIA" + "ABCD1234" * 2, "ABCD1234"),
    "jwt": ("it is eyJ" + "hbGciOi" * 2 + "." + "eyJzdWIi" * 2 + "." + "c2lnbmF0" * 2, "c2lnbmF0"),
    "pem": ("-----BEGIN " + "PRIVATE KEY-----\nMIIabc\n-----END PRIVATE KEY-----", "MIIabc"),
    "configured": ("it is swordfish-of-the-operator", "swordfish"),
}


@pytest.mark.parametrize("where", CREDENTIALS)
@pytest.mark.parametrize("how", ["event", "field", "nested", "exception", "standard library"])
def test_no_credential_is_written(where: str, how: str) -> None:
    text, credential = CREDENTIALS[where]
    stream = io.StringIO()
    configure_logging(level="debug", fmt="json", stream=stream, secrets=["swordfish-of-the-operator"])
    log = structlog.get_logger("test")
    match how:
        case "event":
            log.info(text)
        case "field":
            log.info("event", detail=text)
        case "nested":
            log.info("event", detail={"deep": [text, (text,)]})
        case "exception":
            try:
                raise ValueError(text)  # noqa: TRY301
            except ValueError:
                log.exception("broke")
        case _:
            logging.getLogger("aiohttp.access").info("%s", text)
    written = stream.getvalue()
    assert json.loads(written.splitlines()[0])
    assert credential not in written


@pytest.mark.parametrize("text", ["token expired", "3 keys", "the key is missing", "monkey=1", "a sk-ip"])
def test_words_are_left_alone(text: str) -> None:
    stream = io.StringIO()
    configure_logging(level="debug", fmt="json", stream=stream)
    structlog.get_logger("test").info(text)
    assert json.loads(stream.getvalue())["event"] == text
