"""Which hub, as whom; and what a request does with redirects, proxies and waits."""

import email.utils
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

from perch.errors import BadConfig, ModelUnavailable
from perch.registry.http import Broken, Client, _proxy_of, _target
from perch.registry.hub import Hub


def test_the_variables_of_the_hubs_own_programs_count() -> None:
    hub = Hub.from_environment({"HF_ENDPOINT": "https://mirror.example/", "HF_TOKEN": " hf_secret\n"})
    assert hub == Hub(URL("https://mirror.example"), "hf_secret", offline=False)
    assert hub.page("a/b") == "https://mirror.example/a/b"
    assert "hf_secret" not in repr(hub)
    assert Hub.from_environment({}) == Hub(URL("https://huggingface.co"), None, offline=False)


@pytest.mark.parametrize(
    ("environment", "offline"),
    [
        ({"PERCH_OFFLINE": "1"}, True),
        ({"PERCH_OFFLINE": "true"}, True),
        ({"HF_HUB_OFFLINE": "YES"}, True),
        ({"PERCH_OFFLINE": "0"}, False),
        ({"HF_HUB_OFFLINE": ""}, False),
    ],
)
def test_offline_is_asked_for_by_either_variable(environment: dict[str, str], offline: bool) -> None:
    assert Hub.from_environment(environment).offline is offline
    assert Hub.from_environment(environment, offline=True).offline


@pytest.mark.parametrize("address", ["mirror.example", "ftp://x", "https://", "http://[x"])
def test_an_address_that_is_none_is_named(address: str) -> None:
    with pytest.raises(BadConfig, match="HF_ENDPOINT"):
        Hub.from_environment({"HF_ENDPOINT": address})


def test_a_redirect_keeps_its_signature_and_its_encryption() -> None:
    here = URL("https://hub.example/a/b")
    assert (
        str(_target(here, "https://cdn.example/x?sig=a%2Bb%2f&e=1"))
        == "https://cdn.example/x?sig=a%2Bb%2f&e=1"
    )
    assert _target(here, "/c") == URL("https://hub.example/c")
    with pytest.raises(ModelUnavailable, match="without encryption"):
        _target(here, "http://cdn.example/x")


def test_the_proxy_of_the_environment_is_used_with_its_login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://me:pw@proxy.example:3128")
    monkeypatch.setenv("no_proxy", "inside.example")
    login = {"Proxy-Authorization": "Basic bWU6cHc="}
    assert _proxy_of(URL("https://hub.example/x")) == (URL("http://proxy.example:3128"), login)
    assert _proxy_of(URL("https://inside.example/x")) == (None, {})


@pytest.fixture
async def odd() -> AsyncIterator[URL]:
    """A server with answers that a hub should not give."""

    async def again(request: web.Request) -> web.Response:
        raise web.HTTPFound(request.path)

    async def later(request: web.Request) -> web.Response:
        moment = email.utils.format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
        return web.Response(status=503, headers={"Retry-After": moment})

    async def page(request: web.Request) -> web.Response:
        return web.Response(text="<html>", content_type="text/html")

    async def nowhere(request: web.Request) -> web.Response:
        raise web.HTTPFound("file:///etc/passwd")

    application = web.Application()
    for handler in (again, later, page, nowhere):
        application.router.add_get(f"/{handler.__name__}", handler)
    async with TestServer(application) as server:
        yield server.make_url("")


async def test_a_redirect_in_circles_ends(odd: URL) -> None:
    with pytest.raises(ModelUnavailable, match="in circles"):
        async with Client(odd) as client:
            await client.get_json(odd / "again")


async def test_a_redirect_to_something_else_than_the_web_is_refused(odd: URL) -> None:
    with pytest.raises(ModelUnavailable, match="no address that can be fetched"):
        async with Client(odd) as client:
            await client.get_json(odd / "nowhere")


async def test_a_wait_may_be_told_as_a_date(odd: URL) -> None:
    with pytest.raises(Broken) as broken:
        async with Client(odd) as client:
            await client.get_json(odd / "later")
    assert 25 < broken.value.retry_after <= 30


async def test_an_answer_that_is_not_json_may_be_one_next_time(odd: URL) -> None:
    with pytest.raises(Broken, match="not JSON"):
        async with Client(odd) as client:
            await client.get_json(odd / "page")
