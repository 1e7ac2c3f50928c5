"""A Riva that does as it is told: real protos on a real port, with recorded requests and scripted answers."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from perch.riva.proto import asr, asr_grpc

Answer = Callable[[int, Any], Iterable[Any]]
"""From the number and content of a request to the responses it gets."""


@dataclass
class Call:
    """What one RPC brought along."""

    metadata: list[tuple[str, str]]
    requests: list[Any] = field(default_factory=list)

    @property
    def config(self) -> Any:
        return self.requests[0].streaming_config.config

    @property
    def audio(self) -> bytes:
        return b"".join(request.audio_content for request in self.requests)


class ScriptedRiva(asr_grpc.RivaSpeechRecognitionServicer):  # type: ignore[misc]
    """Answers each request with ``answer``; fails the first ``failures`` streams with ``status``."""

    def __init__(
        self,
        answer: Answer = lambda _number, _request: (),
        *,
        at_end: Iterable[Any] = (),
        failures: int = 0,
        status: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE,
        details: str = "told to fail",
        offline: Any = None,
        languages: str = "en-US, es-US",
    ) -> None:
        self.calls: list[Call] = []
        self.ended = asyncio.Event()
        self._answer = answer
        self._at_end = list(at_end)
        self._failures = failures
        self._status = status
        self._details = details
        self._offline = offline
        self._languages = languages

    async def StreamingRecognize(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:  # noqa: N802
        call = self._record(context)
        if len(self.calls) <= self._failures:
            await context.abort(self._status, self._details)
        try:
            async for request in requests:
                call.requests.append(request)
                for response in self._answer(len(call.requests) - 1, request):
                    yield response
            for response in self._at_end:
                yield response
        finally:
            self.ended.set()

    async def Recognize(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._record(context).requests.append(request)
        if self._offline is None:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                "Error: Unavailable model requested given these parameters: type=offline; ",
            )
        return self._offline

    async def GetRivaSpeechRecognitionConfig(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._record(context).requests.append(request)
        if len(self.calls) <= self._failures:
            await context.abort(self._status, self._details)
        parameters = {"type": "online", "language_code": self._languages, "sample_rate": "16000"}
        config = asr.RivaSpeechRecognitionConfigResponse.Config(
            model_name="parakeet-fake", parameters=parameters
        )
        return asr.RivaSpeechRecognitionConfigResponse(model_config=[config])

    def _record(self, context: Any) -> Call:
        call = Call(
            [(key, value) for key, value in context.invocation_metadata() if not key.startswith("grpc-")]
        )
        self.calls.append(call)
        return call


def result(text: str, *, final: bool = False, **fields: Any) -> Any:
    """A streaming result with one alternative; ``words`` are (word, start ms, end ms)."""
    words = [
        asr.WordInfo(word=word, start_time=start, end_time=end)
        for word, start, end in fields.pop("words", ())
    ]
    confidence = fields.pop("confidence", 0.0)
    alternative = asr.SpeechRecognitionAlternative(transcript=text, words=words, confidence=confidence)
    return asr.StreamingRecognitionResult(alternatives=[alternative], is_final=final, **fields)


def response(*results: Any) -> Any:
    return asr.StreamingRecognizeResponse(results=results)


@asynccontextmanager
async def serving(
    riva: ScriptedRiva, credentials: grpc.ServerCredentials | None = None
) -> AsyncIterator[str]:
    """Serve ``riva`` on a free port of loopback; yields the address."""
    server = grpc.aio.server()
    asr_grpc.add_RivaSpeechRecognitionServicer_to_server(riva, server)
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
