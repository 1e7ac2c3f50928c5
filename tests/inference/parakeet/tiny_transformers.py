"""Parakeet models of a megabyte with random weights, saved by the public calls as real ones are.

Random weights say nothing sensible, but what they say depends on every frame and on the order of tokens,
so two ways of computing it agree only if both are right. Not every seed will do: a decoder of such weights
can be chaotic, and then the last digit of the encoder's output decides what it says.
"""

from pathlib import Path
from typing import Any

WORDS = [f"▁{word}" for word in ("the", "a", "bird", "sings", "on", "its", "perch", "now")]
ENDINGS = ["s", "ed", "ing", "er", "ly", ".", ",", "'t"]
PIECES = [*WORDS, *ENDINGS, "<pad>", "<unk>", "<blank>"]
BLANK = len(PIECES) - 1
SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "subsampling_conv_channels": 16,
    "num_mel_bins": 80,
    "initializer_range": 0.2,
    "max_position_embeddings": 2000,
}
DECODER = {
    "vocab_size": len(PIECES),
    "blank_token_id": BLANK,
    "pad_token_id": BLANK - 2,
    "decoder_hidden_size": 48,
    "num_decoder_layers": 2,
}


def build(folder: Path, kind: str, *, seed: int = 0) -> Path:
    """A model of a kind (``ctc``, ``rnnt``, ``tdt`` or ``streaming``) in ``folder``."""
    import torch

    torch.manual_seed(seed)
    model = network_of(kind)
    _make_talkative(torch, model, kind)
    model.save_pretrained(folder)
    processor_of(kind).save_pretrained(folder)
    return folder


def processor_of(kind: str) -> Any:
    import transformers as hf

    if kind == "streaming":
        extractor: Any = hf.NemotronAsrStreamingFeatureExtractor(feature_size=80)
        return hf.NemotronAsrStreamingProcessor(extractor, _tokenizer())
    return hf.ParakeetProcessor(hf.ParakeetFeatureExtractor(feature_size=80), _tokenizer(), decoder_type=kind)


def network_of(kind: str) -> Any:
    import transformers as hf

    if kind == "streaming":
        config = hf.NemotronAsrStreamingConfig(**DECODER, encoder_config=SIZES | {"sliding_window": 15})
        return hf.NemotronAsrStreamingForRNNT(config)
    if kind == "ctc":
        return hf.ParakeetForCTC(
            hf.ParakeetCTCConfig(vocab_size=len(PIECES), pad_token_id=BLANK, encoder_config=SIZES)
        )
    if kind == "rnnt":
        return hf.ParakeetForRNNT(hf.ParakeetRNNTConfig(**DECODER, encoder_config=SIZES))
    return hf.ParakeetForTDT(hf.ParakeetTDTConfig(**DECODER, durations=[0, 1, 2, 3, 4], encoder_config=SIZES))


def _make_talkative(torch: Any, model: Any, kind: str) -> None:
    """Weights of a size at which a token comes every few frames and the next depends on the last."""
    with torch.no_grad():
        if kind == "ctc":
            model.ctc_head.weight *= 3
            model.ctc_head.bias[BLANK] += 2
            return
        for parameter in model.decoder.parameters():
            parameter.normal_(0, 0.6)
        model.joint.head.weight.normal_(0, 0.5)
        model.joint.head.bias.zero_()
        model.joint.head.bias[BLANK] += 7 if kind == "streaming" else 4
        if kind == "tdt":
            model.joint.head.bias[len(PIECES)] -= 20  # a duration of 0 is rare
        model.joint.head.bias[len(PIECES) :] -= (
            100  # generate() takes a duration for a token where it is larger
        )
        model.generation_config.decoder_start_token_id = BLANK


def _tokenizer() -> Any:
    import tokenizers
    import transformers as hf

    vocabulary = {piece: index for index, piece in enumerate(PIECES)}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.decoder = tokenizers.decoders.Metaspace()
    return hf.ParakeetTokenizer(tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>")
