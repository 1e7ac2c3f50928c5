"""The server around the service: health, reflection, TLS, stopping."""

import asyncio
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import Any

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from engines import (
    Conversation,
    engine_over,
    finals,
    recognise,
    scripted_engine,
    stub_of,
    texts,
    tone_speech,
)
from perch.engine.config import EngineConfig, ServerTls
from perch.engine.server import EngineServer
from perch.inference.scripted import CAPABILITIES, ScriptedRecogniser
from perch.riva.proto import SERVICE, asr_grpc

SPEECH = tone_speech("hello perch")
SOON = 20.0  # seconds: of what is done in a moment, on a machine that has other work
Status = health_pb2.HealthCheckResponse


class Mended(ScriptedRecogniser):
    """One that can be healthy again."""

    def mend(self) -> None:
        self._failed.clear()


def health_of(channel: Any) -> Any:
    return health_pb2_grpc.HealthStub(channel)


async def check(server: EngineServer, service: str = "") -> int:
    async with grpc.aio.insecure_channel(server.address) as channel:
        answer = await health_of(channel).Check(health_pb2.HealthCheckRequest(service=service))
        return int(answer.status)


@pytest.mark.parametrize("service", ["", SERVICE])
async def test_a_running_engine_is_serving(service: str) -> None:
    async with scripted_engine() as server:
        assert await check(server, service) == Status.SERVING


async def test_an_unknown_service_is_not_found() -> None:
    async with scripted_engine() as server:
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await check(server, "nvidia.riva.tts.RivaSpeechSynthesis")
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


async def test_health_follows_the_recogniser_down_and_up_soon() -> None:
    recogniser = Mended()
    async with engine_over(recogniser) as server, grpc.aio.insecure_channel(server.address) as channel:
        watch = health_of(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == Status.SERVING
        async with asyncio.timeout(SOON):
            recogniser.fail("killed by a test")
            assert (await watch.read()).status == Status.NOT_SERVING
            assert await check(server) == Status.NOT_SERVING
        async with asyncio.timeout(SOON):
            recogniser.mend()
            assert (await watch.read()).status == Status.SERVING
        watch.cancel()


async def test_a_watcher_that_leaves_does_not_leave_the_others_in_the_dark() -> None:
    recogniser = ScriptedRecogniser()
    async with engine_over(recogniser) as server, grpc.aio.insecure_channel(server.address) as channel:
        stays, leaves = (health_of(channel).Watch(health_pb2.HealthCheckRequest()) for _ in range(2))
        assert (await stays.read()).status == Status.SERVING
        assert (await leaves.read()).status == Status.SERVING
        leaves.cancel()
        assert await leaves.code() is grpc.StatusCode.CANCELLED
        await check(server)  # the server has dealt with the cancellation by the time it answers this
        recogniser.fail("killed by a test")
        async with asyncio.timeout(SOON):
            assert (await stays.read()).status == Status.NOT_SERVING
        stays.cancel()


async def test_an_engine_that_starts_with_a_dead_recogniser_says_so() -> None:
    recogniser = ScriptedRecogniser()
    recogniser.fail("killed by a test")
    async with engine_over(recogniser) as server:
        assert await check(server) == Status.NOT_SERVING


async def test_reflection_names_the_services() -> None:
    async with scripted_engine() as server, grpc.aio.insecure_channel(server.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        answer = await call.read()
    services = {service.name for service in answer.list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health"} <= services


# --- starting and stopping


async def test_a_port_that_is_taken_is_an_error_that_names_it() -> None:
    async with scripted_engine() as server:
        second = EngineServer(ScriptedRecogniser(), EngineConfig(port=server.port))
        with pytest.raises(OSError, match=str(server.port)):
            await second.start()


TAKEN = """
import asyncio, gc, logging, socket
from perch.engine.config import EngineConfig
from perch.engine.server import EngineServer
from perch.inference.scripted import ScriptedRecogniser

class Keeper(logging.Handler):
    def __init__(self):
        super().__init__()
        self.records = []

    def emit(self, record):
        self.records.append(record)

async def main():
    keeper = Keeper()
    logging.basicConfig(level=logging.DEBUG, handlers=[keeper])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = EngineConfig(port=taken.getsockname()[1])
        for _ in range(20):
            for _ in range(10):
                try:
                    await EngineServer(ScriptedRecogniser(), config).start()
                except OSError:
                    gc.collect()
            keeper.records.clear()
            others = [object() for _ in range(2000)]

asyncio.run(main())
print("alive")
"""


def test_a_server_that_could_not_start_leaves_nothing_broken_behind() -> None:
    """gRPC's log at DEBUG held a pointer to the server that was gone; processes crashed, some time later."""
    done = subprocess.run([sys.executable, "-c", TAKEN], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "alive"), done.stderr


async def test_stopping_lets_an_open_stream_finish_within_the_grace() -> None:
    async with scripted_engine() as server, stub_of(server) as stub:
        conversation = Conversation(stub)
        await conversation.configure()
        await conversation.speak(SPEECH)
        stopping = asyncio.create_task(server.stop(grace_s=60))
        assert texts(finals(await conversation.hang_up())) == ["hello perch"]
        async with asyncio.timeout(SOON):
            await stopping
        assert server.scheduler.taken == 0


async def test_stopping_does_not_wait_longer_than_the_grace() -> None:
    async with scripted_engine() as server, stub_of(server) as stub:
        conversation = Conversation(stub)
        await conversation.configure()
        await conversation.speak(SPEECH)
        async with asyncio.timeout(SOON):
            await server.stop(grace_s=0.1)
        assert server.scheduler.taken == 0
        assert await conversation.call.code() is not grpc.StatusCode.OK


async def test_a_second_stop_hurries_the_first() -> None:
    async with scripted_engine() as server, stub_of(server) as stub:
        conversation = Conversation(stub)
        await conversation.configure()
        await conversation.speak(SPEECH)
        stopping = asyncio.create_task(server.stop(grace_s=30))
        await asyncio.sleep(0.05)
        async with asyncio.timeout(SOON):
            await server.stop(grace_s=0)
            await stopping


async def test_watchers_are_told_of_the_end_and_do_not_hold_it_up() -> None:
    async with scripted_engine() as server, grpc.aio.insecure_channel(server.address) as channel:
        watch = health_of(channel).Watch(health_pb2.HealthCheckRequest())
        unknown = health_of(channel).Watch(health_pb2.HealthCheckRequest(service="x"))
        assert (await watch.read()).status == Status.SERVING
        assert (await unknown.read()).status == Status.SERVICE_UNKNOWN
        async with asyncio.timeout(SOON):
            await server.stop(grace_s=30)
            assert (await watch.read()).status == Status.NOT_SERVING
            assert await watch.read() is grpc.aio.EOF


@pytest.mark.parametrize(("host", "address"), [("::1", "[::1]:0"), ("127.0.0.1", "127.0.0.1:0")])
async def test_an_address_is_written_as_grpc_wants_it(host: str, address: str) -> None:
    assert EngineServer(ScriptedRecogniser(), EngineConfig(host=host)).address == address


@pytest.mark.parametrize(("wanted", "given"), [(None, 4), (2, 2), (9, 4)])
async def test_slots_can_be_fewer_than_the_recogniser_has_but_not_more(
    wanted: int | None, given: int
) -> None:
    server = EngineServer(ScriptedRecogniser(replace(CAPABILITIES, slots=4)), EngineConfig(slots=wanted))
    assert server.scheduler.slots == given


# --- TLS


@dataclass(frozen=True)
class Pki:
    """One authority, a server's and a client's certificate by it, and a stranger's."""

    ca: bytes
    server: ServerTls
    client_key: bytes
    client_cert: bytes
    stranger_key: bytes
    stranger_cert: bytes


@pytest.fixture(scope="module")
def pki() -> Pki:
    authority, other = trustme.CA(), trustme.CA()
    server = authority.issue_cert("localhost", "127.0.0.1")
    client = authority.issue_cert("client@perch.test")
    stranger = other.issue_cert("stranger@perch.test")
    chain = b"".join(blob.bytes() for blob in server.cert_chain_pems)
    return Pki(
        ca=authority.cert_pem.bytes(),
        server=ServerTls(chain, server.private_key_pem.bytes()),
        client_key=client.private_key_pem.bytes(),
        client_cert=client.cert_chain_pems[0].bytes(),
        stranger_key=stranger.private_key_pem.bytes(),
        stranger_cert=stranger.cert_chain_pems[0].bytes(),
    )


def mutual(pki: Pki) -> ServerTls:
    return ServerTls(pki.server.certificate, pki.server.key, client_ca=pki.ca)


async def words_over_tls(server: EngineServer, credentials: Any) -> list[str]:
    async with grpc.aio.secure_channel(f"localhost:{server.port}", credentials) as channel:
        responses = await recognise(asr_grpc.RivaSpeechRecognitionStub(channel), SPEECH)
    return texts(finals(responses))


async def test_tls_serves_clients_that_trust_the_authority(pki: Pki) -> None:
    async with scripted_engine(tls=pki.server) as server:
        assert await words_over_tls(server, grpc.ssl_channel_credentials(pki.ca)) == ["hello perch"]


async def test_a_client_certificate_opens_an_engine_that_wants_one(pki: Pki) -> None:
    credentials = grpc.ssl_channel_credentials(pki.ca, pki.client_key, pki.client_cert)
    async with scripted_engine(tls=mutual(pki)) as server:
        assert await words_over_tls(server, credentials) == ["hello perch"]


async def test_without_a_client_certificate_of_the_authority_there_is_no_connection(pki: Pki) -> None:
    none = grpc.ssl_channel_credentials(pki.ca)
    strangers = grpc.ssl_channel_credentials(pki.ca, pki.stranger_key, pki.stranger_cert)
    async with scripted_engine(tls=mutual(pki)) as server:
        for credentials in (none, strangers):
            with pytest.raises(grpc.aio.AioRpcError) as refusing:
                await words_over_tls(server, credentials)
            assert refusing.value.code() is grpc.StatusCode.UNAVAILABLE
