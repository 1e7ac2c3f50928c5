"""``RivaASRClient``: speech recognition by Riva, Speech NIM or any server that speaks their gRPC."""

import asyncio
import time
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import grpc
import grpc.aio
import structlog

from perch import errors
from perch.asr import discovery
from perch.asr.attempt import Attempt, AttemptTimeouts
from perch.asr.base import ASRClient, ASRStream, ClientLoad, EndpointLoad, StreamState, feed_and_run
from perch.asr.channels import ChannelConfig, Channels, Metadata
from perch.asr.mock import MockASRClient
from perch.asr.pool import Endpoint, EndpointPool, PoolConfig
from perch.asr.stream import ResumableStream, StreamConfig
from perch.asr.watch import Unwatched, Watch
from perch.core import languages
from perch.core.audio import RATE, samples_to_bytes
from perch.core.messages import Backend, Notice
from perch.core.speech import Endpointing, Hypothesis, ModelInfo, RecognitionConfig
from perch.riva import convert, wire
from perch.riva.proto import GET_CONFIG, HEALTH_CHECK, RECOGNIZE, asr, health_pb2
from perch.riva.status import Status, error_from_status

log = structlog.get_logger(__name__)

_CHECK_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class RivaConfig:
    """Where Riva is and how to talk to it.

    ``model`` and ``language`` are what a stream gets that asks for none; an empty model lets Riva choose. Where
    the model is known not to speak the language, the stream gets the model's own.
    """

    endpoints: tuple[str, ...] = ("127.0.0.1:50051",)
    """``host:port``, or ``dns:host:port`` for every address of a name, looked up with each ``models()``."""
    channel: ChannelConfig = field(default_factory=ChannelConfig)
    api_key: str = field(default="", repr=False)
    """Sent as ``authorization: Bearer …`` on every RPC."""
    api_key_file: Path | None = None
    """Holds the key, in place of ``api_key``; read again when it changes."""
    metadata: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Sent on every RPC, for example ``("function-id", "…")``."""
    model: str = ""
    language: str = "en-US"
    endpointing: Endpointing | None = None
    word_times: bool = True
    """Ask Riva for word times whatever the client asks: replay and segment times rest on them."""
    backend: Backend = field(default_factory=lambda: Backend("riva"))
    rpc_timeout_s: float = 10.0
    recognize_timeout_s: float = 300.0
    timeouts: AttemptTimeouts = field(default_factory=AttemptTimeouts)
    stream: StreamConfig = field(default_factory=StreamConfig)
    pool: PoolConfig = field(default_factory=PoolConfig)


class RivaASRClient(ASRClient):
    """An ``ASRClient`` over gRPC. Make it on the event loop that uses it, and ``aclose`` it.

    Args:
        config: Where Riva is and how to talk to it.
        mock_mode: Make a ``MockASRClient`` instead, which has the same interface and needs no Riva.
        watch: Who is told of attempts, failovers and replays.
    """

    def __new__(
        cls,
        config: RivaConfig | None = None,  # noqa: ARG004
        *,
        mock_mode: bool = False,
        watch: Watch | None = None,  # noqa: ARG004
    ) -> Self:
        return MockASRClient() if mock_mode else super().__new__(cls)  # type: ignore[return-value]

    def __init__(
        self, config: RivaConfig | None = None, *, mock_mode: bool = False, watch: Watch | None = None
    ) -> None:
        del mock_mode  # __new__ has seen to it
        self._config = config or RivaConfig()
        self._watch = watch or Unwatched()
        self._streams: weakref.WeakSet[ResumableStream] = weakref.WeakSet()
        self._hosts = discovery.initial(self._config.endpoints)
        self._pool = EndpointPool(tuple(self._hosts), self._config.pool)
        self._channels: dict[Endpoint, Channels] = {}
        self._metadata = _metadata(self._config)
        self._retired: list[Channels] = []
        """Made with credentials that were replaced; closed when their last stream ends."""
        self._credentials = self._stamp()
        self._attempts: set[Attempt] = set()
        self._watchdog: asyncio.Task[None] | None = None

    @property
    def backend(self) -> Backend:
        return self._config.backend

    @property
    def pool(self) -> EndpointPool:
        return self._pool

    def stream(
        self,
        config: RecognitionConfig,
        *,
        stream_id: str = "",
        state: StreamState | None = None,
        recording: bool = False,
    ) -> ASRStream:
        wanted = self._completed(config)
        failed: list[Endpoint] = []  # the one this stream saw fail last, to be tried after all others
        open_attempt = partial(self._attempt, wanted, stream_id, failed, recording=recording)
        limits = self._config.stream
        if recording:
            limits = replace(limits, full_s=limits.recording_full_s)
        stream = ResumableStream(open_attempt, limits, state, watch=self._watch)
        self._streams.add(stream)
        return stream

    def load(self) -> ClientLoad:
        streams = list(self._streams)
        return ClientLoad(
            lag=max((stream.lag for stream in streams), default=0),
            spool_bytes=sum(stream.spooled for stream in streams),
            endpoints=tuple(
                EndpointLoad(e.address, e.active, e.breaker.current_state.replace("-", "_"))
                for e in self._pool.endpoints
            ),
        )

    def room(self) -> int | None:
        return self._pool.room()

    async def recognize(self, pcm: bytes, config: RecognitionConfig) -> list[Hypothesis]:
        """Recognise a whole recording; an engine without an offline model is given it as a stream."""
        if len(pcm) >= self._config.channel.max_message_bytes:
            return await self._recognize_streaming(pcm, config)
        try:
            return await self._recognize_offline(pcm, self._completed(config))
        except errors.ModelUnavailable:
            return await self._recognize_streaming(pcm, config)

    async def models(self) -> list[ModelInfo]:
        """Ask every endpoint, and remember which of them serve what; the answers together."""
        await self._renew()
        await self._discover()
        endpoints = list(self._pool.endpoints)
        problems = [p for p in await asyncio.gather(*map(self._check, endpoints)) if p is not None]
        if len(problems) == len(endpoints):
            raise problems[0]
        listed = {(model.name, model.streaming): model for e in endpoints if e.serving for model in e.models}
        return list(listed.values())

    async def _renew(self) -> None:
        """Certificates or the key may have been replaced: new connections use them, open streams go on."""
        stamp = await asyncio.to_thread(self._stamp)
        if stamp != self._credentials:
            self._credentials = stamp
            try:
                self._replace_channels(await asyncio.to_thread(_metadata, self._config))
            except (errors.EngineRefused, OSError, ValueError) as error:
                log.warning("riva_credentials_kept", problem=str(error.__cause__ or error))
        for channels in [channels for channels in self._retired if not any(channels.streams)]:
            self._retired.remove(channels)
            await channels.aclose()

    def _replace_channels(self, metadata: Metadata) -> None:
        fresh = {endpoint: self._open(endpoint, metadata) for endpoint in self._channels}
        self._retired += self._channels.values()
        self._channels, self._metadata = fresh, metadata
        log.info("riva_credentials_renewed")

    def _stamp(self) -> tuple[tuple[int, int] | None, ...]:
        """What tells one version of the credentials' files from the next."""
        channel = self._config.channel
        files = (channel.root_cert, channel.client_cert, channel.client_key, self._config.api_key_file)
        return tuple(_version(path) for path in files if path is not None)

    async def _discover(self) -> None:
        """Look up the names that stand for several addresses; what was known stays if that fails."""
        if not any(map(discovery.is_dynamic, self._config.endpoints)):
            return
        with suppress(OSError, TimeoutError):
            self._hosts = await discovery.resolve(self._config.endpoints, self._config.rpc_timeout_s)
            self._pool.update(tuple(self._hosts))
        idle = [e for e in self._channels if e not in self._pool.endpoints and not e.active]
        for endpoint in idle:
            await self._channels.pop(endpoint).aclose()

    async def _check(self, endpoint: Endpoint) -> errors.PerchError | None:
        """Whether ``endpoint`` serves, and what; the problem if it does not."""
        try:
            response = await self._unary(
                endpoint,
                GET_CONFIG,
                asr.RivaSpeechRecognitionConfigRequest(),
                asr.RivaSpeechRecognitionConfigResponse.FromString,
                self._config.rpc_timeout_s,
            )
            endpoint.models = tuple(convert.models_from_proto(response))
            await self._check_health(endpoint)
        except errors.PerchError as error:
            return error
        return None

    async def _check_health(self, endpoint: Endpoint) -> None:
        """Ask grpc.health too, where there is one: an engine may answer and still not be fit to recognise.

        Raises:
            EngineUnavailable: It says that it does not serve.
        """
        try:
            health = await self._unary(
                endpoint,
                HEALTH_CHECK,
                health_pb2.HealthCheckRequest(),
                health_pb2.HealthCheckResponse.FromString,
                self._config.rpc_timeout_s,
            )
        except errors.EngineFault as error:
            if isinstance(error, errors.EngineRefused):
                return  # not implemented, or not for us: the models it listed are answer enough
            raise
        if health.status == health_pb2.HealthCheckResponse.NOT_SERVING:
            endpoint.serving = False
            raise errors.EngineUnavailable("The speech engine says that it is not serving.")

    async def aclose(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
            with suppress(asyncio.CancelledError):
                await self._watchdog
        for channels in (*self._channels.values(), *self._retired):
            await channels.aclose()

    # --- streaming -----------------------------------------------------------------------------------

    @asynccontextmanager
    async def _attempt(
        self, config: RecognitionConfig, stream_id: str, failed: list[Endpoint], *, recording: bool
    ) -> AsyncIterator[Attempt]:
        """A connected, configured attempt; watched while it lasts and freed at the end, whatever happens."""
        self._keep_watch()
        avoid = failed[-1] if failed else None
        with (
            self._pool.lease(config, avoid=avoid, recording=recording) as endpoint,
            self._watch.attempt(endpoint.address) as metadata,
            self._channels_of(endpoint).call(metadata) as call,
        ):
            attempt = Attempt(
                call,
                self._config.timeouts,
                diarized=config.max_speakers is not None,
                nothing_new=wire.nothing_new(stream_id),
                on_answered=lambda: self._pool.answered(endpoint),
            )
            self._attempts.add(attempt)
            try:
                asked = _as_recording(config) if recording and endpoint.takes_recordings else config
                await attempt.open(wire.config_request(asked, stream_id))
                yield attempt
            except errors.EngineFault as error:
                self._pool.failed(endpoint, error)
                failed[:] = [endpoint]
                raise
            finally:
                self._attempts.discard(attempt)
                attempt.cancel()

    def _channels_of(self, endpoint: Endpoint) -> Channels:
        if endpoint not in self._channels:
            self._channels[endpoint] = self._open(endpoint, self._metadata)
        return self._channels[endpoint]

    def _open(self, endpoint: Endpoint, metadata: Metadata) -> Channels:
        config = self._config.channel
        host = self._hosts.get(endpoint.address, "")
        if not config.server_name and host and not endpoint.address.startswith(host):
            config = replace(config, server_name=host)  # its certificate names the name, not the address
        return Channels(endpoint.address, config, metadata)

    def _keep_watch(self) -> None:
        if self._watchdog is None:
            self._watchdog = asyncio.create_task(self._check_attempts(), name="riva-watchdog")

    async def _check_attempts(self) -> None:
        while True:
            await asyncio.sleep(_CHECK_EVERY_S)
            now = time.monotonic()
            for attempt in tuple(self._attempts):
                attempt.check(now)

    # --- unary ---------------------------------------------------------------------------------------

    async def _recognize_offline(self, pcm: bytes, config: RecognitionConfig) -> list[Hypothesis]:
        request = asr.RecognizeRequest(config=convert.config_to_proto(config), audio=pcm)
        with self._pool.lease(config, recording=True) as endpoint:
            response = await self._unary(
                endpoint,
                RECOGNIZE,
                request,
                asr.RecognizeResponse.FromString,
                self._config.recognize_timeout_s,
            )
        return convert.offline_from_proto(response, diarized=config.max_speakers is not None)

    async def _recognize_streaming(self, pcm: bytes, config: RecognitionConfig) -> list[Hypothesis]:
        finals: list[Hypothesis] = []
        stream = self.stream(replace(config, interim_results=False), recording=True)

        def collect(heard: Hypothesis | Notice) -> None:
            if isinstance(heard, Hypothesis) and heard.is_final:
                finals.append(heard)

        await feed_and_run(stream, _pieces(pcm), RATE, collect)
        return finals

    async def _unary(
        self, endpoint: Endpoint, method: str, request: Any, parse: Callable[[bytes], Any], timeout_s: float
    ) -> Any:
        with self._channels_of(endpoint).unary() as channel:
            rpc = channel.unary_unary(
                method, request_serializer=lambda m: m.SerializeToString(), response_deserializer=parse
            )
            try:
                response = await rpc(request, timeout=timeout_s, metadata=self._metadata)
            except grpc.aio.AioRpcError as failure:
                error = error_from_status(Status(failure.code(), failure.details() or ""))
                self._pool.failed(endpoint, error)
                raise error from failure
        self._pool.answered(endpoint)
        return response

    def _completed(self, config: RecognitionConfig) -> RecognitionConfig:
        """What the client did not choose, chosen."""
        model = config.model or self._config.model
        return replace(
            config,
            language=self._language(config.language, model),
            model=model,
            word_times=self._config.word_times,
            endpointing=config.endpointing or self._config.endpointing,
        )

    def _language(self, wanted: str, model: str) -> str:
        """The language to ask for: what is wanted, or what the model speaks if that is left open."""
        default = self._config.language
        is_auto = (wanted or default).lower() == languages.AUTO
        if not is_auto and (wanted or languages.is_open(default)):
            return wanted or default
        known = [info for endpoint in self._pool.endpoints for info in endpoint.models]
        suitable = [info for info in known if model and info.answers_to(model)] or known
        if is_auto and suitable and all(info.is_of_perch for info in suitable):
            return ""  # engines of ours know what they speak, and say nothing of it if there is more than one
        offered = [language for info in suitable for language in info.languages]
        return languages.default_for(offered, default) or default


def _as_recording(config: RecognitionConfig) -> RecognitionConfig:
    return replace(config, interim_results=False, custom={**config.custom, convert.RECORDING: "true"})


def _version(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _metadata(config: RivaConfig) -> Metadata:
    key = config.api_key
    if config.api_key_file is not None:
        key = config.api_key_file.read_text(encoding="utf-8").strip()
    bearer = (("authorization", f"Bearer {key}"),) if key else ()
    return (*bearer, *((key.lower(), value) for key, value in config.metadata))


async def _pieces(pcm: bytes) -> AsyncIterator[bytes]:
    """A second at a time."""
    step = samples_to_bytes(RATE)
    for position in range(0, len(pcm), step):
        yield pcm[position : position + step]
