"""Which requests this engine's one model serves, in Riva's terms."""

from dataclasses import replace

from perch.core import languages
from perch.core.speech import ModelInfo, RecognitionConfig
from perch.inference.recogniser import Capabilities, Recogniser, model_info
from perch.riva.status import unavailable_model


class Catalogue:
    """The model an engine has, by any of its names, in any case.

    With ``accept_any_model`` every name is one of its names: LiveKit and NVIDIA's own samples send the
    name of a Parakeet model whatever they are connected to. No answer claims to come from the model
    that was asked for.
    """

    def __init__(self, recogniser: Recogniser, *, accept_any_model: bool) -> None:
        self._recogniser = recogniser
        self._accept_any_model = accept_any_model
        known = recogniser.capabilities
        self._names = frozenset(name.lower() for name in ("", known.model, *known.aliases))

    @property
    def _capabilities(self) -> Capabilities:
        """As they are now: a model that was restarted may have fewer slots."""
        return self._recogniser.capabilities

    def models(self, name: str = "") -> list[ModelInfo]:
        """The models of that name: all if it is empty, none if it is unknown, as Riva answers."""
        return [self._info()] if name.lower() in self._names else []

    def resolve(self, config: RecognitionConfig, *, sample_rate: int, kind: str) -> RecognitionConfig:
        """``config`` with the language and model that will be used.

        Raises:
            ModelUnavailable: There is no such language or model here, in Riva's own words.
        """
        known_model = self._accept_any_model or config.model.lower() in self._names
        language = self._language(config.language)
        if language is None or not known_model:
            raise unavailable_model(
                language=config.language,
                sample_rate=sample_rate,
                kind=kind,
                model="" if known_model else config.model,
            )
        return replace(config, language=language, model=self._capabilities.model)

    def _language(self, code: str) -> str | None:
        """``code`` as it is told back to the caller: with the region that was asked for, if it has one.

        Nobody knows what is spoken if no language was asked for and the model has several: then it is empty.
        """
        if not code:
            return languages.common(self._capabilities.languages)
        found = languages.find(self._capabilities.languages, code)
        return found if found is None or "-" in found else code

    def _info(self) -> ModelInfo:
        info = model_info(self._capabilities)
        described = {
            "streaming_mode": self._capabilities.streaming_mode,
            "partials": str(self._capabilities.partials).lower(),
            "slots": str(self._capabilities.slots),
            "recordings": str(self._capabilities.recordings),
            "word_times": str(self._capabilities.word_times).lower(),
            "punctuation": str(self._capabilities.punctuation).lower(),
            "aliases": ",".join(self._capabilities.aliases),
            "notice": self._capabilities.notice,
        }
        return replace(info, parameters={**described, **info.parameters})
