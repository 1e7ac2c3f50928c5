"""The transport the client under test uses: tests that ask for the ``transport`` fixture run over both."""

from typing import Any, Literal

from perch.asr.channels import ChannelConfig

current: Literal["http2", "grpc"] = "http2"


def channel(**fields: Any) -> ChannelConfig:
    """A ``ChannelConfig`` with ``fields``, over the current transport."""
    return ChannelConfig(**({"transport": current} | fields))
