"""What a client chose, held against what the engine has: models by name, languages by tag."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from perch.core.languages import AUTO, DEFAULT, default_for, find, is_open, nearest, primary
from perch.core.speech import ModelInfo, RecognitionConfig
from perch.errors import LanguageUnsupported, ModelUnavailable

NAMES = {
    "ar": "Arabic", "bg": "Bulgarian", "cs": "Czech", "da": "Danish", "de": "German", "el": "Greek",
    "en": "English", "es": "Spanish", "et": "Estonian", "fi": "Finnish", "fr": "French", "hi": "Hindi",
    "hr": "Croatian", "hu": "Hungarian", "it": "Italian", "ja": "Japanese", "ko": "Korean",
    "lt": "Lithuanian", "lv": "Latvian", "mt": "Maltese", "nl": "Dutch", "pl": "Polish", "pt": "Portuguese",
    "ro": "Romanian", "ru": "Russian", "sk": "Slovak", "sl": "Slovenian", "sv": "Swedish", "tr": "Turkish",
    "uk": "Ukrainian", "zh": "Chinese",
}  # fmt: skip


def unchosen(defaults: RecognitionConfig) -> RecognitionConfig:
    """``defaults`` of a client that has named neither model nor language."""
    return replace(defaults, model="", language="")


def chosen(
    wanted: RecognitionConfig,
    models: Sequence[ModelInfo],
    defaults: RecognitionConfig,
    *,
    elsewhere: Iterable[str] = (),
    live: bool = True,
) -> RecognitionConfig:
    """``wanted`` with the names of what there is.

    What the client names must be there. What it does not name is the gateway's default, where the model
    speaks that; else the model's own language, and where no model is set the first that speaks it.

    Args:
        wanted: What the client asks for; model and language are empty if it named none. A language may be a
            bare ``en``.
        models: What there is; empty if it is not known, and then only the defaults are filled in.
        defaults: What the gateway uses for a client that names no model or language.
        elsewhere: Names that other services give their models. Clients send them because their libraries
            want one, so they stand for the default.
        live: Whether it is for a stream; else for a recording.

    Raises:
        ModelUnavailable: There is no such model; names those there are.
        LanguageUnsupported: The model does not have the language; names those it has.
    """
    language = "" if wanted.language.lower() == DEFAULT else wanted.language
    model = _model(wanted.model, models, defaults.model, elsewhere) or _first(
        defaults.language if is_open(language) else language,
        models,
        live=live,
        anyhow=is_open(language),
    )
    suitable = [info for info in models if info.name == model] or models
    return replace(wanted, model=model, language=_language(language, suitable, defaults.language))


def known_language(config: RecognitionConfig, models: Iterable[ModelInfo]) -> bool:
    """Whether it is certain what is spoken though no client said so: the model knows one language only."""
    offered = {tag for info in models if config.model in {"", info.name} for tag in info.languages}
    return len(offered) <= 1


# --- models ------------------------------------------------------------------------------------------


def _model(wanted: str, models: Sequence[ModelInfo], default: str, elsewhere: Iterable[str]) -> str:
    """The model by its own name; empty if neither the client nor the operator names one."""
    named = wanted.lower()
    found = "" if is_open(wanted) else _own_name(wanted, models)
    if found:
        return found
    foreign = any(named == name or named.startswith(f"{name}-") for name in elsewhere)
    if is_open(wanted) or named == default.lower() or foreign:
        # Not questioned: an engine may know the operator's model by a name that it does not list.
        return _own_name(default, models) or default
    if not models:
        return wanted
    listed = ", ".join(sorted({info.name for info in models}))
    raise ModelUnavailable(f"There is no model {wanted!r}; there is {listed}.")


def _own_name(name: str, models: Iterable[ModelInfo]) -> str:
    return next((info.name for info in models if name and info.answers_to(name)), "")


def _first(language: str, models: Sequence[ModelInfo], *, live: bool, anyhow: bool) -> str:
    """The first of several models that speaks ``language``; empty leaves the choice to the engine.

    It is left to Riva where that has several, because Riva knows what they are for.

    Args:
        language: What is, or may be, spoken.
        models: All there are.
        live: Whether it is for a stream; else the model must take recordings too.
        anyhow: Nobody named the language, so the first model will do if none speaks it.
    """
    offline = {info.name for info in models if info.offline}
    able = [info for info in models if info.streaming and (live or info.name in offline)]
    if len({info.name for info in able}) <= 1:
        return ""
    speaking = _speaking(language, able) or (able[:1] if anyhow else [])
    is_one = len({info.name for info in speaking}) == 1
    return speaking[0].name if is_one or (speaking and all(info.is_of_perch for info in able)) else ""


def _speaking(language: str, models: Sequence[ModelInfo]) -> list[ModelInfo]:
    if is_open(language):
        return list(models)
    exactly = [info for info in models if not info.languages or find(info.languages, language)]
    return exactly or [info for info in models if nearest(info.languages, language)]


# --- languages ---------------------------------------------------------------------------------------


def _language(wanted: str, suitable: Sequence[ModelInfo], default: str) -> str:
    offered = list(dict.fromkeys(language for info in suitable for language in info.languages))
    if not wanted:
        return default_for(offered, default)
    if is_open(wanted):
        return offered[0] if len(offered) == 1 else (AUTO if offered else "")
    found = nearest(offered, wanted)
    if found is None and offered:
        raise LanguageUnsupported(f"{_subject(suitable)} {_spoken(offered)}.")
    return found if found is not None and "-" in found else wanted


def _subject(suitable: Sequence[ModelInfo]) -> str:
    names = {info.name for info in suitable}
    return f"Model {names.pop()} only supports" if len(names) == 1 else "The models here only support"


def _spoken(languages: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(NAMES.get(primary(language), language) for language in languages))
