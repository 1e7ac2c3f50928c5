"""Riva's messages ↔ ``core.speech``, both ways: the only place that turns milliseconds into samples.

Field semantics follow riva_asr.proto (nvidia-riva-client 2.27): word offsets are int32 milliseconds
from the start of the stream, ``audio_processed`` is float seconds, a confidence or stability of 0.0
means "not set".
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from perch.core.audio import RATE, ms_to_samples, samples_to_ms, samples_to_seconds, seconds_to_samples
from perch.core.speech import (
    Characters,
    Endpointing,
    HotWords,
    Hypothesis,
    ModelInfo,
    RecognitionConfig,
    Word,
)
from perch.riva.proto import AudioEncoding, asr

ENCODING_NAMES: dict[int, str] = {
    AudioEncoding.ENCODING_UNSPECIFIED: "unspecified",
    AudioEncoding.LINEAR_PCM: "linear_pcm",
    AudioEncoding.FLAC: "flac",
    AudioEncoding.MULAW: "mulaw",
    AudioEncoding.ALAW: "alaw",
    AudioEncoding.OGGOPUS: "oggopus",
}
RECORDING = "perch.recording"
"""Key of ``custom_configuration`` by which Perch tells an engine of its own that a stream is a recording."""

CHARACTERS = "perch.characters"
"""Key of ``custom_configuration`` by which an engine is asked for ``Word.characters``. One that knows them
answers with a ``WordInfo`` for each, those that begin a word with a space in front; any other does not read it."""

_LANGUAGES = "language_code"


@dataclass(frozen=True, slots=True)
class DeclaredAudio:
    """What a Riva client says of its audio; rate 0 and ``unspecified`` mean "look for yourself"."""

    encoding: str
    sample_rate: int
    channels: int


# --- configuration -----------------------------------------------------------------------------------


def config_to_proto(config: RecognitionConfig) -> Any:
    """A ``RecognitionConfig`` message for 16 kHz mono PCM16."""
    message = asr.RecognitionConfig(
        encoding=AudioEncoding.LINEAR_PCM,
        sample_rate_hertz=RATE,
        audio_channel_count=1,
        language_code=config.language,
        model=config.model,
        max_alternatives=config.max_alternatives,
        profanity_filter=config.profanity_filter,
        enable_word_time_offsets=config.word_times,
        enable_automatic_punctuation=config.punctuation,
        verbatim_transcripts=config.verbatim,
        speech_contexts=[asr.SpeechContext(phrases=h.phrases, boost=h.boost) for h in config.hotwords],
        custom_configuration=dict(config.custom),
    )
    if config.character_times:
        message.custom_configuration[CHARACTERS] = "true"
    if config.max_speakers is not None:
        message.diarization_config.enable_speaker_diarization = True
        message.diarization_config.max_speaker_count = config.max_speakers
    if config.endpointing is not None:
        message.endpointing_config.CopyFrom(_endpointing_to_proto(config.endpointing))
    return message


def config_from_proto(message: Any, *, interim_results: bool) -> RecognitionConfig:
    """What a client asks for. Values the proto calls unset (absent, or not above zero) become None."""
    diarization = message.diarization_config
    return RecognitionConfig(
        language=message.language_code,
        model=message.model,
        interim_results=interim_results,
        word_times=message.enable_word_time_offsets,
        character_times=message.custom_configuration.get(CHARACTERS) == "true",
        punctuation=message.enable_automatic_punctuation,
        profanity_filter=message.profanity_filter,
        verbatim=message.verbatim_transcripts,
        max_alternatives=max(1, message.max_alternatives),
        hotwords=tuple(
            HotWords(tuple(context.phrases), context.boost)
            for context in message.speech_contexts
            if context.phrases
        ),
        max_speakers=(diarization.max_speaker_count or 8) if diarization.enable_speaker_diarization else None,
        endpointing=_endpointing_from_proto(message.endpointing_config)
        if message.HasField("endpointing_config")
        else None,
        custom={key: value for key, value in message.custom_configuration.items() if key != CHARACTERS},
    )


def audio_from_proto(message: Any) -> DeclaredAudio:
    return DeclaredAudio(
        encoding=ENCODING_NAMES.get(message.encoding, "unknown"),
        sample_rate=message.sample_rate_hertz,
        channels=message.audio_channel_count or 1,
    )


_ENDPOINTING_FIELDS = {
    "start_history": "start_history_ms",
    "start_threshold": "start_threshold",
    "stop_history": "stop_history_ms",
    "stop_threshold": "stop_threshold",
    "stop_history_eou": "stop_history_eou_ms",
    "stop_threshold_eou": "stop_threshold_eou",
}


def _endpointing_to_proto(endpointing: Endpointing) -> Any:
    message = asr.EndpointingConfig()
    for theirs, ours in _ENDPOINTING_FIELDS.items():
        value = getattr(endpointing, ours)
        if value is not None:
            setattr(message, theirs, value)
    return message


def _endpointing_from_proto(message: Any) -> Endpointing:
    def value(name: str) -> Any:
        number = getattr(message, name)
        return number if message.HasField(name) and number > 0 else None

    return Endpointing(**{ours: value(theirs) for theirs, ours in _ENDPOINTING_FIELDS.items()})


# --- results -----------------------------------------------------------------------------------------


def hypotheses_from_proto(response: Any, *, diarized: bool = False) -> list[Hypothesis]:
    """Every result of a streaming response: each final by itself, then the interims as one partial.

    Riva may split an interim into a stable part and an unstable tail, one result each.
    """
    finals = [_hypothesis(r, diarized=diarized) for r in response.results if r.is_final and r.alternatives]
    interims = [r for r in response.results if not r.is_final and r.alternatives]
    if interims:
        finals.append(_joined_partial(interims))
    return finals


def offline_from_proto(response: Any, *, diarized: bool = False) -> list[Hypothesis]:
    """Every result of ``Recognize``, each a final."""
    return [
        _final(result.alternatives[0], _seconds(result.audio_processed), diarized=diarized)
        for result in response.results
        if result.alternatives
    ]


def _hypothesis(result: Any, *, diarized: bool) -> Hypothesis:
    return _final(result.alternatives[0], _seconds(result.audio_processed), diarized=diarized)


def _final(alternative: Any, end: int | None, *, diarized: bool) -> Hypothesis:
    return Hypothesis(
        text=alternative.transcript.strip(),
        is_final=True,
        words=_words(alternative.words, diarized=diarized),
        confidence=_set(alternative.confidence),
        end=end,
        language=alternative.language_code[0] if alternative.language_code else "",
    )


def _joined_partial(results: Sequence[Any]) -> Hypothesis:
    if len(results) == 1 and not results[0].alternatives[0].words:
        result = results[0]  # most are: nothing to join
        return Hypothesis(
            text=result.alternatives[0].transcript.strip(),
            is_final=False,
            stability=result.stability,
            end=_seconds(result.audio_processed),
        )
    best = [result.alternatives[0] for result in results]
    return Hypothesis(
        text=" ".join(text for alternative in best if (text := alternative.transcript.strip())),
        is_final=False,
        words=tuple(_word(word, diarized=False) for alternative in best for word in alternative.words),
        stability=min(result.stability for result in results),
        end=_seconds(results[-1].audio_processed),
    )


def _words(infos: Sequence[Any], *, diarized: bool) -> tuple[Word, ...]:
    words = [_word(info, diarized=diarized) for info in infos]
    return _spelt(words) if words and words[0].text.startswith(" ") else tuple(words)


def _spelt(pieces: Sequence[Word]) -> tuple[Word, ...]:
    """Words of their characters, of which those with a space in front begin one."""
    words: list[list[Word]] = []
    for piece in pieces:
        if piece.text.startswith(" ") or not words:
            words.append([])
        words[-1].append(replace(piece, text=piece.text.lstrip()))
    return tuple(
        replace(
            word[0],
            text="".join(piece.text for piece in word),
            end=word[-1].end,
            characters=tuple(Characters(piece.text, piece.start, piece.end) for piece in word),
        )
        for word in words
    )


def _word(word: Any, *, diarized: bool) -> Word:
    return Word(
        text=word.word,
        start=ms_to_samples(word.start_time),
        end=ms_to_samples(word.end_time),
        confidence=_set(word.confidence),
        speaker=word.speaker_tag if diarized else None,
    )


def _set(number: float) -> float | None:
    """0.0 is the proto's "not set"; NaN is nothing either."""
    return None if number == 0.0 or math.isnan(number) else number


def _seconds(seconds: float) -> int | None:
    return seconds_to_samples(seconds) if math.isfinite(seconds) and seconds > 0 else None


def response_to_proto(hypotheses: Iterable[Hypothesis], *, request_id: str, prefix: str = "") -> Any:
    """A streaming response; ``prefix`` is the space that later utterances begin with.

    What follows a final within the response begins with one in any case.
    """
    response = asr.StreamingRecognizeResponse()
    if request_id:
        response.id.value = request_id
    for hypothesis in hypotheses:
        response.results.append(_streaming_result(hypothesis, prefix))
        prefix = " " if hypothesis.is_final and hypothesis.text else prefix
    return response


def _streaming_result(hypothesis: Hypothesis, prefix: str) -> Any:
    return asr.StreamingRecognitionResult(
        alternatives=[_alternative(hypothesis, prefix)],
        is_final=hypothesis.is_final,
        stability=hypothesis.stability,
        channel_tag=1,
        audio_processed=samples_to_seconds(hypothesis.end or 0),
    )


def offline_to_proto(hypotheses: Iterable[Hypothesis], *, request_id: str) -> Any:
    """The answer to ``Recognize``; NVIDIA's client joins the transcripts as they are, so spaces lead here too."""
    response = asr.RecognizeResponse()
    if request_id:
        response.id.value = request_id
    for index, hypothesis in enumerate(hypotheses):
        response.results.append(
            asr.SpeechRecognitionResult(
                alternatives=[_alternative(hypothesis, " " if index else "")],
                channel_tag=1,
                audio_processed=samples_to_seconds(hypothesis.end or 0),
            )
        )
    return response


def _alternative(hypothesis: Hypothesis, prefix: str) -> Any:
    return asr.SpeechRecognitionAlternative(
        transcript=prefix + hypothesis.text if hypothesis.text else "",
        confidence=hypothesis.confidence or 0.0,
        language_code=[hypothesis.language] if hypothesis.language else [],
        words=[info for word in hypothesis.words for info in _infos(word)],
    )


def _infos(word: Word) -> Iterator[Any]:
    """The word, or if they are known its characters."""
    pieces: tuple[Word | Characters, ...] = word.characters or (word,)
    for number, piece in enumerate(pieces):
        yield asr.WordInfo(
            word=" " + piece.text if word.characters and not number else piece.text,
            start_time=samples_to_ms(piece.start),
            end_time=samples_to_ms(piece.end),
            confidence=word.confidence or 0.0,
            speaker_tag=word.speaker or 0,
        )


# --- models ------------------------------------------------------------------------------------------


def models_from_proto(response: Any) -> list[ModelInfo]:
    """The models a server lists. Which keys it sets differs by version; absent ones are not guessed."""
    return [_model(config.model_name, dict(config.parameters)) for config in response.model_config]


def _model(name: str, parameters: dict[str, str]) -> ModelInfo:
    languages = parameters.get(_LANGUAGES, "")
    rate = parameters.get("sample_rate") or parameters.get("sample_rate_hertz") or ""
    kind = parameters.get("type", "")
    return ModelInfo(
        name=name,
        languages=tuple(code.strip() for code in languages.split(",") if code.strip()),
        streaming=kind == "online" or parameters.get("streaming") == "True",
        offline=kind == "offline" or parameters.get("offline") == "True",
        sample_rate=int(rate) if rate.isdigit() else None,
        parameters=parameters,
    )


def models_to_proto(models: Iterable[ModelInfo]) -> Any:
    """One entry per model and type, as Riva lists them: its own clients filter on ``type``."""
    configs = [
        asr.RivaSpeechRecognitionConfigResponse.Config(
            model_name=model.name, parameters=_parameters(model, kind)
        )
        for model in models
        for kind, offered in (("online", model.streaming), ("offline", model.offline))
        if offered
    ]
    return asr.RivaSpeechRecognitionConfigResponse(model_config=configs)


def _parameters(model: ModelInfo, kind: str) -> dict[str, str]:
    return {
        **model.parameters,
        "type": kind,
        _LANGUAGES: ",".join(model.languages),
        "streaming": str(kind == "online"),
        "offline": str(kind == "offline"),
        "sample_rate": str(model.sample_rate or RATE),
    }
