"""NeMo and its checkpoints: imports, reading a ``.nemo`` file, what kind of model it is.

A ``.nemo`` file is a tar archive of a configuration, the weights and the tokenizer. Nothing here asks the
network for anything: what a checkpoint needs is in it.
"""

import logging
import os
import tarfile
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from perch.core.extras import how_to_install
from perch.errors import BadConfig, EngineFailed

INSTALL = how_to_install("nemo")

Decoder = Literal["rnnt", "tdt", "ctc"]


def libraries() -> tuple[Any, Any]:
    """The modules ``torch`` and ``nemo.collections.asr.models``.

    Raises:
        BadConfig: One is not installed; the message says how to.
    """
    os.environ.update({"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "WANDB_MODE": "disabled"})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what NeMo's dependencies say of each other
            torch, models = import_module("torch"), import_module("nemo.collections.asr.models")
    except ImportError as problem:
        raise BadConfig(f".nemo files need PyTorch and NeMo ({problem}): {INSTALL}") from problem
    import_module("nemo.utils").logging.set_verbosity(logging.ERROR)
    return torch, models


def check_there(file: Path) -> None:
    """That there is a file to read, which takes no library to find out.

    Raises:
        BadConfig: There is none.
    """
    if not file.is_file():
        raise BadConfig(f"{file} is not there: give the path of a .nemo file.")


def restore(torch: Any, models: Any, file: Path, device: str) -> Any:
    """The model in ``file``, ready to recognise.

    Raises:
        BadConfig: There is no such file, or it holds something else than speech recognition.
        EngineFailed: The checkpoint is broken, or larger than memory.
    """
    check_there(file)
    if not tarfile.is_tarfile(file):
        raise EngineFailed(f"{file} is not a .nemo file, which is a tar archive: download it again.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = models.ASRModel.restore_from(str(file), map_location=torch.device(device))
    except torch.OutOfMemoryError as problem:
        raise EngineFailed("The GPU's memory is not enough for the model: try a smaller one.") from problem
    except Exception as problem:  # whatever NeMo raises for whatever is broken in an archive
        raise EngineFailed(f"The model in {file} cannot be loaded: {_short(problem)}") from problem
    decoder_of(model, file)
    return model.eval()


def decoder_of(model: Any, file: Path) -> Decoder:
    """How a model decodes; one that can do it in two ways is a transducer.

    Raises:
        BadConfig: In none of the ways that are served.
    """
    if hasattr(model, "joint") and hasattr(model, "decoder"):
        loss = model.cfg.get("loss") or {}
        return "tdt" if loss.get("loss_name") == "tdt" or model.cfg.decoding.get("durations") else "rnnt"
    if hasattr(model, "decoder") and type(model).__name__.startswith("EncDecCTC"):
        return "ctc"
    raise BadConfig(f"{file} holds a {type(model).__name__}; RNN-T, TDT and CTC models are served.")


def vocabulary_of(model: Any) -> list[str]:
    """The text of every token but the blank, which comes after them."""
    return [str(token) for token in (model.joint if hasattr(model, "joint") else model.decoder).vocabulary]


def lookaheads_of(model: Any) -> list[int]:
    """Encoder frames to the right that a cache-aware model was trained for; none if it is not one."""
    encoder = model.encoder
    if getattr(encoder, "att_context_style", "") != "chunked_limited":
        return []
    return sorted({int(context[1]) for context in encoder.att_context_size_all if context[0] > 0})


def set_lookahead(model: Any, lookahead: int) -> None:
    """Have a cache-aware model take ``lookahead + 1`` frames at a time."""
    contexts = [list(context) for context in model.encoder.att_context_size_all]
    model.encoder.set_default_att_context_size(next(one for one in contexts if one[1] == lookahead))


def _short(problem: Exception) -> str:
    first = str(problem).strip().splitlines()
    return f"{type(problem).__name__}: {first[0][:300]}" if first else type(problem).__name__
