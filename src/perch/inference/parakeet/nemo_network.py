"""NeMo's offline models, under the names by which ``transformers_offline`` knows a network and a processor.

So that windows, batches and decoding are the same code for both libraries.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from perch.inference.parakeet.model import Audio
from perch.inference.parakeet.nemo_checkpoint import vocabulary_of
from perch.inference.parakeet.nemo_transducer import networks_of
from perch.inference.parakeet.transformers_features import padded

Tensor = Any


class Network:
    """The networks of an RNN-T, TDT or CTC model.

    Args:
        torch: The module.
        model: NeMo's, on its device and in its number format.
        blank: The number of the blank.
        decodes: Whether it is to decode too, for which it must be ``is_known``.
    """

    def __init__(self, torch: Any, model: Any, blank: int, *, decodes: bool = True) -> None:
        self._torch = torch
        self._model = model
        parameter = next(model.encoder.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        self.config = SimpleNamespace(vocab_size=blank + 1, pad_token_id=blank)
        if decodes and hasattr(model, "joint"):
            self._take(networks_of(model), model.joint.enc)

    def _take(self, networks: Any, projector: Any) -> None:
        """What a transducer has besides an encoder."""
        self.config, self.decoder, self.joint = networks.config, networks.decoder, networks.joint
        self.encoder_projector = projector

    def encoder(self, input_features: Tensor, attention_mask: Tensor, *, output_attention_mask: bool) -> Any:
        """Features of shape (B, T, mels) become frames of shape (B, T / 8, width) and which of them are valid."""
        encoded, lengths = self._model.encoder(
            audio_signal=input_features.transpose(1, 2), length=attention_mask.sum(-1)
        )[:2]
        frames = encoded.transpose(1, 2)
        places = self._torch.arange(frames.shape[1], device=frames.device)
        mask = places[None] < lengths[:, None] if output_attention_mask else None
        return SimpleNamespace(last_hidden_state=frames, attention_mask=mask)

    def ctc_head(self, frames: Tensor) -> Tensor:
        """Logarithms of each token's probability at each frame."""
        return self._model.decoder(encoder_output=frames.transpose(1, 2))


class Processor:
    """The preprocessor and the vocabulary of a model."""

    def __init__(self, torch: Any, model: Any) -> None:
        self._torch = torch
        self._preprocessor = model.preprocessor
        self._device = next(model.encoder.parameters()).device
        self.tokenizer = _Vocabulary(vocabulary_of(model))

    def features(self, windows: Sequence[Audio]) -> tuple[Tensor, Tensor]:
        """Log mel features of shape (B, T, bands), and which of the T are real, shape (B, T)."""
        audio, samples = padded(self._torch, windows, self._device)
        features, counts = self._preprocessor(input_signal=audio, length=samples)
        places = self._torch.arange(features.shape[2], device=self._device)
        return features.transpose(1, 2), places[None] < counts[:, None]


class _Vocabulary:
    def __init__(self, pieces: list[str]) -> None:
        self._pieces = pieces
        self.all_special_ids = [number for number, piece in enumerate(pieces) if piece == "<unk>"]

    def __len__(self) -> int:
        return len(self._pieces)

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        return [self._pieces[one] for one in ids]
