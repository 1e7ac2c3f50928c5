"""Secrets kept in AWS, asked for over a real socket from a server that speaks its protocol."""

import asyncio
import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from perch import settings
from perch.server.secrets_manager import SecretUnavailable, resolve

boto3 = pytest.importorskip("boto3", reason="needs the aws extra")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:botocore")


@pytest.fixture(scope="module")
def aws() -> Iterator[str]:
    """A server with two secrets; its address."""
    program = Path(sys.executable).with_name("moto_server")
    if not program.exists() and shutil.which("moto_server") is None:
        pytest.skip("needs moto[server]")
    command = [str(program) if program.exists() else "moto_server", "-H", "127.0.0.1", "-p", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        url = next(
            found[0] for line in process.stderr if (found := re.search(r"http://127\.0\.0\.1:\d+", line))
        )
        yield url
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def stored(aws: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    client = boto3.client("secretsmanager")
    existing = {secret["Name"] for secret in client.list_secrets()["SecretList"]}
    for name, text in (
        ("perch/riva", "nvapi-planted"),
        ("perch/all", json.dumps({"keys": "one two", "n": 1})),
    ):
        if name not in existing:
            client.create_secret(Name=name, SecretString=text)
    if "perch/binary" not in existing:
        client.create_secret(Name="perch/binary", SecretBinary=b"\x00")


@pytest.mark.usefixtures("stored")
def test_a_secret_by_name_by_arn_and_by_a_key_of_its_json() -> None:
    """003-143: the manager's side."""
    assert resolve("aws:perch/riva") == "nvapi-planted"
    arn = boto3.client("secretsmanager").describe_secret(SecretId="perch/riva")["ARN"]
    assert resolve(f"aws:{arn}") == "nvapi-planted"
    assert resolve("aws:perch/all#keys") == "one two"


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize(
    ("reference", "why"),
    [
        ("aws:perch/none", "ResourceNotFoundException"),
        ("aws:perch/all#other", "not a JSON object with 'other'"),
        ("aws:perch/riva#keys", "not a JSON object with 'keys'"),
        ("aws:perch/all#n", "not text"),
        ("aws:perch/binary", "binary"),
        ("aws:", "named as aws:ID"),
        ("vault:x", "named as aws:ID"),
    ],
)
def test_what_cannot_be_had_is_said_without_what_is_in_it(reference: str, why: str) -> None:
    with pytest.raises(SecretUnavailable, match=why) as unavailable:
        resolve(reference)
    assert "planted" not in str(unavailable.value)


@pytest.mark.usefixtures("stored")
def test_settings_take_secrets_from_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RIVA_API_KEY_SECRET", "aws:perch/riva")
    monkeypatch.setenv("PERCH_API_KEYS_SECRET", "aws:perch/all#keys")
    loaded = settings.load()
    assert loaded.riva_api_key == "nvapi-planted"
    assert loaded.gateway().api_keys == ("one", "two")
    assert {"nvapi-planted", "one", "two"} <= set(loaded.secrets())
    monkeypatch.setenv("RIVA_API_KEY_SECRET", "aws:perch/none")
    with pytest.raises(settings.InvalidSettings, match="RIVA_API_KEY_SECRET: AWS refused"):
        settings.load()


@pytest.mark.usefixtures("stored")
def test_a_manager_that_is_away_is_an_error_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(SecretUnavailable, match="not reached"):
            resolve("aws:perch/riva")


async def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "boto3.py").write_text("raise ImportError", encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "from perch.server.secrets_manager import resolve; resolve('aws:x')"),
        env={"PYTHONPATH": f"{tmp_path}:{':'.join(sys.path)}"},
        stderr=asyncio.subprocess.PIPE,
    )
    _, printed = await process.communicate()
    assert "perch-asr[aws]" in printed.decode()
