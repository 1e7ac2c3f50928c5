"""NeMo checkpoints with random weights, written by NeMo itself in the very format of real ones.

What such a model says is nonsense, but it costs what a trained one costs (see ``bench.talkative``). Made
for measurements and tests; needs ``nemo_toolkit[asr]``.
"""

import random
import tempfile
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from bench.talkative import babble

from bench import talkative
from perch.inference.parakeet.model import Audio
from perch.inference.parakeet.nemo_checkpoint import libraries
from perch.inference.parakeet.nemo_transducer import transducer_of

Kind = Literal["streaming", "rnnt", "tdt", "ctc"]

DURATIONS = [0, 1, 2, 3, 4]

_SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u")]


@dataclass(frozen=True, slots=True)
class Sizes:
    """The shape of a model; these are Parakeet's and Nemotron's of 0.6 billion parameters."""

    layers: int = 24
    width: int = 1024
    heads: int = 8
    kernel: int = 9
    convolution: int = 256
    """Channels of the subsampling convolutions."""
    mels: int = 128
    vocabulary: int = 1024
    """Tokens without the blank."""
    predictor: int = 640
    predictor_layers: int = 2
    contexts: tuple[tuple[int, int], ...] = ((70, 13), (70, 6), (70, 1), (70, 0))
    """Of a streaming model: frames seen to the left and to the right."""


def save(file: Path, kind: Kind, sizes: Sizes, *, seed: int = 0, sound: Audio | None = None) -> Path:
    """Write ``file`` (``*.nemo``), the same for the same arguments.

    Args:
        file: To write.
        kind: Of model.
        sizes: Its shape.
        seed: Of its weights.
        sound: Speech at which it is to say something; None is babble.
    """
    torch, models = libraries()
    omegaconf = import_module("omegaconf")
    torch.manual_seed(seed)
    classes = {"ctc": models.EncDecCTCModelBPE}
    with tempfile.TemporaryDirectory() as folder:
        _write_tokenizer(Path(folder), sizes.vocabulary)
        config = omegaconf.OmegaConf.create(_config(kind, sizes, folder))
        model = classes.get(kind, models.EncDecRNNTBPEModel)(cfg=config).eval()
        with torch.inference_mode():
            _make_talkative(torch, model, kind, babble(20) if sound is None else sound)
        file.parent.mkdir(parents=True, exist_ok=True)
        model.save_to(str(file))
    return file


def _config(kind: Kind, sizes: Sizes, tokenizer: str) -> dict[str, Any]:
    config: dict[str, Any] = {
        "sample_rate": 16_000,
        "model_defaults": {
            "enc_hidden": sizes.width,
            "pred_hidden": sizes.predictor,
            "joint_hidden": sizes.predictor,
        },
        "tokenizer": {"dir": tokenizer, "type": "bpe"},
        "preprocessor": _preprocessor(kind, sizes),
        "encoder": _encoder(kind, sizes),
        "validation_ds": {"manifest_filepath": None, "shuffle": False},
    }
    if kind == "ctc":
        return config | {
            "decoder": {
                "_target_": "nemo.collections.asr.modules.ConvASRDecoder",
                "feat_in": sizes.width,
                "num_classes": -1,
                "vocabulary": [],
            },
            "decoding": {"strategy": "greedy_batch"},
        }
    return config | _transducer(kind, sizes)


def _preprocessor(kind: Kind, sizes: Sizes) -> dict[str, Any]:
    return {
        "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
        "sample_rate": 16_000,
        "normalize": "NA" if kind == "streaming" else "per_feature",
        "window_size": 0.025,
        "window_stride": 0.01,
        "window": "hann",
        "features": sizes.mels,
        "n_fft": 512,
        "log": True,
        "frame_splicing": 1,
        "dither": 1e-5,
        "pad_to": 0,
        "pad_value": 0.0,
    }


def _encoder(kind: Kind, sizes: Sizes) -> dict[str, Any]:
    streams = kind == "streaming"
    return {
        "_target_": "nemo.collections.asr.modules.ConformerEncoder",
        "feat_in": sizes.mels,
        "feat_out": -1,
        "n_layers": sizes.layers,
        "d_model": sizes.width,
        "use_bias": False,
        "subsampling": "dw_striding",
        "subsampling_factor": 8,
        "subsampling_conv_channels": sizes.convolution,
        "causal_downsampling": streams,
        "ff_expansion_factor": 4,
        "self_attention_model": "rel_pos",
        "n_heads": sizes.heads,
        "att_context_size": [list(one) for one in sizes.contexts] if streams else [-1, -1],
        "att_context_style": "chunked_limited" if streams else "regular",
        "xscaling": False,
        "untie_biases": True,
        "pos_emb_max_len": 5000,
        "conv_kernel_size": sizes.kernel,
        "conv_norm_type": "layer_norm" if streams else "batch_norm",
        "conv_context_size": "causal" if streams else None,
        "dropout": 0.0,
        "dropout_pre_encoder": 0.0,
        "dropout_emb": 0.0,
        "dropout_att": 0.0,
    }


def _transducer(kind: Kind, sizes: Sizes) -> dict[str, Any]:
    durations = DURATIONS if kind == "tdt" else []
    loss: dict[str, Any] = {"loss_name": "default"}
    decoding: dict[str, Any] = {"strategy": "greedy_batch", "greedy": {"max_symbols": 10}}
    if kind == "tdt":
        loss = {"loss_name": "tdt", "tdt_kwargs": {"durations": durations, "sigma": 0.02, "omega": 0.1}}
        decoding |= {"model_type": "tdt", "durations": durations}
    return {
        "decoder": {
            "_target_": "nemo.collections.asr.modules.RNNTDecoder",
            "normalization_mode": None,
            "random_state_sampling": False,
            "blank_as_pad": True,
            "vocab_size": sizes.vocabulary,
            "prednet": {
                "pred_hidden": sizes.predictor,
                "pred_rnn_layers": sizes.predictor_layers,
                "t_max": None,
                "dropout": 0.0,
            },
        },
        "joint": {
            "_target_": "nemo.collections.asr.modules.RNNTJoint",
            "log_softmax": None,
            "num_extra_outputs": len(durations),
            "jointnet": {"joint_hidden": sizes.predictor, "activation": "relu", "dropout": 0.0},
        },
        "decoding": decoding,
        "loss": loss,
    }


def _write_tokenizer(folder: Path, count: int) -> None:
    """A SentencePiece model of made-up words, in the files that NeMo packs into a checkpoint."""
    sentencepiece = import_module("sentencepiece")
    chance = random.Random(0)
    words = ["".join(chance.choices(_SYLLABLES, k=chance.randint(1, 3))) for _ in range(3000)]
    sentences = [" ".join(chance.choices(words, k=6)) + chance.choice(".,?") for _ in range(2000)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=count,
        bos_id=-1,
        eos_id=-1,
        minloglevel=2,
    )
    lines = (folder / "tokenizer.vocab").read_text("utf-8").splitlines()
    (folder / "vocab.txt").write_text("\n".join(line.split("\t")[0] for line in lines[1:]), "utf-8")


def _make_talkative(torch: Any, model: Any, kind: Kind, sound: Audio) -> None:
    audio = torch.from_numpy(sound)[None]
    features, count = model.preprocessor(input_signal=audio, length=torch.tensor([len(sound)]))
    before, _ = model.encoder.pre_encode(x=features.transpose(1, 2), lengths=count)
    talkative.centre(model.encoder.pre_encode.out, before[0])
    encoded, lengths = model.encoder(audio_signal=features, length=count)
    frames = encoded[0, :, : int(lengths[0])].T
    if kind == "ctc":
        talkative.ctc(model.decoder.decoder_layers[0], frames)
        return
    decoder, joint = model.decoder, model.joint
    transducer = transducer_of(torch, model)
    talkative.transducer(
        torch,
        talkative.Parts(
            embedding=decoder.prediction["embed"],
            lstm=decoder.prediction["dec_rnn"].lstm,
            encoder_projector=joint.enc,
            decoder_projector=joint.pred,
            head=joint.joint_net[-1],
            vocabulary=decoder.blank_idx,
        ),
        transducer,
        frames,
    )
