"""The table of models: what other parts and other people rely on."""

import pytest

from perch.errors import ModelUnavailable
from perch.inference.parakeet.backends import BACKENDS
from perch.registry.catalogue import CATALOGUE, find, get


@pytest.mark.parametrize(
    ("name", "engine_model", "tier", "memory_gb"),
    [
        ("parakeet-0.6b", "nvidia/parakeet-rnnt-0.6b", "fast", 4.0),
        ("parakeet-1.1b", "nvidia/parakeet-rnnt-1.1b", "balanced", 6.0),
    ],
)
def test_the_two_transducers_are_there(name: str, engine_model: str, tier: str, memory_gb: float) -> None:
    """004-22, 004-23."""
    entry = get(name)
    assert (entry.engine, entry.engine_model) == ("parakeet", engine_model)
    assert (entry.tier, entry.languages, entry.memory_gb) == (tier, ("en",), memory_gb)
    assert entry.word_timestamps


def test_a_model_is_found_by_alias_and_published_name_in_any_case() -> None:
    """004-24: parakeet is parakeet-0.6b."""
    assert get("parakeet") is get("parakeet-0.6b") is get("NVIDIA/Parakeet-RNNT-0.6b")
    assert find("nova-2") is None


def test_an_unknown_model_is_told_with_those_there_are() -> None:
    with pytest.raises(ModelUnavailable, match=r"parakeet-tdt-0\.6b-v2.*parakeet-0\.6b"):
        get("whisper-9")


def test_every_name_belongs_to_one_model() -> None:
    names = [name.lower() for entry in CATALOGUE for name in (*entry.names, entry.engine_model)]
    assert len(names) == len(set(names))


def test_weights_say_where_they_are_and_what_loads_them() -> None:
    for entry in CATALOGUE:
        assert entry.weights
        for weights in entry.weights:
            assert weights.backend in BACKENDS
            assert bool(weights.repository) != bool(weights.archive)
            assert weights.files or weights.archive
            assert all(len(digest) == 64 for digest in weights.sha256.values())
            assert set(weights.sha256) <= set(weights.files)


@pytest.mark.parametrize("model", ["parakeet-tdt-0.6b-v2", "parakeet-tdt-0.6b-v3"])
def test_the_digests_of_the_exports_for_a_cpu_are_known(model: str) -> None:
    """Whoever copies them by hand has no hub that would tell."""
    [export] = [weights for weights in get(model).weights if weights.backend == "sherpa-onnx"]
    assert set(export.sha256) == set(export.files)


def test_exports_without_caches_take_whole_utterances_and_libraries_for_a_gpu_windows() -> None:
    """As ``inference.parakeet`` loads them; a model is said to do the best that any of its weights do."""
    for entry in CATALOGUE:
        modes = {weights.device: weights.streaming_mode for weights in entry.weights}
        if "streaming" in entry.id:
            assert set(modes.values()) == {"cache-aware"}
        else:
            assert modes in ({"cpu": "vad-segmented", "cuda": "buffered"}, {"cuda": "buffered"})
    assert get("parakeet-tdt-0.6b-v2").streaming_mode == "buffered"
    assert get("nemotron").streaming_mode == "cache-aware"


def test_each_backend_stands_once_in_a_model() -> None:
    for entry in CATALOGUE:
        backends = [weights.backend for weights in entry.weights]
        assert len(backends) == len(set(backends))
