"""An engine in this process with a client of its own: whatever is recognised here goes the road of every stream."""

import asyncio
import logging
from pathlib import Path
from typing import Self

from perch.asr.riva_client import RivaASRClient, RivaConfig
from perch.core.messages import Final
from perch.core.speech import Hypothesis, RecognitionConfig
from perch.engine.config import EngineConfig
from perch.engine.server import EngineServer
from perch.inference.recogniser import Recogniser

log = logging.getLogger(__name__)

_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 not bound to, translated


class LocalEngine:
    """A recogniser, the server over it and a client of that server. Make it with ``start``, ``aclose`` it."""

    def __init__(self, recogniser: Recogniser, config: EngineConfig) -> None:
        self._config = config
        self.recogniser = recogniser
        self.server = EngineServer(recogniser, config)
        self._client: RivaASRClient | None = None
        self._closing = asyncio.Lock()
        self._is_closed = False

    @classmethod
    async def start(cls, recogniser: Recogniser, config: EngineConfig) -> Self:
        """Serve; the recogniser is the engine's from now on, also if this fails.

        Raises:
            OSError: The address cannot be bound.
        """
        engine = cls(recogniser, config)
        try:
            port = await engine.server.start()
        except BaseException:
            await recogniser.aclose()
            raise
        can = recogniser.capabilities
        log.info(
            "%s, %s, %d streams: serving %s", can.model, can.streaming_mode, can.slots, engine.server.address
        )
        host = _ANY_ADDRESS.get(config.host, config.host)
        address = RivaConfig(endpoints=(f"{host}:{port}",), api_key=config.api_key or "", language="")
        engine._client = RivaASRClient(address)
        return engine

    async def transcribe_file(self, path: Path, config: RecognitionConfig) -> list[Final]:
        """A recording in any common container, whole.

        Raises:
            BadAudio: It cannot be decoded.
            PerchError: The recognition cannot go on.
        """
        return await self._asking.transcribe_file(path, config=config)

    async def recognise(self, pcm: bytes, config: RecognitionConfig) -> list[Hypothesis]:
        """16 kHz mono PCM, whole: finals only.

        Raises:
            PerchError: The recognition cannot go on.
        """
        return await self._asking.recognize(pcm, config)

    async def aclose(self, grace_s: float | None = None) -> None:
        """Let open streams end in time, then stop everything. Whoever calls it again waits for the first."""
        async with self._closing:
            if self._is_closed:
                return
            await self.server.stop(grace_s)
            if self._client is not None:
                await self._client.aclose()
            await self.recogniser.aclose()
            self._is_closed = True

    @property
    def _asking(self) -> RivaASRClient:
        assert self._client is not None, "start it"
        return self._client
