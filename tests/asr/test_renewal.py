"""003-147: certificates and the key towards Riva are replaced while it runs; open streams go on."""

import shutil
from pathlib import Path

import grpc
import pytest
import trustme

from fakes.riva_server import ScriptedRiva, serving
from perch import errors
from perch.asr.channels import ChannelConfig
from perch.asr.riva_client import RivaASRClient, RivaConfig

TRANSPORTS = ["http2", "grpc"]


def write(folder: Path, authority: trustme.CA) -> tuple[Path, Path, Path]:
    """CA, certificate and key of a client, as an operator replaces them."""
    issued = authority.issue_cert("client")
    paths = folder / "ca.pem", folder / "cert.pem", folder / "key.pem"
    authority.cert_pem.write_to_path(paths[0])
    issued.cert_chain_pems[0].write_to_path(paths[1])
    issued.private_key_pem.write_to_path(paths[2])
    return paths


def mutual(authority: trustme.CA) -> grpc.ServerCredentials:
    issued = authority.issue_cert("127.0.0.1", "localhost")
    pair = (issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes())
    return grpc.ssl_server_credentials([pair], authority.cert_pem.bytes(), True)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_new_certificates_are_used_without_a_restart_and_bad_ones_are_not(
    transport: str, tmp_path: Path
) -> None:
    right, wrong = trustme.CA(), trustme.CA()
    root, cert, key = write(tmp_path, wrong)
    channel = ChannelConfig(transport=transport, root_cert=root, client_cert=cert, client_key=key)  # type: ignore[arg-type]
    async with serving(ScriptedRiva(), mutual(right)) as address:
        client = RivaASRClient(RivaConfig(endpoints=(address,), channel=channel))
        try:
            with pytest.raises(errors.EngineFault):
                await client.models()
            write(tmp_path, right)
            assert await client.models(), "the next look finds the new files"
            shutil.copy(root, key)  # no key at all
            assert await client.models(), "files that are no good change nothing"
        finally:
            await client.aclose()


async def test_a_replaced_key_is_sent_with_the_next_call(tmp_path: Path) -> None:
    """003-142."""
    file = tmp_path / "key"
    file.write_text("first\n", encoding="utf-8")
    riva = ScriptedRiva()
    async with serving(riva) as address:
        client = RivaASRClient(RivaConfig(endpoints=(address,), api_key_file=file))
        try:
            await client.models()
            file.write_text("second, longer\n", encoding="utf-8")
            await client.models()
            file.unlink()
            await client.models()
        finally:
            await client.aclose()
    sent = [dict(call.metadata)["authorization"] for call in riva.calls]
    assert list(dict.fromkeys(sent)) == ["Bearer first", "Bearer second, longer"]
