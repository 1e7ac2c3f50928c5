"""Models of the true size with random weights, in the very format of real ones, for measurements without any.

    python -m bench.true_size FOLDER --kind streaming --library nemo-onnx --int8
    python -m bench.true_size FOLDER --kind tdt --library transformers

Written is what a loader takes: ONNX files as ``perch models export`` makes them of a ``.nemo`` file
(about 650 MB in 8 bits, and 10 GB of memory to make them), or a folder of transformers in bfloat16 (1.3 GB).
Both have 0.6 billion parameters, and speak at about the pace of speech (see ``bench.talkative``); speech to
set that pace by is better than the babble it is set by otherwise.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from bench.clip import recorded
from bench.random_nemo import Sizes, save

from bench import talkative
from perch.inference.parakeet.export import export
from perch.inference.parakeet.greedy import Transducer
from perch.inference.parakeet.model import Audio
from perch.inference.parakeet.torch_setup import libraries

KINDS = ("streaming", "tdt", "rnnt")
_VOCABULARY = 1024


def main(arguments: Sequence[str] | None = None) -> None:
    """Make one model."""
    given = _parser().parse_args(arguments)
    if given.folder.exists():
        raise SystemExit(f"{given.folder} is there already: remove it or give another name.")
    sound = _speech(given.speech) if given.speech else talkative.babble(40)
    if given.library == "transformers":
        if given.int8:
            raise SystemExit("--int8 is for ONNX files; transformers' are bfloat16.")
        _write_transformers(given.folder, given.kind, sound)
        return
    given.folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=given.folder.parent) as beside:
        file = save(Path(beside) / f"{given.kind}.nemo", given.kind, Sizes(), sound=sound)
        chunk_ms = given.chunk_ms if given.kind == "streaming" else None
        export(file, given.folder, chunk_ms=chunk_ms, int8=given.int8, report=print)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.true_size", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="to write; it must not be there")
    parser.add_argument("--kind", choices=KINDS, default="streaming")
    parser.add_argument("--library", choices=("nemo-onnx", "transformers"), default="nemo-onnx")
    parser.add_argument("--int8", action="store_true", help="ONNX files in 8 bits")
    parser.add_argument("--chunk-ms", type=int, default=560, help="of a streaming model (%(default)s)")
    parser.add_argument(
        "--speech", type=Path, nargs="+", metavar="WAV", help="16 kHz, mono: what sets the pace"
    )
    return parser


def _speech(paths: Sequence[Path]) -> Audio:
    pcm = b"".join(map(recorded, paths))
    return np.frombuffer(pcm, dtype="<i2").astype(np.float32) / np.float32(32_768)


def _write_transformers(folder: Path, kind: str, sound: Audio) -> None:
    torch, hf = libraries()
    torch.manual_seed(0)
    model, processor = _untrained(hf, kind)
    model.eval()
    with torch.inference_mode():
        _make_talkative(torch, model, processor, sound)
    model.generation_config.decoder_start_token_id = _VOCABULARY
    model.to(torch.bfloat16).save_pretrained(folder)
    processor.save_pretrained(folder)
    print(json.dumps({"folder": str(folder), "parameters": sum(one.numel() for one in model.parameters())}))


def _untrained(hf: Any, kind: str) -> tuple[Any, Any]:
    """A model with the sizes that its configuration has by default, which are the true ones."""
    decoder = {"vocab_size": _VOCABULARY + 1, "blank_token_id": _VOCABULARY, "pad_token_id": _VOCABULARY - 1}
    tokenizer = _tokenizer(hf)
    if kind == "streaming":
        model = hf.NemotronAsrStreamingForRNNT(
            hf.NemotronAsrStreamingConfig(**decoder, encoder_config={"num_mel_bins": 128})
        )
        extractor = hf.NemotronAsrStreamingFeatureExtractor(feature_size=128)
        return model, hf.NemotronAsrStreamingProcessor(extractor, tokenizer)
    extractor = hf.ParakeetFeatureExtractor(feature_size=128)
    processor = hf.ParakeetProcessor(extractor, tokenizer, decoder_type=kind)
    encoder = {"encoder_config": {"num_mel_bins": 128, "attention_bias": False, "convolution_bias": False}}
    if kind == "tdt":
        return hf.ParakeetForTDT(hf.ParakeetTDTConfig(**decoder, **encoder)), processor
    return hf.ParakeetForRNNT(hf.ParakeetRNNTConfig(**decoder, **encoder)), processor


def _tokenizer(hf: Any) -> Any:
    tokenizers = import_module("tokenizers")
    pieces = [f"▁w{number}" for number in range(_VOCABULARY - 4)] + ["s", ".", "<unk>", "<pad>", "<blank>"]
    model = tokenizers.models.WordLevel({one: number for number, one in enumerate(pieces)}, unk_token="<unk>")
    backend = tokenizers.Tokenizer(model)
    backend.decoder = tokenizers.decoders.Metaspace()
    return hf.ParakeetTokenizer(tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>")


def _make_talkative(torch: Any, model: Any, processor: Any, sound: Audio) -> None:
    inputs = processor(sound, sampling_rate=16_000, return_tensors="pt")
    features = {"input_features": inputs["input_features"], "attention_mask": inputs["attention_mask"]}
    before: list[Any] = []
    last = model.encoder.subsampling.linear
    hook = last.register_forward_hook(lambda _layer, _given, made: before.append(made[0]))
    model.encoder(**features)
    hook.remove()
    talkative.centre(last, before[0])
    encoded = model.encoder(**features)
    talkative.transducer(
        torch,
        talkative.Parts(
            embedding=model.decoder.embedding,
            lstm=model.decoder.lstm,
            encoder_projector=model.encoder_projector,
            decoder_projector=model.decoder.decoder_projector,
            head=model.joint.head,
            vocabulary=_VOCABULARY,
        ),
        Transducer(torch, model),
        encoded.last_hidden_state[0],
    )


if __name__ == "__main__":
    main()
