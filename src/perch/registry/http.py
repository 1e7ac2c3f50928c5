"""Requests to a hub and its content network: redirects, credentials, time limits, and which failures may pass."""

import base64
import email.utils
import json
import os
import ssl
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import aiohttp
from yarl import URL

import perch
from perch.errors import ModelUnavailable

_REDIRECTS = {301, 302, 303, 307, 308}
_MAX_REDIRECTS = 10
_MAY_PASS = {408, 425, 429}
_MAX_ANSWER = 64 << 20
"""Bytes of an answer that is read as a whole."""


class Broken(Exception):
    """It did not work this time; the text says how, in the middle of a sentence."""

    def __init__(self, text: str, *, retry_after: float = 0.0) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class Unreachable(Broken):
    """No connection came about: probably there is no network."""


class Refused(Exception):
    """A server's answer that will not be another one next time."""

    def __init__(self, url: URL, status: int, code: str, message: str) -> None:
        super().__init__(f"{url.host} answered {status}{f' ({message})' if message else ''} for {url.path}")
        self.url = url
        self.status = status
        self.code = code
        self.message = message


@dataclass(slots=True)
class Client:
    """GET requests; the token goes to ``home`` and nowhere else, whoever redirects there.

    Args:
        home: The only scheme, host and port that see ``token``.
        token: Sent as a bearer; None sends none.
        connect_s: For looking up a name and connecting.
        read_s: Without a byte.
    """

    home: URL
    token: str | None = field(default=None, repr=False)
    connect_s: float = 5.0
    read_s: float = 30.0
    _session: aiohttp.ClientSession | None = field(default=None, init=False, repr=False)

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(
            total=None, connect=self.connect_s, sock_connect=self.connect_s, sock_read=self.read_s
        )
        # No compression: what is counted and resumed is the file itself.
        headers = {"User-Agent": f"perch/{perch.__version__}", "Accept-Encoding": "identity"}
        self._session = aiohttp.ClientSession(timeout=timeout, headers=headers, auto_decompress=False)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    @asynccontextmanager
    async def get(
        self, url: URL, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer (200, 206 or 416) at the end of all redirects, to be read within the block.

        Raises:
            Broken: Trying again may help; also while the body is read.
            Refused: It will not.
            ModelUnavailable: The address cannot be one.
        """
        try:
            for _ in range(_MAX_REDIRECTS):
                async with self._request(url, headers or {}) as response:
                    if response.status not in _REDIRECTS:
                        _check(response)
                        yield response
                        return
                    url = _target(url, response.headers.get("Location", ""))
        except aiohttp.ClientConnectorCertificateError as error:
            raise _untrusted(url) from error
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError) as error:
            raise ModelUnavailable(f"{url} is no address that can be fetched.") from error
        except aiohttp.ClientHttpProxyError as error:
            raise ModelUnavailable(f"The proxy refuses {url.host} (status {error.status}).") from error
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Unreachable(f"{url.host} cannot be reached ({_reason(error)})") from error
        except TimeoutError as error:
            raise Broken(f"{url.host} sent nothing for {self.read_s:g} s") from error
        except ssl.SSLError as error:
            raise Broken(f"the encrypted connection to {url.host} failed") from error
        except (aiohttp.ClientError, ConnectionError) as error:
            raise Broken(f"the connection to {url.host} broke") from error
        raise ModelUnavailable(f"{url.host} redirects in circles.")

    def _request(self, url: URL, headers: Mapping[str, str]) -> Any:
        assert self._session is not None
        own = {"Authorization": f"Bearer {self.token}"} if self.token and _same_origin(url, self.home) else {}
        proxy, login = _proxy_of(url)
        if url.scheme == "http":  # the proxy reads the request itself
            own |= login
        return self._session.get(
            url, headers={**headers, **own}, allow_redirects=False, proxy=proxy, proxy_headers=login
        )

    async def get_json(self, url: URL) -> Any:
        """An answer in JSON; the errors are those of ``get``."""
        async with self.get(url) as response:
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > _MAX_ANSWER:
                    raise Broken(f"{url.host} answered without end")
        try:
            return json.loads(body)
        except ValueError as error:
            raise Broken(f"{url.host} answered something that is not JSON") from error


def _check(response: aiohttp.ClientResponse) -> None:
    if response.status in {200, 206, 416}:
        return
    host, status = response.url.host, response.status
    if status in _MAY_PASS or status >= 500:
        what = "asks for fewer requests" if status == 429 else "is not well"
        raise Broken(f"{host} {what} (status {status})", retry_after=_retry_after(response))
    headers = response.headers
    raise Refused(
        response.url, status, headers.get("X-Error-Code", ""), headers.get("X-Error-Message", "")[:200]
    )


def _retry_after(response: aiohttp.ClientResponse) -> float:
    """Seconds; the header has a number or a date."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return 0.0
    return max(0.0, (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _target(url: URL, location: str) -> URL:
    """Where a redirect leads, to the letter: addresses of content networks are signed."""
    target = url.join(URL(location, encoded=True))
    if url.scheme == "https" and target.scheme != "https":
        raise ModelUnavailable(
            f"{url.host} redirects to an address without encryption; that is not followed."
        )
    return target


def _same_origin(one: URL, other: URL) -> bool:
    return (one.scheme, one.host, one.port) == (other.scheme, other.host, other.port)


def _proxy_of(url: URL) -> tuple[URL | None, dict[str, str]]:
    """The proxy that the environment names for ``url``, and the header with the login that is in its address.

    The client library's own way would read .netrc too, and refuse to send a token beside what it finds.
    """
    proxies = urllib.request.getproxies()
    if url.scheme not in proxies or not url.host or urllib.request.proxy_bypass(url.host):
        return None, {}
    proxy = URL(proxies[url.scheme])
    if not proxy.user:
        return proxy, {}
    login = base64.b64encode(f"{proxy.user}:{proxy.password or ''}".encode()).decode()
    return proxy.with_user(None), {"Proxy-Authorization": f"Basic {login}"}


def _reason(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its name is not known here"
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno
        return os.strerror(number).lower() if number else "no connection"
    return "no answer"


def _untrusted(url: URL) -> ModelUnavailable:
    return ModelUnavailable(
        f"The certificate of {url.host} is not trusted. If a proxy of your network signs it, set SSL_CERT_FILE "
        "to a file with that proxy's CA."
    )
