"""NeMo's prediction and joint networks, under the names by which ``greedy.Transducer`` knows them."""

from types import SimpleNamespace
from typing import Any

from perch.inference.parakeet.greedy import Transducer

Tensor = Any


class _Predictor:
    """NeMo's LSTM wants time first; this takes and gives (B, 1, width)."""

    def __init__(self, recurrent: Any) -> None:
        self._recurrent = recurrent

    def __call__(
        self, embedded: Tensor, state: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        out, state = self._recurrent(embedded.transpose(0, 1), state)
        return out.transpose(0, 1), state


def is_known(model: Any) -> bool:
    """Whether its networks are of Parakeet's make: a plain LSTM, and layers that are added and rectified."""
    if type(model.decoder).__name__ != "RNNTDecoder":
        return False
    recurrent = model.decoder.prediction["dec_rnn"]
    return (
        type(model.joint).__name__ == "RNNTJoint"
        and type(recurrent).__name__ == "LSTMDropout"
        and not model.decoder.is_adapter_available()
        and not model.joint.is_adapter_available()
    )


def transducer_of(torch: Any, model: Any) -> Transducer:
    """Decodes with the networks of an RNN-T or TDT model of NeMo for which ``is_known``."""
    return Transducer(torch, networks_of(model))


def networks_of(model: Any) -> Any:
    """What ``Transducer`` takes of a model."""
    decoder, joint = model.decoder, model.joint
    *_, head = joint.joint_net
    parameter = next(joint.parameters())
    return SimpleNamespace(
        config=SimpleNamespace(
            blank_token_id=decoder.blank_idx,
            vocab_size=decoder.blank_idx + 1,
            max_symbols_per_step=_most_symbols(model.cfg.decoding),
            num_decoder_layers=decoder.pred_rnn_layers,
            decoder_hidden_size=decoder.pred_hidden,
            durations=list(model.cfg.decoding.get("durations") or []) or None,
        ),
        decoder=SimpleNamespace(
            embedding=decoder.prediction["embed"],
            lstm=_Predictor(decoder.prediction["dec_rnn"]),
            decoder_projector=joint.pred,
        ),
        joint=SimpleNamespace(activation=joint.joint_net[0], head=head),
        device=parameter.device,
        dtype=parameter.dtype,
    )


def _most_symbols(decoding: Any) -> int:
    greedy = decoding.get("greedy") or {}
    return int(greedy.get("max_symbols") or greedy.get("max_symbols_per_step") or 10)
