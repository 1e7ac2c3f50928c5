"""Names of engines become endpoints, and change when the names do."""

import asyncio
import socket
from typing import Any

import pytest

from fakes.riva_server import ScriptedRiva, serving
from perch.asr import discovery
from perch.asr.riva_client import RivaASRClient, RivaConfig


class Names:
    """What the resolver of the event loop answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
        self.addresses = list(addresses)
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", self)

    async def __call__(self, host: str, port: int, **_: Any) -> list[Any]:
        if not self.addresses:
            raise socket.gaierror("no such name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, port)) for address in self.addresses]


async def test_plain_endpoints_need_no_look_up() -> None:
    assert await discovery.resolve(["riva:50051", "[::1]:1"], 1) == {"riva:50051": "riva", "[::1]:1": "::1"}


async def test_a_name_is_each_of_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    Names(monkeypatch, "10.0.0.2", "10.0.0.1", "fd00::1")
    found = await discovery.resolve(["dns:riva.internal:50051"], 1)
    assert found == dict.fromkeys(["10.0.0.1:50051", "10.0.0.2:50051", "[fd00::1]:50051"], "riva.internal")


async def test_the_pool_follows_the_name_and_keeps_what_it_knew_when_the_name_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving(ScriptedRiva()) as address:
        port = address.rpartition(":")[2]
        names = Names(monkeypatch, "127.0.0.1")
        asking = RivaASRClient(RivaConfig(endpoints=(f"dns:riva.internal:{port}",), rpc_timeout_s=1.0))

        def known() -> list[str]:
            return [endpoint.address for endpoint in asking.pool.endpoints]

        assert await asking.models()
        assert known() == [address]
        names.addresses = ["127.0.0.1", "127.0.0.9"]
        assert await asking.models(), "one address that does not answer is not the end"
        assert known() == [address, f"127.0.0.9:{port}"]
        names.addresses = []
        assert await asking.models()
        assert len(known()) == 2
        names.addresses = ["127.0.0.1"]
        assert await asking.models()
        assert known() == [address]
        await asking.aclose()
