"""Parakeet by transformers and PyTorch: which class a checkpoint is, and what serves it."""

from pathlib import Path
from typing import Any

from perch.errors import BadConfig, EngineFailed, PerchError
from perch.inference.parakeet.model import LoadOptions, Model
from perch.inference.parakeet.torch_setup import device_of, dtype_of, libraries
from perch.inference.parakeet.transformers_common import pieces_of
from perch.inference.parakeet.transformers_files import check

_CLASSES = {
    "parakeet_ctc": "ParakeetForCTC",
    "parakeet_rnnt": "ParakeetForRNNT",
    "parakeet_tdt": "ParakeetForTDT",
    "nemotron_asr_streaming": "NemotronAsrStreamingForRNNT",
}


def load(options: LoadOptions) -> Model:
    """The model in the folder ``options.path``, as ``save_pretrained`` writes it or the hub has it.

    Raises:
        BadConfig: A package or a device is missing, or the model cannot do what is asked.
        EngineFailed: The checkpoint is broken.
    """
    if not Path(options.path).is_dir():
        raise BadConfig(f"{options.path} is not a folder with a model.")
    torch, transformers = libraries()
    device = device_of(torch, options)
    if options.threads:
        torch.set_num_threads(options.threads)
    network, processor = _read(torch, transformers, options, device)
    return served(torch, network, processor, options)


def served(torch: Any, network: Any, processor: Any, options: LoadOptions) -> Model:
    """What serves ``network``, one of ``_CLASSES`` on its device.

    Raises:
        BadConfig: It cannot do what is asked.
    """
    from perch.inference.parakeet.transformers_features import Features  # noqa: PLC0415
    from perch.inference.parakeet.transformers_offline import OfflineModel  # noqa: PLC0415
    from perch.inference.parakeet.transformers_positions import project_once  # noqa: PLC0415
    from perch.inference.parakeet.transformers_streaming import StreamingModel  # noqa: PLC0415

    kind = network.config.model_type
    if kind == "nemotron_asr_streaming":
        return StreamingModel(torch, network, processor, options)
    project_once(torch, network.encoder.layers, keep=False)
    return OfflineModel(
        torch,
        network,
        Features(torch, processor.feature_extractor, network.device),
        pieces_of(processor, network.config.vocab_size),
        options,
        decoder=kind.removeprefix("parakeet_"),
    )


def _read(torch: Any, transformers: Any, options: LoadOptions, device: str) -> tuple[Any, Any]:
    """The model on its device, and its processor."""
    try:
        kind = _kind_of(transformers.AutoConfig.from_pretrained(options.path, local_files_only=True), options)
        check(Path(options.path))
        processor = transformers.AutoProcessor.from_pretrained(options.path, local_files_only=True)
        network, loading = getattr(transformers, _CLASSES[kind]).from_pretrained(
            options.path,
            local_files_only=True,
            dtype=dtype_of(torch, options, device),
            ignore_mismatched_sizes=True,  # the library's own error names none of them; ours does
            output_loading_info=True,
        )
        _check_fit(network, loading, options.path)
        return network.to(device).eval(), processor
    except torch.OutOfMemoryError as problem:
        raise EngineFailed("The GPU's memory is not enough for the model: try a smaller one.") from problem
    except (PerchError, MemoryError):  # the second has no text; whoever starts the process has words for it
        raise
    except Exception as problem:  # whatever libraries raise for whatever is broken in a folder
        told = str(problem) or type(problem).__name__
        raise EngineFailed(f"The model in {options.path} cannot be loaded: {told}") from problem


def _check_fit(network: Any, loading: Any, path: str) -> None:
    """That every weight of ``network`` came from the checkpoint: the library makes up what did not.

    Raises:
        EngineFailed: One did not; the first is named.
    """
    misfits = {
        name: f"{name} has the shape {list(has)} instead of {list(wanted)}"
        for name, has, wanted in loading["mismatched_keys"]
    }
    absent = set(loading["missing_keys"]) & {name for name, _ in network.named_parameters()}
    misfits |= {name: f"{name} is missing" for name in absent}
    if misfits:
        more = f", and {len(misfits) - 1} more" if len(misfits) > 1 else ""
        raise EngineFailed(
            f"The weights in {path} do not fit its config.json: {misfits[min(misfits)]}{more}. Pull them again, "
            "both from the same place."
        )


def _kind_of(config: Any, options: LoadOptions) -> str:
    kind = str(config.model_type)
    if kind not in _CLASSES:
        raise BadConfig(f"{options.path} holds a {kind} model; these can be served: {', '.join(_CLASSES)}.")
    return kind
