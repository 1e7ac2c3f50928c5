"""Transducers of another make than Parakeet's, whole utterances at once, decoded by NeMo itself.

Stateless decoders, normalised LSTMs and whatever else NeMo knows: its batched greedy decoding is slower
than ``greedy`` and carries nothing on from one call to the next, but is always right for its own models.
"""

from collections.abc import Sequence
from typing import Any

from perch.errors import BadConfig
from perch.inference.parakeet.model import Audio, Facts, LoadOptions, Token
from perch.inference.parakeet.nemo_checkpoint import vocabulary_of
from perch.inference.parakeet.nemo_hypotheses import said
from perch.inference.parakeet.nemo_network import Network, Processor
from perch.inference.parakeet.transformers_common import computing, has_punctuation
from perch.inference.parakeet.whole import WholeModel


class OwnModel(WholeModel):
    """Implements ``Model``."""

    def __init__(self, torch: Any, model: Any, options: LoadOptions, *, decoder: str) -> None:
        if options.mode not in {"auto", "vad-segmented"}:
            raise BadConfig(
                f"{options.name} can only be vad-segmented: NeMo decodes it an utterance at a time."
            )
        self._torch = torch
        self._model = model
        self._vocabulary = vocabulary_of(model)
        self._network = network = Network(torch, model, len(self._vocabulary), decodes=False)
        self._features = Processor(torch, model).features
        super().__init__(
            Facts(
                model=options.name,
                backend="nemo",
                device=network.device.type,
                mode="vad-segmented",
                chunk=0,
                decoder=decoder,
                languages=options.languages,
                punctuation=has_punctuation(self._vocabulary),
                parameters={"dtype": str(network.dtype).removeprefix("torch."), "decoding": "NeMo's own"},
            )
        )

    def _recognise(self, audios: Sequence[Audio]) -> list[list[Token]]:
        network = self._network
        with computing(self._torch):
            features, mask = self._features(audios)
            encoded = network.encoder(features.to(network.dtype), mask, output_attention_mask=True)
            hypotheses = self._model.decoding.rnnt_decoder_predictions_tensor(
                encoder_output=encoded.last_hidden_state.transpose(1, 2),
                encoded_lengths=encoded.attention_mask.sum(-1),
                return_hypotheses=True,
            )
            return [said(hypothesis, self._vocabulary) for hypothesis in hypotheses]
