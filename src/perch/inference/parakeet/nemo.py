"""Parakeet by NeMo: what a ``.nemo`` file is, and what serves it."""

from pathlib import Path
from typing import Any

from perch.errors import BadConfig
from perch.inference.parakeet.model import LoadOptions, Model
from perch.inference.parakeet.nemo_checkpoint import (
    decoder_of,
    libraries,
    lookaheads_of,
    restore,
    vocabulary_of,
)
from perch.inference.parakeet.nemo_transducer import is_known, transducer_of
from perch.inference.parakeet.torch_setup import device_of, dtype_of
from perch.inference.parakeet.transformers_common import pieces_of


def load(options: LoadOptions) -> Model:
    """The model in the file ``options.path``.

    Raises:
        BadConfig: A package or a device is missing, or the model cannot do what is asked.
        EngineFailed: The checkpoint is broken.
    """
    torch, models = libraries()
    device = device_of(torch, options)
    if options.threads:
        torch.set_num_threads(options.threads)
    dtype = dtype_of(torch, options, device)
    model = restore(torch, models, Path(options.path), device)
    _prepare(model, dtype)
    return _served(torch, model, options, decoder_of(model, Path(options.path)))


def _prepare(model: Any, dtype: Any) -> None:
    """Networks in the wanted number format; features stay float32, and are the same every time."""
    for name in ("encoder", "decoder", "joint"):
        if hasattr(model, name):
            getattr(model, name).to(dtype)
    model.preprocessor.featurizer.dither = 0.0
    model.preprocessor.featurizer.pad_to = 0


def _served(torch: Any, model: Any, options: LoadOptions, decoder: str) -> Model:
    from perch.inference.parakeet.nemo_network import Network, Processor  # noqa: PLC0415
    from perch.inference.parakeet.nemo_own import OwnModel  # noqa: PLC0415
    from perch.inference.parakeet.nemo_streaming import StreamingModel  # noqa: PLC0415
    from perch.inference.parakeet.transformers_offline import OfflineModel  # noqa: PLC0415

    streams = bool(lookaheads_of(model))
    if streams and (decoder == "ctc" or not is_known(model)):
        raise BadConfig(
            f"{options.name} is a streaming model without Parakeet's transducer, which is not served."
        )
    if streams:
        return StreamingModel(torch, model, transducer_of(torch, model), options, decoder=decoder)
    if decoder != "ctc" and not is_known(model):
        _turn_off_graphs(model)
        return OwnModel(torch, model, options, decoder=decoder)
    network, processor = Network(torch, model, len(vocabulary_of(model))), Processor(torch, model)
    return OfflineModel(
        torch,
        network,
        processor.features,
        pieces_of(processor, network.config.vocab_size),
        options,
        decoder=decoder,
        backend="nemo",
    )


def _turn_off_graphs(model: Any) -> None:
    """CUDA graphs in NeMo's decoding have broken processes that did other things beside (15145, 15423)."""
    decoding = model.decoding.decoding
    if hasattr(decoding, "disable_cuda_graphs"):
        decoding.disable_cuda_graphs()
