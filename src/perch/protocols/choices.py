"""What a client chose, held against what the engine has: models by name, languages by tag."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from perch.core.languages import find, primary
from perch.core.speech import ModelInfo, RecognitionConfig
from perch.errors import LanguageUnsupported, ModelUnavailable

_ANY = {"", "auto", "multi", "default"}
_NAMES = {
    "ar": "Arabic", "de": "German", "en": "English", "es": "Spanish", "fr": "French", "hi": "Hindi",
    "it": "Italian", "ja": "Japanese", "ko": "Korean", "nl": "Dutch", "pl": "Polish", "pt": "Portuguese",
    "ru": "Russian", "tr": "Turkish", "uk": "Ukrainian", "zh": "Chinese",
}  # fmt: skip


def chosen(
    wanted: RecognitionConfig, models: Sequence[ModelInfo], *, elsewhere: Iterable[str] = ()
) -> RecognitionConfig:
    """``wanted`` with the names of what there is.

    Args:
        wanted: What the client asks for. A language may be a bare ``en``.
        models: What there is; empty if it is not known, and then nothing is changed.
        elsewhere: Names that other services give their models. Clients send them because their libraries
            want one, so they stand for the default.

    Raises:
        ModelUnavailable: There is no such model; names those there are.
        LanguageUnsupported: The model does not have the language; names those it has.
    """
    model = _model(wanted.model, models, elsewhere)
    return replace(wanted, model=model, language=_language(wanted.language, model, models))


def _model(wanted: str, models: Sequence[ModelInfo], elsewhere: Iterable[str]) -> str:
    if wanted in _ANY:
        return ""
    names = {name.lower(): info.name for info in models for name in (*info.aliases, info.name)}
    if wanted.lower() in names:
        return names[wanted.lower()]
    if any(wanted.lower() == name or wanted.lower().startswith(f"{name}-") for name in elsewhere):
        return ""
    if not models:
        return wanted
    raise ModelUnavailable(
        f"There is no model {wanted!r}; there is {', '.join(sorted(set(names.values())))}."
    )


def _language(wanted: str, model: str, models: Sequence[ModelInfo]) -> str:
    if wanted.lower() in _ANY:
        return ""
    suitable = [info for info in models if not model or info.name == model]
    offered = list(dict.fromkeys(language for info in suitable for language in info.languages))
    if not offered:
        return wanted
    found = find(offered, wanted) or _same_primary(offered, wanted)
    if found is not None:
        return found if "-" in found else wanted
    name = model or (suitable[0].name if len({info.name for info in suitable}) == 1 else "")
    subject = f"Model {name} only supports" if name else "The models here only support"
    raise LanguageUnsupported(f"{subject} {_spoken(offered)}.")


def _same_primary(offered: Iterable[str], wanted: str) -> str | None:
    """A region that we do not have is better served by another than not at all."""
    return next((language for language in offered if primary(language) == primary(wanted)), None)


def _spoken(languages: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(_NAMES.get(primary(language), language) for language in languages))
