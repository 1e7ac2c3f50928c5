"""What a failed computation was: memory that ran out, or a GPU that is lost to the process."""

_LOST = ("CUDA error", "CUDA failure", "_EXECUTION_FAILED", "device-side assert")
"""What PyTorch and onnxruntime say of it, where they raise a plain ``RuntimeError``."""


_FULL = (
    "not enough memory",
    "can't allocate memory",
    "_ALLOC_FAILED",
    "out of memory",
    "Failed to allocate memory",
)
"""What a plain ``RuntimeError`` says where memory ran out: of PyTorch's CPU allocator, cuBLAS and cuDNN, the CUDA
driver, onnxruntime."""


def is_full(problem: BaseException) -> bool:
    """Whether it was memory that ran out."""
    return isinstance(problem, MemoryError) or any(words in str(problem) for words in _FULL)


def is_lost(problem: BaseException) -> bool:
    """Whether every later computation of the process will fail too.

    After an illegal access or a failed assertion on a GPU, CUDA refuses whatever the process asks of it until
    the process ends. Memory that ran out is another matter.
    """
    if is_full(problem):
        return False
    kinds = {kind.__name__ for kind in type(problem).__mro__}
    return "AcceleratorError" in kinds or any(words in str(problem) for words in _LOST)
