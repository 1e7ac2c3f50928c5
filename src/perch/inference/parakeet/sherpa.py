"""Parakeet as ONNX files by sherpa-onnx: several streams on two cores, without PyTorch."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

from perch.core.audio import RATE, samples_to_ms
from perch.core.command import command
from perch.core.extras import how_to_install
from perch.errors import BadConfig, EngineFailed
from perch.inference.parakeet.model import FRAME, Facts, LoadOptions, Model
from perch.inference.parakeet.sherpa_device import Device, device_of
from perch.inference.parakeet.sherpa_export import Export, read_export
from perch.inference.parakeet.sherpa_files import find
from perch.inference.parakeet.sherpa_offline import OfflineModel
from perch.inference.parakeet.sherpa_signed import is_faster, signed
from perch.inference.parakeet.sherpa_streaming import StreamingModel

SESSION = "SessionConfig.session.intra_op.allow_spinning=0\n"
"""Of onnxruntime on a CPU. Its threads otherwise burn their cores while they wait for each other, which on two
cores that do anything else besides made a step twice as long and cost two thirds more CPU time."""

INSTALL = how_to_install("onnx")

_LONGEST = {"streaming": 120 * RATE, "offline": 40 * RATE}


def load(options: LoadOptions) -> Model:
    """The export in the folder ``options.path``.

    Raises:
        BadConfig: A package, a file or a device is missing, or the model cannot do what is asked.
        EngineFailed: The export is broken.
    """
    library = _library()
    device = device_of(library, options)
    wanted = "float32" if device == "cuda" else options.dtype
    export = read_export(find(Path(options.path), wanted))
    _check_mode(options, export)
    threads = options.threads or len(os.sched_getaffinity(0))
    facts = _facts(options, export, device, threads)
    try:
        with _provider(device) as provider, _files(export, device) as files:
            recogniser = _recogniser(library, export, files, provider, threads)
        model: Model = StreamingModel(recogniser, facts) if export.chunks else OfflineModel(recogniser, facts)
    except (RuntimeError, ValueError, IndexError) as problem:  # what onnxruntime's errors become in Python
        raise EngineFailed(f"The model in {options.path} cannot be loaded: {problem}") from problem
    return model


def _library() -> Any:
    try:
        return import_module("sherpa_onnx")
    except ImportError as problem:
        raise BadConfig(f"This model needs sherpa-onnx ({problem}): {INSTALL}") from problem


def _check_mode(options: LoadOptions, export: Export) -> None:
    if export.chunks is None:
        if options.mode not in {"auto", "vad-segmented"}:
            raise BadConfig(
                f"{options.name} is an offline export: sherpa-onnx takes each utterance at once "
                f"(vad-segmented), not {options.mode}. For buffered streaming load the same model by "
                "transformers; for cache-aware streaming take a streaming export."
            )
        if options.chunk_ms is not None:
            raise BadConfig(f"{options.name} takes each utterance at once: leave --chunk-ms out.")
        return
    if options.mode not in {"auto", "cache-aware"}:
        raise BadConfig(
            f"{options.name} is a streaming export: it is always cache-aware, not {options.mode}."
        )
    chunk_ms = samples_to_ms(export.chunks.samples)
    if options.chunk_ms not in {None, chunk_ms}:
        raise BadConfig(
            f"--chunk-ms is {options.chunk_ms}, but {export.files.folder} is an export for {chunk_ms}. There "
            f"are exports for 80, 160, 560 and 1120 ms; `{command('models export --chunk-ms')}` makes them."
        )


def _facts(options: LoadOptions, export: Export, device: Device, threads: int) -> Facts:
    chunks = export.chunks
    parameters = {"dtype": export.files.dtype, "threads": str(threads)}
    if chunks:
        parameters["left_context_ms"] = str(samples_to_ms(chunks.context * FRAME))
    return Facts(
        model=options.name,
        backend="sherpa-onnx",
        device=device,
        mode="cache-aware" if chunks else "vad-segmented",
        chunk=chunks.samples if chunks else 0,
        decoder=export.decoder,
        languages=options.languages,
        longest=_LONGEST["streaming" if chunks else "offline"],
        confidence=export.decoder != "ctc",  # the library's CTC decoder does not tell
        punctuation=export.punctuation,
        parameters=parameters,
    )


@contextmanager
def _provider(device: Device) -> Iterator[str]:
    """What the library calls a provider: the device's name, and a file of settings while it loads."""
    if device == "cuda":
        yield device
        return
    settings = os.memfd_create("onnxruntime-settings")  # a file that needs no folder to write to
    try:
        os.write(settings, SESSION.encode())
        yield f"{device}:/proc/self/fd/{settings}"
    finally:
        os.close(settings)


@contextmanager
def _files(export: Export, device: Device) -> Iterator[dict[str, str]]:
    """What to load, by role: the export's files, or copies that this processor is faster with."""
    parts = export.files.parts
    with signed(parts) if device == "cpu" and is_faster() else nullcontext(parts) as chosen:
        yield {role: str(path) for role, path in chosen.items()}


def _recogniser(library: Any, export: Export, files: dict[str, str], provider: str, threads: int) -> Any:
    common = {
        "tokens": str(export.files.tokens),
        "num_threads": threads,
        "sample_rate": RATE,
        "feature_dim": export.bins,
        "provider": provider,
    }
    if export.chunks:
        return library.OnlineRecognizer.from_transducer(**files, **common)
    if export.decoder == "ctc":
        return library.OfflineRecognizer.from_nemo_ctc(**files, **common)
    return library.OfflineRecognizer.from_transducer(**files, **common, model_type="nemo_transducer")
