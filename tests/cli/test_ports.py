"""Ports that are taken, found out before a model is loaded."""

import socket
import subprocess
from collections.abc import Iterator

import pytest

from perch.cli.ports import try_port
from processes import ROOT, perch


def listening(host: str = "127.0.0.1", *, shared: bool = False) -> socket.socket:
    taken = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    if shared:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    taken.bind((host, 0))
    taken.listen()
    return taken


def port_of(taken: socket.socket) -> int:
    port: int = taken.getsockname()[1]
    return port


@pytest.fixture
def port() -> Iterator[int]:
    with listening() as taken:
        yield port_of(taken)


def test_a_port_that_is_taken_is_named_and_a_free_one_is_not(port: int) -> None:
    with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
        try_port("127.0.0.1", port)
    try_port("127.0.0.1", 0)


def test_a_name_that_is_no_host_is_told_with_it() -> None:
    with pytest.raises(OSError, match=r"cannot listen on no\.such\.invalid:8443: "):
        try_port("no.such.invalid", 8443)


def test_processes_that_share_a_port_on_purpose_do() -> None:
    with listening(shared=True) as taken:
        try_port("127.0.0.1", port_of(taken), shared=True)
        with pytest.raises(OSError, match="already in use"):
            try_port("127.0.0.1", port_of(taken))


def test_all_of_ipv6_is_free_while_somebody_has_all_of_ipv4() -> None:
    with listening("0.0.0.0") as taken:
        try_port("::", port_of(taken))


@pytest.mark.parametrize("verb", ["demo", "serve"])
def test_the_gateway_does_not_start_an_engine_for_a_port_that_is_taken(verb: str, port: int) -> None:
    done = subprocess.run(
        perch(verb, "--port", str(port), "--backend", "engine"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == f"perch: cannot listen on 127.0.0.1:{port}: Address already in use\n"
