"""Makes a model with random weights say something, about as often as a trained one does.

Decoding costs by the token, so a random model that says nothing, or ten tokens at every frame, costs
something else than a trained one. Here a transducer's tokens are of two kinds, even and odd. The sound
calls for one or the other, and the token said last forbids its own kind: so each turn of the sound brings
one token, as a syllable does, and silence brings none. Which token of its kind it is depends on the sound
and on the tokens before. The blank's bias sets how strong a turn must be, and is chosen so that babble
brings ``TOKENS_PER_FRAME``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

TOKENS_PER_FRAME = 1 / 3
"""As of a trained model while somebody speaks: a token every 240 ms."""

_TURN, _FORBIDDEN, _CHOICE = 24.0, 120.0, 1.0
"""Logits: how much a sound favours its kind, how much less a second of that kind is likely, and how much
a sound favours one token of a kind before another."""

_DIRECTIONS = 8
"""Of a random encoder's output, that are looked at for one that changes quickly."""

_START = 16
"""Frames at an utterance's begin, which are unlike the rest."""

_STRONGEST = 2.0
"""Standard deviations at which a sound is as strong as can be: some sounds are far out."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The layers of a transducer that are changed, and its number of tokens without the blank."""

    embedding: Any
    lstm: Any
    encoder_projector: Any
    decoder_projector: Any
    head: Any
    vocabulary: int


def babble(seconds: float, seed: int = 0) -> NDArray[np.float32]:
    """Sound with the pace of speech: syllables of changing pitch and colour, pauses, some noise. 16 kHz."""
    chance = np.random.default_rng(seed)
    count, length = round(seconds * 5), 3_200
    time = np.arange(length) / 16_000
    parts = []
    for loudness in chance.choice([0.0, 0.6, 1.0, 1.0], count):
        pitch, colour = chance.uniform(90, 220), chance.uniform(300, 3_000)
        harmonics = np.arange(1, 20)[:, None]
        weights = np.exp(-(((harmonics * pitch - colour) / 500) ** 2))
        voice = (weights * np.sin(2 * np.pi * harmonics * pitch * time)).sum(0)
        parts.append(0.1 * loudness * np.sin(np.pi * time / 0.2) * (voice + chance.normal(0, 0.2, length)))
    sound = np.concatenate(parts) + chance.normal(0, 0.001, count * length)
    return sound.astype(np.float32)


def centre(layer: Any, outputs: Any) -> None:
    """Have a linear layer make as much of how sounds differ as of what they have in common.

    The features of all sounds have much in common, beside which a random encoder would not hear them differ.

    Args:
        layer: The last one before the encoder's blocks.
        outputs: Of it for babble, shape (T, width).
    """
    steady = outputs[_START:]
    mean, spread = steady.mean(0), float(steady.std(0).mean())
    layer.weight.div_(spread)
    layer.bias.sub_(mean).div_(spread)


def transducer(torch: Any, parts: Parts, decoder: Any, frames: Any) -> float:
    """Change the layers of ``parts``; ``decoder`` is the ``Transducer`` made of them.

    Args:
        torch: The module.
        parts: Of the model.
        decoder: Decodes with the model.
        frames: What the encoder makes of babble, shape (T, width).

    Returns:
        Tokens per frame.
    """
    even = torch.arange(parts.vocabulary, device=frames.device) % 2 == 0
    _remember(torch, parts, even)
    _hear(torch, parts, frames)
    _call(torch, parts, even)
    heard = parts.encoder_projector(frames)[None]
    lengths = torch.tensor([len(frames)], device=frames.device)

    def tokens() -> int:
        return len(decoder.decode(heard, lengths, decoder.start(1))[0][0])

    # Less, and a sound that calls for neither kind would bring both, again and again.
    least = _FORBIDDEN / 2 + 4 * _CHOICE
    return _bisect(parts.head.bias, parts.vocabulary, tokens, len(frames), least=least)


def ctc(head: Any, frames: Any) -> float:
    """The same for a CTC model: a random linear layer, which needs no more than the blank's bias.

    Args:
        head: A convolution of length 1 or a linear layer; the blank is last.
        frames: What the encoder makes of babble, shape (T, width).
    """
    mean, spread = frames.mean(0), float(frames.std(0).mean())
    head.weight.normal_(0, 2 / (spread * len(mean) ** 0.5))
    weight = head.weight.reshape(head.weight.shape[:2])
    head.bias.copy_(-weight @ mean)
    logits, blank = frames @ weight.T + head.bias, len(head.bias) - 1
    unbiased = float(head.bias[blank])

    def tokens() -> int:
        shifted = logits.clone()
        shifted[:, blank] += head.bias[blank] - unbiased
        best = shifted.argmax(-1)
        return int(((best[1:] != best[:-1]) & (best[1:] != blank)).sum())

    return _bisect(head.bias, blank, tokens, len(frames))


def _hear(torch: Any, parts: Parts, frames: Any) -> None:
    """Half of the joint network's units hear, the first two of them which kind the sound calls for.

    A random encoder's output hardly changes with the sound, so what does not change is taken off and the
    rest made larger. Of two units, which are rectified, the difference is cut off on both sides.
    """
    steady = frames[_START:]
    mean, spread = steady.mean(0), float(steady.std(0).mean())
    layer, half = parts.encoder_projector, _half(parts)
    directions = torch.randn(half // 2, len(mean), device=frames.device) / (spread * len(mean) ** 0.5)
    directions[0] = _quickest(torch, (steady - mean).float()).to(frames.dtype)
    layer.weight[:half] = directions.repeat_interleave(2, 0)
    layer.weight[half:] = 0
    layer.bias.copy_(-layer.weight @ mean)
    layer.bias[:half:2] += _STRONGEST
    layer.bias[1:half:2] -= _STRONGEST


def _quickest(torch: Any, frames: Any) -> Any:
    """The direction, as a weight of unit deviation, along which frames without a mean change quickest.

    Sought among the directions in which they change at all.
    """
    scores, sizes, directions = torch.linalg.svd(frames, full_matrices=False)
    scale = len(frames) ** 0.5
    white = scores[:, :_DIRECTIONS] * scale
    quickest = torch.linalg.svd(white[1:] - white[:-1], full_matrices=False).Vh[0]
    return (quickest / sizes[:_DIRECTIONS] * scale) @ directions[:_DIRECTIONS]


def _call(torch: Any, parts: Parts, even: Any) -> None:
    """What is heard calls for tokens: the kind by the first pair, one of its kind by the others."""
    head, half, count = parts.head, _half(parts), parts.vocabulary
    pairs = torch.randn(head.out_features, half // 2, device=head.weight.device) * (
        _CHOICE / (half // 2) ** 0.5
    )
    pairs[:count, 0] = torch.where(even, _TURN, -_TURN)
    pairs[count] = 0
    pairs[count + 1 :, 0] = 0
    head.weight[:, :half:2], head.weight[:, 1:half:2] = pairs, -pairs
    head.bias -= _STRONGEST * pairs.sum(1)
    for duration, bias in enumerate((-30.0, 3.0, 2.0, 0.0, 0.0)[: head.out_features - count - 1]):
        head.bias[count + 1 + duration] += bias


def _half(parts: Parts) -> int:
    return int(parts.head.in_features) // 4 * 2


def _remember(torch: Any, parts: Parts, even: Any) -> None:
    """The other half tell the kind of the last token, and in part which it was."""
    half = _half(parts)
    parts.embedding.weight[: parts.vocabulary].normal_(0, 0.4)
    width = parts.lstm.hidden_size
    # An utterance begins with a zero vector, which is like an odd token.
    parts.embedding.weight[: parts.vocabulary, : width // 4] = torch.where(even, 4.0, 0.0)[:, None]
    parts.embedding.weight[parts.vocabulary] = 0
    for name, weights in parts.lstm.named_parameters():
        weights.normal_(0, (0.5 if name.startswith("weight_hh") else 2.0) / width**0.5)
        if name.startswith("bias"):
            weights.zero_()
            weights[width : 2 * width] = -1  # forgets most of what was before the last token
    layer = parts.decoder_projector
    layer.weight.normal_(0, 2 / layer.in_features**0.5)
    layer.weight[:half] = 0
    layer.bias.zero_()
    axis = 1 if parts.lstm.batch_first else 0
    recalled = parts.lstm(parts.embedding.weight[: parts.vocabulary].unsqueeze(axis))[0].squeeze(axis)
    said = layer(recalled)[:, half:].relu()
    means = said[even].mean(0), said[~even].mean(0)
    apart = means[0] - means[1]
    apart = apart / float(apart @ apart) * _FORBIDDEN
    middle = float((means[0] + means[1]) @ apart) / 2
    parts.head.weight.zero_()
    parts.head.bias.zero_()
    parts.head.weight[: parts.vocabulary, half:].normal_(0, 1 / half**0.5)
    parts.head.weight[: parts.vocabulary, half:] += torch.where(even, -1.0, 1.0)[:, None] * apart
    parts.head.bias[: parts.vocabulary] = torch.where(even, middle, -middle)


def _bisect(bias: Any, blank: int, count: Callable[[], int], frames: int, *, least: float = -80.0) -> float:
    """Set the blank's bias so that ``count()`` tokens come of so many frames, as nearly as can be.

    From above, for a model that says ten tokens at every frame takes long to say them.
    """
    wanted, high = frames * TOKENS_PER_FRAME, float(bias[blank]) + 120.0
    low = high
    bias[blank] = high
    while count() < wanted and low > least:
        high, low = low, max(least, low - 4.0)
        bias[blank] = low
    for _ in range(6):
        bias[blank] = (low + high) / 2
        if count() > wanted:
            low = float(bias[blank])
        else:
            high = float(bias[blank])
    bias[blank] = high
    return count() / frames
