"""The engines' files are well formed, and what they say is true of the program."""

import json
import re
import sys
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.engines.loading import BATCH, ENGINES, REALTIME, described, module
from perch.audio.files import MAX_SECONDS
from perch.engine.audio import HIGHEST_RATE, LOWEST_RATE
from perch.engine.registration import RegistrationConfig
from perch.engine.worker import LONGEST_CHUNK_MS, SHORTEST_CHUNK_MS, VARIABLES, read
from perch.errors import BadConfig, ModelUnavailable
from perch.inference.endpointer import Defaults
from perch.inference.parakeet import transformers_offline
from perch.inference.parakeet.model import FRAME
from perch.registry import catalogue
from perch.riva.proto import AudioEncoding

ROOT = ENGINES.parents[1]
FOLDERS = [BATCH, REALTIME]
FILES = (
    "Dockerfile",
    "Dockerfile.dockerignore",
    "requirements.in",
    "requirements.txt",
    "engine.yaml",
    "engine.py",
)
COMPOSE = yaml.safe_load((ENGINES / "compose.yaml").read_text(encoding="utf-8"))["services"]
SCHEMA = json.loads((ENGINES / "engine.schema.json").read_text(encoding="utf-8"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

either = pytest.mark.parametrize("folder", FOLDERS, ids=["batch", "realtime"])


def dockerfile(folder: Path) -> str:
    """Without comments, a line for each instruction."""
    text = (folder / "Dockerfile").read_text(encoding="utf-8")
    kept = [line for line in text.splitlines() if not line.startswith("#")]
    return re.sub(r"\\\n\s*", "", "\n".join(kept))


def pins(folder: Path) -> dict[str, str]:
    lines = (folder / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = [line for line in lines if line and not line.startswith("#")]
    unpinned = [line for line in wanted if not re.fullmatch(r"[A-Za-z0-9._-]+(\[[a-z,]+\])?==[^\s*;]+", line)]
    assert not unpinned
    return {canonicalize_name(line.partition("==")[0]): line.partition("==")[2] for line in wanted}


@either
def test_everything_an_image_is_made_of_is_there(folder: Path) -> None:
    """004-01, 004-11."""
    assert all((folder / name).is_file() for name in FILES)


# --- engine.yaml -------------------------------------------------------------------------------------


@either
def test_the_description_is_of_its_schema_and_holds_schemas(folder: Path) -> None:
    """004-07, 004-17."""
    told = described(folder)
    jsonschema.validate(told, SCHEMA, cls=jsonschema.Draft202012Validator)
    for name in ("config_schema", "output_schema"):
        jsonschema.Draft202012Validator.check_schema(told[name])


@either
def test_languages_and_memory_are_the_catalogues(folder: Path) -> None:
    told = described(folder)
    for name, gigabytes in told["container"]["gpu_memory_gb"].items():
        entry = catalogue.get(name)
        assert entry.memory_gb == gigabytes
        assert list(entry.languages) == told["capabilities"]["languages"]
        assert entry.word_timestamps is told["capabilities"]["word_timestamps"]
        assert any(weights.backend == "nemo" for weights in entry.weights)


@either
def test_its_environment_is_what_the_program_reads_and_the_image_sets(folder: Path) -> None:
    told = described(folder)["environment"]
    assert told.keys() <= VARIABLES.keys()
    settings = read(told, model="parakeet-0.6b")
    assert settings.model == catalogue.get(module(folder).DEFAULT)
    assert settings.port == described(folder)["server"]["port"]
    assert str(settings.models_dir) == described(folder)["container"]["model_cache"]
    image = dockerfile(folder)
    model = re.findall(r"ARG MODEL=(\S+)", image)
    assert set(model) == {told["PARAKEET_MODEL"]}
    for name, value in told.items():
        assert f"{name}={'${MODEL}' if name == 'PARAKEET_MODEL' else value}" in image


def test_the_batch_engine_takes_what_its_config_schema_takes() -> None:
    """004-04: by every name of the two variants."""
    engine = module(BATCH)
    schema = described(BATCH)["config_schema"]
    offered = schema["properties"]["model"]["enum"]
    entries = [catalogue.get(name) for name in engine.VARIANTS]
    assert set(offered) == {name for entry in entries for name in (*entry.names, entry.engine_model)}
    assert schema["properties"].keys() == set(engine.TASK_KEYS)
    assert schema["properties"]["model"]["default"] == engine.DEFAULT
    for config in (
        *({"model": name} for name in offered),
        *({"language": tag} for tag in ("en", "en-GB", "auto")),
    ):
        jsonschema.validate(config, schema)
        assert engine.options_of(config, entries[0]).model in entries
    for config in ({"model": "whisper"}, {"language": "fr"}, {"beam": 4}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(config, schema)


def test_the_longest_recording_is_the_decoders() -> None:
    assert described(BATCH)["capabilities"]["max_audio_duration"] == MAX_SECONDS


def test_latency_characteristics_are_the_programs() -> None:
    """004-14, 004-17."""
    told = described(REALTIME)["streaming"]
    assert (told["min_chunk_duration_ms"], told["max_chunk_duration_ms"]) == (
        SHORTEST_CHUNK_MS,
        LONGEST_CHUNK_MS,
    )
    assert transformers_offline.CHUNK_MS == LONGEST_CHUNK_MS
    assert SHORTEST_CHUNK_MS == FRAME / 16
    chunks = told["supported_chunk_durations_ms"]
    assert (min(chunks), max(chunks)) == (SHORTEST_CHUNK_MS, LONGEST_CHUNK_MS)
    for chunk in chunks:
        assert read({"CHUNK_DURATION_MS": str(chunk)}, model=module(REALTIME).DEFAULT).chunk_ms == chunk
    assert told["chunk_duration_ms"] in chunks
    assert told["lookahead_ms"] == told["chunk_duration_ms"] - SHORTEST_CHUNK_MS
    models = {name: value for name, value in described(REALTIME)["models"].items() if name != "default"}
    for name, value in models.items():
        assert catalogue.get(name).streaming_mode == value["streaming_mode"]


def test_what_audio_streams_may_be_and_how_utterances_end_are_the_programs() -> None:
    told = described(REALTIME)
    known = {name for name, number in AudioEncoding.items() if number != AudioEncoding.ENCODING_UNSPECIFIED}
    assert set(told["audio"]["encodings"]) == known
    assert told["audio"]["sample_rates"] == {"min": LOWEST_RATE, "max": HIGHEST_RATE}
    ends = Defaults()
    assert (told["vad"]["start_history_ms"], told["vad"]["stop_history_ms"], told["vad"]["lookback_ms"]) == (
        ends.start_history_ms,
        ends.stop_history_ms,
        ends.pre_roll_ms,
    )


def test_the_heartbeat_is_the_programs() -> None:
    beats = {field.name: field.default for field in fields(RegistrationConfig)}
    assert described(REALTIME)["heartbeat"] == {"interval": beats["heartbeat_s"], "timeout": 30}


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"CHUNK_DURATION_MS": "100"}, "CHUNK_DURATION_MS is 100; it must be a multiple of 80"),
        ({"CHUNK_SIZE_MS": "2000"}, "CHUNK_SIZE_MS is '2000'; it must be a number from 80 to 1120"),
        ({"MAX_SESSIONS": "0"}, "MAX_SESSIONS"),
        ({"WORKER_PORT": "grpc"}, "WORKER_PORT"),
        ({"DEVICE": "tpu"}, "DEVICE is 'tpu'; it can be cuda, auto, cpu"),
        ({"PARAKEET_BACKEND": "onnx"}, "PARAKEET_BACKEND"),
        ({"ALLOW_CPU": "maybe"}, "ALLOW_CPU"),
    ],
)
def test_a_variable_that_cannot_be_is_refused_by_name(environment: dict[str, str], message: str) -> None:
    with pytest.raises(BadConfig, match=message):
        read(environment, model="parakeet")


def test_a_model_that_is_not_known_is_refused_and_no_cpu_is_used_unless_it_is_allowed() -> None:
    """004-06, 004-45."""
    with pytest.raises(ModelUnavailable, match="parakeet-0"):
        read({"PARAKEET_MODEL": "whisper"}, model="parakeet")
    assert read({}, model="parakeet").device == "cuda"
    assert read({"ALLOW_CPU": "1"}, model="parakeet").device == "auto"
    assert "not for production" in VARIABLES["ALLOW_CPU"]
    assert "not for production" in (ENGINES / "README.md").read_text(encoding="utf-8")


def test_the_readme_names_every_variable_and_no_other() -> None:
    text = (ENGINES / "README.md").read_text(encoding="utf-8")
    table = text.partition("## Settings")[2].partition("\n\nThe weights")[0]
    assert set(re.findall(r"`([A-Z][A-Z_]+)`", table)) - {"RIVA_API_KEY"} == VARIABLES.keys()


# --- requirements and images -------------------------------------------------------------------------


@either
def test_every_package_is_pinned_and_nemo_is_3_0_0(folder: Path) -> None:
    """004-09, 004-46."""
    pinned = pins(folder)
    assert pinned["nemo-toolkit"] == "3.0.0"
    for line in (folder / "requirements.in").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            wanted = Requirement(line)
            assert wanted.specifier.contains(pinned[canonicalize_name(wanted.name)])


@either
def test_the_pins_are_what_perch_itself_needs(folder: Path) -> None:
    """Otherwise requirements.txt is to be made anew, by the command in its first lines."""
    pinned = pins(folder)
    for line in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["redis"]):
        wanted = Requirement(line)
        assert wanted.specifier.contains(pinned[canonicalize_name(wanted.name)]), line


@either
def test_an_image_is_built_in_stages_and_runs_as_nobody_in_particular(folder: Path) -> None:
    """004-08, 004-46: multi-stage, weights pulled while it is built, another user than root."""
    text = dockerfile(folder)
    stages = re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]
    names = [stage.splitlines()[0] for stage in stages]
    assert names == ["${PYTHON} AS build", "build AS weights", "${PYTHON}"]
    build, weights, final = stages
    assert "-r requirements.txt" in build
    assert 'perch models pull "$MODEL" --backend nemo --models-dir /models' in weights
    assert "COPY --from=weights --chown=10001:10001 /models /models" in final
    assert re.findall(r"^USER (.*)$", final, re.MULTILINE) == ["10001:10001"]
    assert "pip install" not in final, "no installer's traces in what is shipped"
    assert 'ENTRYPOINT ["python", "/opt/engine/engine.py"]' in final
    assert "perch check riva --address 127.0.0.1:$WORKER_PORT" in final
    assert re.search(r"^HEALTHCHECK ", final, re.MULTILINE)
    assert re.findall(r"^EXPOSE (.*)$", final, re.MULTILINE) == [str(described(folder)["server"]["port"])]
    assert re.search(r"^ARG PYTHON=python:\d+\.\d+\.\d+-", text, re.MULTILINE), "the base is pinned"


@either
def test_no_secret_goes_into_an_image(folder: Path) -> None:
    text = dockerfile(folder)
    assert "--mount=type=secret,id=hf_token" in text
    for instruction in re.findall(r"^(?:ENV|ARG) .*$", text, re.MULTILINE):
        assert not re.search(r"TOKEN|KEY|PASSWORD|SECRET", instruction)
    ignored = (folder / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignored[1] == "*", "all is left out but what is named"
    assert {"**/.env*", "**/*.pem", "**/*.key"} <= set(ignored)


@either
def test_all_that_an_image_copies_goes_to_its_build(folder: Path) -> None:
    named = {
        line[1:]
        for line in (folder / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
        if line.startswith("!")
    }
    for arguments in re.findall(r"^COPY (?!--from)(.*)$", dockerfile(folder), re.MULTILINE):
        for source in arguments.split()[:-1]:
            assert (ROOT / source).exists()
            assert any(source == name or source.startswith(f"{name}/") for name in named), source


def test_the_two_engines_share_no_code_but_perch() -> None:
    """004-47."""
    allowed = {*sys.stdlib_module_names, "numpy", "perch"}
    for folder, other in ((BATCH, REALTIME), (REALTIME, BATCH)):
        program = (folder / "engine.py").read_text(encoding="utf-8")
        imported = re.findall(r"^(?:from|import) ([a-z_]+)", program, re.MULTILINE)
        assert set(imported) <= allowed
        assert str(other.relative_to(ROOT)) + "/" not in dockerfile(folder)


# --- compose -----------------------------------------------------------------------------------------

ENGINE_SERVICES = {"engine-parakeet": BATCH, "realtime-parakeet-1": REALTIME}


@pytest.mark.parametrize("name", ENGINE_SERVICES)
def test_an_engines_service_reserves_a_gpu_keeps_its_weights_and_is_given_what_it_reads(name: str) -> None:
    """004-25."""
    service: dict[str, Any] = COMPOSE[name]
    [device] = service["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["count"], device["capabilities"]) == ("nvidia", 1, ["gpu"])
    folder = ENGINE_SERVICES[name]
    context = (ENGINES / service["build"]["context"]).resolve()
    assert context / service["build"]["dockerfile"] == folder / "Dockerfile"
    [volume] = service["volumes"]
    assert volume.endswith(":/models")
    assert service["environment"].keys() <= VARIABLES.keys()
    assert service["environment"]["WORKER_PORT"] == "9000"
    assert service["environment"]["MAX_SESSIONS"] == "4"


def test_the_realtime_service_registers_under_its_own_name() -> None:
    """004-25."""
    told = COMPOSE["realtime-parakeet-1"]["environment"]
    registration = read(told, model=module(REALTIME).DEFAULT).registration
    assert registration is not None
    assert registration.worker_id == "realtime-parakeet-1"
    assert registration.endpoint == "realtime-parakeet-1:9000"
    assert registration.url == "redis://redis:6379"
    assert "ports" not in COMPOSE["redis"], "nobody outside reaches it"


def test_a_container_is_given_longer_to_end_than_its_streams_are() -> None:
    period = COMPOSE["realtime-parakeet-1"]["stop_grace_period"]
    assert int(period.removesuffix("s")) > module(REALTIME).GRACE_S


def test_the_gateway_is_pointed_at_the_engines_and_asks_for_a_model_that_is_there() -> None:
    told = COMPOSE["perch"]["environment"]
    hosts = dict(address.split(":") for address in told["RIVA_HOST"].split(","))
    assert hosts == dict.fromkeys(ENGINE_SERVICES, "9000")
    assert told["RIVA_MODEL"] == catalogue.get(module(REALTIME).DEFAULT).id
    assert (ENGINES / COMPOSE["perch"]["build"]["context"]).resolve() == ROOT
    assert told["PERCH_API_KEYS"].startswith("${PERCH_API_KEYS:?"), "callers are asked who they are"
