"""What the tests of the client share."""

import pytest

import transports


@pytest.fixture(params=["http2", "grpc"])
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each of the two transports in turn."""
    monkeypatch.setattr(transports, "current", request.param)
    return str(request.param)
