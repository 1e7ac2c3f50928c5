"""What a client chose, held against what the engine has: models by name, languages by tag."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

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
    names = {info.name.lower(): info.name for info in models}
    if wanted.lower() in names:
        return names[wanted.lower()]
    if any(wanted.lower() == name or wanted.lower().startswith(f"{name}-") for name in elsewhere):
        return ""
    if not models:
        return wanted
    raise ModelUnavailable(f"There is no model {wanted!r}; there is {', '.join(sorted(names.values()))}.")


def _language(wanted: str, model: str, models: Sequence[ModelInfo]) -> str:
    if wanted.lower() in _ANY:
        return ""
    suitable = [info for info in models if not model or info.name == model]
    offered = list(dict.fromkeys(language for info in suitable for language in info.languages))
    if not offered:
        return wanted
    for matches in (_same, _same_primary):
        for language in offered:
            if matches(language, wanted):
                return language
    name = model or (suitable[0].name if len({info.name for info in suitable}) == 1 else "")
    subject = f"Model {name} only supports" if name else "The models here only support"
    raise LanguageUnsupported(f"{subject} {_spoken(offered)}.")


def _same(offered: str, wanted: str) -> bool:
    return offered.lower() == wanted.lower().replace("_", "-")


def _same_primary(offered: str, wanted: str) -> bool:
    """A bare language stands for any region of it, and so does a region we do not have."""
    return _primary(offered) == _primary(wanted)


def _primary(tag: str) -> str:
    return tag.replace("_", "-").partition("-")[0].lower()


def _spoken(languages: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(_NAMES.get(_primary(language), language) for language in languages))
