"""What NeMo's hypotheses say, in every shape that its versions gave them."""

from types import SimpleNamespace
from typing import Any

import pytest

from perch.inference.parakeet.model import Token
from perch.inference.parakeet.nemo_hypotheses import said

WORDS = ("▁perch", "▁bird", "ing", "<unk>")
FRAMES = [3, 5, 9]


class Tensor:
    """As much of a tensor as a hypothesis has."""

    def __init__(self, values: list[int]) -> None:
        self._values = values

    def tolist(self) -> list[int]:
        return self._values


@pytest.mark.parametrize(
    "times",
    [
        {"timestep": FRAMES},
        {"timestep": {"timestep": FRAMES, "char": [], "word": []}},
        {"timestamp": FRAMES},
        {"timestamp": Tensor(FRAMES)},
        {"timestamp": {"timestep": Tensor(FRAMES), "char": [], "word": []}},
    ],
)
def test_every_shape_of_a_hypothesis_gives_tokens_with_their_frames(times: dict[str, Any]) -> None:
    """004-05: ``timestep`` as a list and as a dictionary, ``timestamp`` as either."""
    hypothesis = SimpleNamespace(y_sequence=Tensor([1, 2, 0]), **times)
    assert said(hypothesis, WORDS) == [Token("▁bird", 3), Token("ing", 5), Token("▁perch", 9)]


def test_a_hypothesis_may_tell_durations_and_chances() -> None:
    hypothesis = SimpleNamespace(
        y_sequence=[0, 3, 2],
        timestamp=FRAMES,
        token_duration=Tensor([2, 1, 0]),
        token_confidence=[0.9, 0.1, 0.5],
    )
    assert said(hypothesis, WORDS) == [Token("▁perch", 3, 2, 0.9), Token("ing", 9, 1, 0.5)]


def test_a_hypothesis_without_times_for_all_tokens_is_no_transcript() -> None:
    with pytest.raises(ValueError, match="zip"):
        said(SimpleNamespace(y_sequence=[0, 1], timestamp=[3]), WORDS)
