"""NeMo checkpoints of a megabyte with random weights, written by NeMo, and what NeMo itself says with them."""

from pathlib import Path
from typing import Any

import numpy as np
from bench.random_nemo import Kind, Sizes, save

from perch.inference.parakeet.model import Audio

SMALL = Sizes(
    layers=2,
    width=64,
    heads=4,
    convolution=16,
    mels=80,
    vocabulary=64,
    predictor=48,
    predictor_layers=1,
    contexts=((28, 6), (28, 1), (28, 0)),
)


def build(folder: Path, kind: Kind) -> Path:
    """``kind.nemo`` in ``folder``."""
    return save(folder / f"{kind}.nemo", kind, SMALL)


def by_nemo(file: Path, audio: Audio) -> Any:
    """What NeMo's ``transcribe`` says of one utterance: its hypothesis."""
    return restored(file).transcribe([audio], return_hypotheses=True, verbose=False)[0]


def streamed_by_nemo(file: Path, audio: Audio, lookahead: int) -> list[int]:
    """The tokens of NeMo's own cache-aware streaming, one stream, as its example script does it."""
    import torch
    from nemo.collections.asr.parts.utils.streaming_utils import CacheAwareStreamingAudioBuffer

    model = restored(file)
    model.encoder.set_default_att_context_size([28, lookahead])
    buffer = CacheAwareStreamingAudioBuffer(model=model, online_normalization=False)
    _, length, _ = buffer.append_audio(audio, stream_id=-1)
    # NeMo makes one feature frame more than there are, of zeros, and streams it as if it were one.
    buffer.buffer = buffer.buffer[:, :, : int(length)]
    channel, time, filled = model.encoder.get_initial_cache_state(batch_size=1)
    hypotheses, ids = None, []
    with torch.inference_mode():
        for step, (chunk, length) in enumerate(iter(buffer)):
            _, _, channel, time, filled, hypotheses = model.conformer_stream_step(
                processed_signal=chunk,
                processed_signal_length=length,
                cache_last_channel=channel,
                cache_last_time=time,
                cache_last_channel_len=filled,
                keep_all_outputs=buffer.is_buffer_empty(),
                previous_hypotheses=hypotheses,
                previous_pred_out=None,
                drop_extra_pre_encoded=0 if step == 0 else model.encoder.streaming_cfg.drop_extra_pre_encoded,
                return_transcription=True,
            )
            ids = np.asarray(hypotheses[0].y_sequence).tolist()
    return ids


def encoder_frames(file: Path, audio: Audio) -> int:
    """How many frames NeMo's encoder makes of an utterance at once."""
    import torch

    with torch.inference_mode():
        _, lengths = restored(file).forward(
            input_signal=torch.from_numpy(audio)[None], input_signal_length=torch.tensor([len(audio)])
        )
    return int(lengths[0])


def restored(file: Path) -> Any:
    from nemo.collections.asr.models import ASRModel

    model = ASRModel.restore_from(str(file), map_location="cpu").eval()
    model.preprocessor.featurizer.dither = 0.0
    model.preprocessor.featurizer.pad_to = 0
    return model
