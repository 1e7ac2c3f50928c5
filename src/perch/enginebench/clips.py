"""What the streams say: recordings of the caller, or those that lie in a checkout."""

from collections.abc import Sequence
from pathlib import Path

from perch.audio.files import decode_file
from perch.core.audio import RATE, samples_to_bytes
from perch.errors import BadConfig

_CHECKOUT = Path(__file__).parents[3] / "tests" / "fixtures" / "speech"
_LONGEST_S = 1_800
"""All recordings together; both sides hold them in memory."""


def load(paths: Sequence[Path]) -> list[bytes]:
    """16 kHz 16-bit PCM of each recording in ``paths``, which are files and folders of WAV files.

    Raises:
        BadConfig: There are none, one holds no audio, or they are too long.
        BadAudio: A file is no recording.
        OSError: A file cannot be read.
    """
    recordings: list[bytes] = []
    for path in _files(paths or [_CHECKOUT]):
        recordings.append(b"".join(decode_file(str(path))))
        if not recordings[-1]:
            raise BadConfig(f"{path} holds no audio.")
        if sum(map(len, recordings)) > samples_to_bytes(_LONGEST_S * RATE):
            raise BadConfig(f"The recordings are longer than {_LONGEST_S // 60} minutes; name fewer.")
    return recordings


def _files(paths: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        found = sorted(path.glob("*.wav")) if path.is_dir() else [path]
        if not found or not path.exists():
            raise BadConfig(f"{path} holds no WAV file: name recordings of speech with --audio.")
        files += found
    return files
