"""What the offline and the streaming checkpoints of transformers have in common."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from perch.inference.parakeet.device import is_full
from perch.inference.parakeet.greedy import Emitted
from perch.inference.parakeet.model import WORD_START, Token


def pieces_of(processor: Any, vocabulary: int) -> list[str]:
    """The text of every token id; special tokens have none."""
    tokenizer = processor.tokenizer
    special = set(tokenizer.all_special_ids)
    known = len(tokenizer)
    spelled = tokenizer.convert_ids_to_tokens(list(range(min(vocabulary, known))))
    pieces = ["" if i in special or piece is None else str(piece) for i, piece in enumerate(spelled)]
    return pieces + [""] * (vocabulary - len(pieces))


def tokens_of(emitted: Sequence[Emitted], pieces: Sequence[str], *, first_frame: float) -> list[Token]:
    """Tokens on the utterance's clock; those without text are left out."""
    return [
        Token(pieces[one.id], first_frame + one.frame, one.frames, round(one.probability, 4))
        for one in emitted
        if pieces[one.id]
    ]


def has_punctuation(pieces: Sequence[str]) -> bool:
    """Whether the vocabulary can write a full stop."""
    return any(piece.strip(WORD_START) == "." for piece in pieces)


@contextmanager
def computing(torch: Any) -> Iterator[None]:
    """Without gradients; memory that runs out is ``MemoryError``, on whatever device."""
    try:
        with torch.inference_mode():
            yield
    except torch.OutOfMemoryError as problem:
        torch.cuda.empty_cache()
        raise MemoryError("The GPU's memory is full.") from problem
    except RuntimeError as problem:
        if is_full(problem):
            raise MemoryError("There is not enough memory.") from problem
        raise
