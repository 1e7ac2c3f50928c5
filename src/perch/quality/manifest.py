"""What is said in which recording: three ways to list it, one kind of ``Clip``.

- ``{"clips": [{"file": "a.wav", "text": "…", "category": "clean"}, "b.json"]}``; a name stands for a file with
  one such object. Instead of ``file`` there may be ``concat``, a list of files played one after the other.
- JSON lines, as NeMo writes them: ``{"audio_filepath": "a.wav", "text": "…"}``.

Paths are relative to the file they stand in. Keys that nobody here reads, such as a licence, are passed over.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perch.errors import BadConfig

SILENCE = "silence"
"""The category of recordings in which nothing is said."""

JUDGED = ("wer", "first_partial_s", "final_s")
"""What a clip may have limits of its own for."""

_ENCODINGS = ("pcm16", "mulaw")
_RATES = (8_000, 48_000)


@dataclass(frozen=True, slots=True)
class Clip:
    """A recording to be recognised, and what is said in it.

    Args:
        name: Unique within its manifest.
        text: What is said; empty if nothing is.
        category: Clips of one category are judged together.
        files: The audio; several are played one after the other.
        gap_s: Silence between them.
        sample_rate: To resample to before sending; None sends a file as it is, and several at 16 kHz.
        encoding: How the samples are sent: pcm16 or mulaw.
        speech_start_s: Where the first word begins; None has it measured by loudness.
        speech_end_s: Where the last word ends.
        thresholds: By profile, the limits of this clip's own figures.
    """

    name: str
    text: str
    category: str
    files: tuple[Path, ...]
    gap_s: float = 0.0
    sample_rate: int | None = None
    encoding: str = "pcm16"
    speech_start_s: float | None = None
    speech_end_s: float | None = None
    thresholds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def load(path: Path) -> list[Clip]:
    """The clips of a manifest, in its order.

    Raises:
        BadConfig: It cannot be read, or says something that makes no sense.
    """
    clips = [_clip(entry, where, folder) for entry, where, folder in _entries(path)]
    if not clips:
        raise BadConfig(f"{path} lists no clips.")
    return _named_apart(clips)


def choose(clips: Sequence[Clip], only: Sequence[str], skip: Sequence[str]) -> list[Clip]:
    """The clips whose name or category is in ``only`` (if that names any), and not in ``skip``.

    Raises:
        BadConfig: A name fits no clip, or no clip is left.
    """
    known = {name for clip in clips for name in (clip.name, clip.category)}
    if unknown := sorted({*only, *skip} - known):
        raise BadConfig(f"No clip or category is called {', '.join(unknown)}; there are {_listed(known)}.")
    chosen = [clip for clip in clips if not only or {clip.name, clip.category} & set(only)]
    chosen = [clip for clip in chosen if not {clip.name, clip.category} & set(skip)]
    if not chosen:
        raise BadConfig("No clip is left; ask for fewer to be skipped.")
    return chosen


def _entries(path: Path) -> Iterator[tuple[Any, str, Path]]:
    """Each entry, what to call it in a message, and the folder its paths start from."""
    text = _read(path)
    if _is_lines(path, text):
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip():
                yield _parsed(line, f"{path} line {number}"), f"{path} line {number}", path.parent
        return
    listed = _parsed(text, str(path))
    if not isinstance(listed, dict) or not isinstance(listed.get("clips"), list):
        raise BadConfig(f'{path} must be {{"clips": […]}}, or one JSON object with audio_filepath per line.')
    for number, entry in enumerate(listed["clips"], start=1):
        if isinstance(entry, str):
            own = path.parent / entry
            yield {"name": own.stem, **_object(_parsed(_read(own), str(own)), str(own))}, str(own), own.parent
        else:
            yield entry, f"{path} clip {number}", path.parent


def _is_lines(path: Path, text: str) -> bool:
    return path.suffix == ".jsonl" or '"audio_filepath"' in text.partition("\n")[0]


def _clip(entry: Any, where: str, folder: Path) -> Clip:
    entry = _object(entry, where)
    files = _files(entry, where, folder)
    text = _value(entry, "text", str, where)
    return Clip(
        name=_value(entry, "name", str, where, files[0].stem),
        text=text,
        category=_value(entry, "category", str, where, "speech" if text.strip() else SILENCE),
        files=files,
        gap_s=_seconds(entry, "gap_s", where) or 0.0,
        sample_rate=_rate(entry, where),
        encoding=_one_of(entry, "encoding", _ENCODINGS, where),
        speech_start_s=_seconds(entry, "speech_start_s", where),
        speech_end_s=_seconds(entry, "speech_end_s", where),
        thresholds=_thresholds(entry, where),
    )


def _files(entry: Mapping[str, Any], where: str, folder: Path) -> tuple[Path, ...]:
    if entry.get("offset"):
        raise BadConfig(f"{where}: offset is not supported; cut the recording into files.")
    names = entry.get("concat", [entry.get("file", entry.get("audio_filepath"))])
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise BadConfig(f"{where} must say which file it is about: file, concat or audio_filepath.")
    files = tuple(folder / name for name in names)
    if missing := [file for file in files if not file.is_file()]:
        raise BadConfig(f"{where}: there is no file {missing[0]}.")
    return files


def _rate(entry: Mapping[str, Any], where: str) -> int | None:
    if (rate := entry.get("resample")) is None:
        return None
    if not isinstance(rate, int) or not _RATES[0] <= rate <= _RATES[1]:
        raise BadConfig(f"{where}: resample must be a whole number from {_RATES[0]} to {_RATES[1]}.")
    return rate


def _thresholds(entry: Mapping[str, Any], where: str) -> dict[str, dict[str, float]]:
    profiles = _object(entry.get("thresholds", {}), f"{where}: thresholds")
    for profile, limits in profiles.items():
        for figure, limit in _object(limits, f"{where}: thresholds.{profile}").items():
            if figure not in JUDGED or not _is_number(limit) or limit < 0:
                raise BadConfig(f"{where}: a threshold is one of {', '.join(JUDGED)} and a number from 0.")
    return profiles


def _seconds(entry: Mapping[str, Any], key: str, where: str) -> float | None:
    if (value := entry.get(key)) is None:
        return None
    if not _is_number(value) or value < 0:
        raise BadConfig(f"{where}: {key} must be a number of seconds.")
    return float(value)


def _one_of(entry: Mapping[str, Any], key: str, known: Sequence[str], where: str) -> str:
    value = _value(entry, key, str, where, known[0])
    if value not in known:
        raise BadConfig(f"{where}: {key} must be one of {', '.join(known)}.")
    return value


def _value(
    entry: Mapping[str, Any], key: str, kind: type[str], where: str, default: str | None = None
) -> str:
    value = entry.get(key, default)
    if not isinstance(value, kind):
        raise BadConfig(f"{where}: {key} must be a text.")
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadConfig(f"{where} must be a JSON object.")
    return value


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise BadConfig(f"{where} is not JSON: {error}.") from error


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise BadConfig(f"{path} cannot be read: {reason}.") from error


def _named_apart(clips: Sequence[Clip]) -> list[Clip]:
    names = [clip.name for clip in clips]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadConfig(f"Two clips are called {', '.join(twice)}; give them a name each.")
    return list(clips)


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))
