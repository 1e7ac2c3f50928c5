"""PyTorch and transformers, as far as they are there: imports, devices, number formats."""

from importlib import import_module
from typing import Any

from perch.core.extras import how_to_install
from perch.errors import BadConfig
from perch.inference.parakeet.model import LoadOptions

INSTALL = how_to_install("transformers")


def libraries() -> tuple[Any, Any]:
    """The modules ``torch`` and ``transformers``.

    Raises:
        BadConfig: One is not installed; the message says how to.
    """
    try:
        torch, transformers = import_module("torch"), import_module("transformers")
    except ImportError as problem:
        raise BadConfig(f"This model needs PyTorch and transformers ({problem}): {INSTALL}") from problem
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    # cuDNN's attention makes a plan for every new batch size and length, up to half a second each (transformers
    # issue 48163, FunASR issue 3704); here both change all the time. PyTorch's own kernels need none.
    torch.backends.cuda.enable_cudnn_sdp(enabled=False)
    return torch, transformers


def device_of(torch: Any, options: LoadOptions) -> str:
    """``cuda`` or ``cpu``.

    Raises:
        BadConfig: CUDA was asked for and is not there, or is not there and the CPU was not allowed.
    """
    has_cuda = bool(torch.cuda.is_available())
    if options.device == "cuda" and not has_cuda:
        raise BadConfig(
            "There is no CUDA device that PyTorch can use: check nvidia-smi and that torch is a CUDA build."
        )
    if options.device == "cpu" or not has_cuda:
        if not options.allow_cpu:
            raise BadConfig(
                "There is no CUDA device. On a CPU this model in PyTorch is too slow for production: use its "
                "ONNX export (int8, several streams on two cores), or give --allow-cpu to try it anyway."
            )
        return "cpu"
    return "cuda"


def dtype_of(torch: Any, options: LoadOptions, device: str) -> Any:
    """The number format of the weights.

    Raises:
        BadConfig: PyTorch does not run these models in it.
    """
    if options.dtype == "int8":
        raise BadConfig("int8 is for ONNX exports; PyTorch runs float32, bfloat16 or float16.")
    if options.dtype == "auto" and device == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if options.dtype == "auto":
        return torch.float32
    return getattr(torch, options.dtype)
