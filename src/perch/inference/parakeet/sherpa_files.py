"""Which files of a folder are the model: the roles that sherpa-onnx's exports have, and their precision."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from perch.core.command import command
from perch.errors import BadConfig

TRANSDUCER = ("encoder", "decoder", "joiner")


@dataclass(frozen=True, slots=True)
class Files:
    """A model's files by role: those of ``TRANSDUCER``, or ``model`` of CTC."""

    folder: Path
    tokens: Path
    parts: Mapping[str, Path]

    @property
    def main(self) -> Path:
        """The file that has nearly all of the weights, and the metadata."""
        return self.parts["encoder" if self.is_transducer else "model"]

    @property
    def is_transducer(self) -> bool:
        return "encoder" in self.parts

    @property
    def dtype(self) -> str:
        return "int8" if self.main.name.endswith(".int8.onnx") else "float32"


def find(folder: Path, dtype: str) -> Files:
    """The files to load: ``encoder.int8.onnx``, ``encoder.onnx``, ``model-x.onnx`` and so on.

    Args:
        folder: Where they are.
        dtype: ``int8`` or ``float32``, which the encoder must have; ``auto`` takes int8 if it is there.

    Raises:
        BadConfig: There is no such model; the message says what is missing.
    """
    if not folder.is_dir():
        raise BadConfig(f"{folder} is not a folder with a model.")
    if dtype not in {"auto", "int8", "float32"}:
        raise BadConfig(f"ONNX exports are int8 or float32, not {dtype}.")
    tokens = folder / "tokens.txt"
    if not tokens.is_file():
        raise BadConfig(f"{tokens} is missing: a model's export has it beside the *.onnx files.")
    parts = _parts(folder, dtype)
    for role in _first_roles(folder):
        _require(folder, role, parts, dtype)
    return Files(folder, tokens, parts)


def has_float32(folder: Path) -> bool:
    """Whether the encoder, or the CTC model, is there in float32."""
    return any(_of_role(folder, role, int8=False) for role in ("encoder", "model"))


def _parts(folder: Path, dtype: str) -> dict[str, Path]:
    parts = {}
    for role in (*TRANSDUCER, "model"):
        found = {int8: _of_role(folder, role, int8=int8) for int8 in (True, False)}
        chosen = found[dtype != "float32"]
        if chosen is None and (dtype == "auto" or role in {"decoder", "joiner"}):
            chosen = found[dtype == "float32"]  # small parts are often there in one precision only
        if chosen is not None:
            parts[role] = chosen
    return {role: path for role, path in parts.items() if role in _first_roles(folder)}


def _first_roles(folder: Path) -> tuple[str, ...]:
    """What the folder must hold: a transducer's parts if it has one of them."""
    is_ctc = not any(_of_role(folder, role, int8=int8) for role in TRANSDUCER for int8 in (True, False))
    return ("model",) if is_ctc else TRANSDUCER


def _of_role(folder: Path, role: str, *, int8: bool) -> Path | None:
    """The file of a role, by its plain name or the only one that has it as a word of its name."""
    suffix = ".int8.onnx" if int8 else ".onnx"
    plain = folder / (role + suffix)
    if plain.is_file():
        return plain
    pattern = re.compile(rf"(.*[-_.])?{role}([-_.].*)?{re.escape(suffix)}")
    found = sorted(path for path in folder.glob("*.onnx") if _fits(path.name, pattern, int8=int8))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise BadConfig(f"{folder} has more than one {role}: {names}. Keep one, or name it {plain.name}.")
    return found[0] if found else None


def _fits(name: str, pattern: re.Pattern[str], *, int8: bool) -> bool:
    """NeMo's own exports have a ``decoder_joint``, which is neither a decoder nor a joiner."""
    return name.endswith(".int8.onnx") == int8 and "joint" not in name and pattern.fullmatch(name) is not None


def _require(folder: Path, role: str, parts: Mapping[str, Path], dtype: str) -> None:
    if role in parts:
        return
    wanted = {"auto": f"{role}.onnx", "float32": f"{role}.onnx", "int8": f"{role}.int8.onnx"}[dtype]
    joint = next((path.name for path in folder.glob("*joint*.onnx")), None)
    if joint is not None:
        raise BadConfig(
            f"{folder} has no {wanted} but {joint}, which is NeMo's own export. Export the .nemo file with "
            f"`{command('models export')}` instead: encoder, decoder and joiner must be files of their own."
        )
    raise BadConfig(f"{folder} has no {wanted}; it holds: {_held(folder)}.")


def _held(folder: Path) -> str:
    return ", ".join(sorted(path.name for path in folder.glob("*.onnx"))) or "no *.onnx files"
