"""Whether a failed computation has cost the process its GPU."""

_LOST = ("CUDA error", "CUDA failure", "_EXECUTION_FAILED", "device-side assert")
"""What PyTorch and onnxruntime say of it, where they raise a plain ``RuntimeError``."""


def is_lost(problem: BaseException) -> bool:
    """Whether every later computation of the process will fail too.

    After an illegal access or a failed assertion on a GPU, CUDA refuses whatever the process asks of it until
    the process ends. Memory that ran out is another matter.
    """
    if isinstance(problem, MemoryError):
        return False
    kinds = {kind.__name__ for kind in type(problem).__mro__}
    return "AcceleratorError" in kinds or any(words in str(problem) for words in _LOST)
