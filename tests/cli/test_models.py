"""``perch models``: what is told, and the exit status; pulls by a real process from a hub on loopback."""

import asyncio
import hashlib
import io
import json
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

from perch.cli.main import main
from perch.cli.models import show_list
from perch.cli.pull_display import display
from perch.registry import catalogue
from perch.registry.cache import ModelCache
from perch.registry.manifest import FileFacts, Manifest
from processes import ROOT, perch
from registry.fake_hub import FakeHub, fake_hub

V2 = "parakeet-tdt-0.6b-v2"
REPOSITORY = "csukuangfj/sherpa-onnx-nemo-parakeet-tdt-0.6b-v2-int8"
OTHER, FILE = "parakeet-1.1b", "parakeet-rnnt-1.1b.nemo"
"""Its digest is not known beforehand."""
ENCODER = random.Random(3).randbytes(600_000)
FILES = {
    "encoder.int8.onnx": ENCODER,
    "decoder.int8.onnx": b"decoder",
    "joiner.int8.onnx": b"joiner",
    "tokens.txt": b"a 0\n",
}


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of weights, on a machine without a GPU and without a network."""
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "PERCH_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("PERCH_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setattr("perch.cli.models.has_cuda", lambda _: False)
    return tmp_path / "models"


def models(*arguments: str) -> int:
    return main(["models", *arguments])


def put(folder: Path, model: str = V2, backend: str = "sherpa-onnx") -> Path:
    """Weights that are whole."""
    place = ModelCache(folder).place(model, backend)
    place.mkdir(parents=True)
    (place / "tokens.txt").write_bytes(b"a 0\n")
    facts = {"tokens.txt": FileFacts(4, hashlib.sha256(b"a 0\n").hexdigest())}
    Manifest(model, backend, "acme/x", "c0ffee", facts, "2026-01-01T00:00:00+00:00").write(place)
    return place


def test_the_list_has_every_model_and_what_is_here_of_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """004-22, 004-23, 004-24: ids, alias, memory."""
    put(folder)
    put(folder, "gone", "nemo")
    assert models("list") == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.split()}
    assert lines[V2].rstrip().endswith("sherpa-onnx 4 B")
    assert "parakeet, parakeet-rnnt-0.6b" in lines["parakeet-0.6b"]
    assert "4 GB" in lines["parakeet-0.6b"]
    assert "6 GB" in lines["parakeet-1.1b"]
    assert "25 languages" in lines["parakeet-tdt-0.6b-v3"]
    assert "gone" in lines
    assert str(folder) in lines["Weights"]


@pytest.mark.parametrize(
    ("width", "left_out"),
    [
        (60, {"Aliases", "Licence", "GPU memory", "Streaming", "Languages", "Weights"}),
        (80, {"Aliases", "Licence", "GPU memory", "Streaming", "Languages"}),
        (100, {"Aliases", "Licence", "GPU memory", "Streaming"}),
        (120, {"Aliases", "Licence", "GPU memory"}),
        (150, {"Aliases"}),
        (240, set[str]()),
    ],
)
def test_the_list_shows_what_there_is_room_for_and_breaks_no_id(
    folder: Path, width: int, left_out: set[str]
) -> None:
    put(folder)
    drawn = io.StringIO()
    show_list(Console(file=drawn, width=width), ModelCache(folder))
    table, _, below = drawn.getvalue().partition(f"Weights lie in {folder}.")
    assert below == "\n"
    lines = [line for line in table.splitlines() if line and not line.startswith("Not shown")]
    assert all(len(line) <= width for line in lines)
    shown = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert set(catalogue.names()) <= set(shown)
    columns = {"Aliases", "Licence", "GPU memory", "Streaming", "Languages", "Weights"}
    assert {name for name in columns if name not in lines[0]} == left_out
    told = [line for line in table.splitlines() if line.startswith("Not shown")]
    assert len(told) == bool(left_out)
    assert all(name in told[0] for name in left_out)


def test_the_list_keeps_ids_whole_where_even_they_have_no_room(folder: Path) -> None:
    drawn = io.StringIO()
    show_list(Console(file=drawn, width=20), ModelCache(folder))
    assert "nemotron-speech-streaming-en-0.6b " in drawn.getvalue()


def hand_made(folder: Path) -> Path:
    """Files in the place of weights, whose names are right."""
    place = ModelCache(folder).place(V2, "sherpa-onnx")
    place.mkdir(parents=True)
    for name in FILES:
        (place / name).write_bytes(b"1")
    return place


def test_weights_that_cannot_be_used_are_told_wherever_one_looks(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERCH_COMMAND", "./run")
    mend = f"`./run models pull {V2} --backend sherpa-onnx` fetches anew what differs."
    place = put(folder)
    (place / "tokens.txt").write_bytes(b"a")
    assert models("list") == 0
    listed = capsys.readouterr().out
    assert "sherpa-onnx: damaged" in listed
    assert f"are not whole: tokens.txt (1 bytes instead of 4). {mend}" in listed
    assert models("show", V2) == 0
    assert mend in capsys.readouterr().out
    assert models("show", V2, "--json") == 0
    assert [bool(form["problem"]) for form in json.loads(capsys.readouterr().out)["weights"]] == [True, False]
    assert models("path", V2) == 1
    assert mend in capsys.readouterr().err


def test_files_that_nobody_checked_are_told_wherever_one_looks(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mend = f"`perch models pull {V2} --backend sherpa-onnx --offline` checks and takes them."
    hand_made(folder)
    assert models("list") == 0
    listed = capsys.readouterr().out
    assert "sherpa-onnx: unchecked" in listed
    assert mend in listed
    assert models("show", V2) == 0
    assert mend in capsys.readouterr().out
    for which in ([], [V2]):
        assert models("verify", *which) == 1
        told = capsys.readouterr()
        assert told.out.startswith(f"{V2}\tsherpa-onnx\tNOT CHECKED")
        assert mend in told.err
    assert models("verify", "parakeet-1.1b") == 1
    assert "nothing to verify" in capsys.readouterr().err


def test_offline_other_files_of_the_right_names_are_not_taken(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = hand_made(folder)
    assert models("pull", V2, "--offline") == 1
    assert "not the file that it should be" in capsys.readouterr().err
    assert not (place / "perch.json").exists()


def test_a_pull_that_got_no_connection_leaves_nothing_to_remove(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    (ModelCache(folder).workplace(V2, "sherpa-onnx") / "files").mkdir(parents=True)
    assert models("rm", V2) == 1
    assert f"Nothing of it is in {folder}" in capsys.readouterr().err


def test_the_list_is_there_for_programs_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = put(folder)
    assert models("list", "--json") == 0
    listed = {model["id"]: model for model in json.loads(capsys.readouterr().out)}
    sherpa, nemo = listed[V2]["weights"]
    assert (sherpa["path"], sherpa["bytes"], sherpa["revision"]) == (str(place), 4, "c0ffee")
    assert (nemo["path"], nemo["bytes"]) == (None, None)
    assert listed["parakeet-1.1b"]["memory_gb"] == 6.0


def test_show_takes_an_alias_and_tells_the_licence(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(folder, "parakeet-0.6b", "nemo")
    assert models("show", "parakeet") == 0
    shown = capsys.readouterr().out
    assert "id: parakeet-0.6b" in shown
    assert "licence: CC-BY-4.0" in shown
    assert "weights for nemo (cuda, 2.5 GB): here, 4 B" in shown
    assert "  buffered, from nvidia/parakeet-rnnt-0.6b" in shown
    assert models("show", "parakeet", "--json") == 0
    assert json.loads(capsys.readouterr().out)["punctuation"] is False


def test_show_tells_how_each_form_of_the_weights_streams(capsys: pytest.CaptureFixture[str]) -> None:
    """Those for the CPU of the same model may have no words before a final."""
    assert models("show", V2) == 0
    shown = capsys.readouterr().out
    assert f"  vad-segmented, from {REPOSITORY}" in shown
    assert "  buffered, from nvidia/parakeet-tdt-0.6b-v2" in shown
    assert models("show", V2, "--json") == 0
    forms = json.loads(capsys.readouterr().out)["weights"]
    assert [form["streaming_mode"] for form in forms] == ["vad-segmented", "buffered"]


def test_the_list_tells_how_a_stream_is_recognised_on_this_machine(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def streaming(model: str) -> str:
        assert models("list") == 0
        lines = capsys.readouterr().out.splitlines()
        [head] = [line for line in lines if "Streaming" in line]
        [line] = [line for line in lines if line.split()[:1] == [model]]
        return line[head.index("Streaming") : head.index("GPU memory")].strip()

    assert streaming(V2) == "vad-segmented"
    assert streaming("nemotron-speech-streaming-en-0.6b") == "cache-aware"
    assert streaming("parakeet-1.1b") == "buffered, on a GPU"
    monkeypatch.setattr("perch.cli.models.has_cuda", lambda _: True)
    assert streaming("parakeet-1.1b") == "buffered"
    put(folder)  # those for the CPU are the ones that are here
    assert streaming(V2) == "vad-segmented"
    put(folder, backend="nemo")
    assert streaming(V2) == "buffered"


def test_path_prints_what_a_loader_is_given(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(folder, backend="nemo")
    place = put(folder)
    assert models("path", V2) == 0
    assert capsys.readouterr().out == f"{place}\n"
    monkeypatch.setattr("perch.cli.models.has_cuda", lambda _: True)
    assert models("path", V2) == 0
    assert capsys.readouterr().out == f"{place.parent / 'nemo'}\n"
    assert models("path", "parakeet", "--backend", "nemo") == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert "perch models pull parakeet-0.6b --backend nemo" in told.err


@pytest.mark.parametrize(
    ("arguments", "about"),
    [
        (("show", "whisper"), f"no model 'whisper'; there is {V2}"),
        (("pull", "whisper"), "no model 'whisper'"),
        (("rm", "../../etc", "--yes"), "no model '../../etc'"),
        (("pull", "parakeet-1.1b"), "no weights for the CPU"),
        (("pull", "parakeet-1.1b", "--backend", "sherpa-onnx"), "there are: nemo"),
        (("pull", V2, "--all", "--backend", "nemo"), "not both"),
        (("rm", V2), "say --yes"),
    ],
)
def test_mistakes_are_named_and_change_nothing(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    about: str,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    put(folder)
    assert models(*arguments) == 2
    assert about in capsys.readouterr().err
    assert len(ModelCache(folder).list()) == 1


def test_an_address_of_the_hub_that_is_none_is_a_mistake(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "nowhere")
    assert models("pull", V2) == 2
    assert "HF_ENDPOINT=nowhere" in capsys.readouterr().err


def test_rm_removes_what_is_here_also_of_a_model_nobody_knows(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(folder)
    put(folder, backend="nemo")
    put(folder, "gone", "nemo")
    assert models("rm", V2, "--backend", "nemo", "--yes") == 0
    assert [(held.id, held.backend) for held in ModelCache(folder).list()] == [
        ("gone", "nemo"),
        (V2, "sherpa-onnx"),
    ]
    assert models("rm", V2, "--yes") == 0
    assert models("rm", "gone", "--yes") == 0
    assert ModelCache(folder).list() == []
    assert models("rm", V2, "--yes") == 1
    assert "Nothing of it" in capsys.readouterr().err


def test_rm_asks_a_person(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(folder)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    for answer, left in (("", 1), ("n", 1), ("y", 0)):
        monkeypatch.setattr("builtins.input", lambda _, answer=answer: answer)
        assert models("rm", V2) == (1 if left else 0)
        assert len(ModelCache(folder).list()) == left


def test_verify_names_what_has_changed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert models("verify") == 1
    place = put(folder)
    assert models("verify") == 0
    assert f"{V2}\tsherpa-onnx\t4 B as they were pulled" in capsys.readouterr().out
    (place / "tokens.txt").write_bytes(b"b 0\n")
    assert models("verify", V2) == 1
    told = capsys.readouterr()
    assert "CHANGED: tokens.txt (other content of the same size)" in told.out
    assert f"perch models pull {V2}" in told.err


def test_weights_that_were_cut_off_are_verified_and_not_blessed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = put(folder)
    written = (place / "perch.json").read_bytes()
    (place / "tokens.txt").write_bytes(b"a")
    for _ in range(2):
        assert models("verify") == 1
        told = capsys.readouterr()
        assert told.out == f"{V2}\tsherpa-onnx\tCHANGED: tokens.txt (1 bytes instead of 4)\n"
        assert f"perch models pull {V2} --backend sherpa-onnx" in told.err
        assert models("verify", V2) == 1
        assert "CHANGED: tokens.txt" in capsys.readouterr().out
        assert models("pull", V2, "--offline") == 1
        assert f"{place / 'tokens.txt'}: 1 bytes instead of 4." in capsys.readouterr().err
    assert (place / "perch.json").read_bytes() == written


def test_a_folder_that_cannot_be_written_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert models("pull", V2, "--models-dir", str(tmp_path / "file")) == 1
    assert f"{tmp_path / 'file'}/.locks: Not a directory" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["--offline", "PERCH_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_tells_what_is_missing_without_trying(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if not how.startswith("-"):
        monkeypatch.setenv(how, "1")
    assert models("pull", V2, *(["--offline"] if how.startswith("-") else [])) == 1
    told = capsys.readouterr().err
    assert "Offline, so no connection was tried" in told
    assert f"{folder / V2 / 'sherpa-onnx'}: encoder.int8.onnx, decoder.int8.onnx" in told
    assert not folder.exists()


def test_export_hands_its_options_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    called: list[tuple[Any, ...]] = []

    def export(
        file: Path, folder: Path, *, chunk_ms: int | None, int8: bool, report: Callable[[str], None]
    ) -> None:
        report("encoder done")
        called.append((file, folder, chunk_ms, int8))

    module = ModuleType("perch.inference.parakeet.export")
    module.export = export  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert models("export", "m.nemo", str(tmp_path), "--chunk-ms", "560", "--int8") == 0
    assert called == [(Path("m.nemo"), tmp_path, 560, True)]
    told = capsys.readouterr()
    assert (told.out, told.err) == (f"{tmp_path}\n", "encoder done\n")


def test_on_a_terminal_there_is_a_bar_for_each_file_and_one_for_all() -> None:
    drawn = io.StringIO()
    with display(Console(file=drawn, force_terminal=True, width=100)) as report:
        report.begin("a.onnx", 1000)
        report.begin("[b].txt", 1000)
        report.at("a.onnx", 1000)
        report.at("[b].txt", 500)
        report.say("the connection broke")
    shown = drawn.getvalue()
    assert all(text in shown for text in ("a.onnx", "[b].txt", "the connection broke", "1.5/2.0 kB"))


# --- pulls, by a process -----------------------------------------------------------------------------


async def pulling(hub: FakeHub, folder: Path, *arguments: str, **more: str) -> asyncio.subprocess.Process:
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PERCH_", "HF_")) and not name.lower().endswith("_proxy")
    }
    return await asyncio.create_subprocess_exec(
        *perch("models", "pull", OTHER, "--backend", "nemo", "--models-dir", str(folder), *arguments),
        cwd=ROOT,
        env={**clean, "HF_ENDPOINT": str(hub.hub), **more},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


def served_from() -> Any:
    return fake_hub(repositories={"nvidia/parakeet-rnnt-1.1b": {FILE: ENCODER}}, is_told=False)


async def test_a_pull_prints_where_the_weights_are_and_never_the_token(folder: Path) -> None:
    async with served_from() as hub:
        process = await pulling(hub, folder, HF_TOKEN="hf_secret")
        output, problems = await process.communicate()
    assert process.returncode == 0, problems
    assert output.decode() == f"{folder / OTHER / 'nemo' / FILE}\n"
    told = problems.decode()
    assert f"{FILE}: 0.6 MB of 0.6 MB" in told
    assert "Licence: CC-BY-4.0" in told
    assert "hf_secret" not in told
    assert {asked.authorization for asked in hub.asked} == {"Bearer hf_secret", None}
    [held] = ModelCache(folder).list()
    assert ModelCache(folder).verify(held) == {}


async def test_a_pull_that_is_killed_leaves_what_came_and_the_next_fetches_only_the_rest(
    folder: Path,
) -> None:
    async with served_from() as hub:
        hub.stalls[FILE] = 400_000
        process = await pulling(hub, folder)
        await hub.on_stall.wait()
        part = ModelCache(folder).workplace(OTHER, "nemo") / f"{FILE}.part"
        came = await settled_size(part)
        process.send_signal(signal.SIGKILL)
        await process.communicate()
        assert ModelCache(folder).list() == []
        hub.asked.clear()
        hub.served.clear()
        again = await pulling(hub, folder)
        _, problems = await again.communicate()
    assert again.returncode == 0, problems
    [asked] = hub.requests_for(FILE)
    assert asked.range == f"bytes={came}-"
    assert hub.served[FILE] == len(ENCODER) - came
    [held] = ModelCache(folder).list()
    assert held.path.read_bytes() == ENCODER


async def settled_size(path: Path) -> int:
    """How much another process has written, once all that was sent to it is there."""
    async with asyncio.timeout(30):
        while size_of(path) < 400_000:  # noqa: ASYNC110 - another process has no event for us
            await asyncio.sleep(0.02)
    return size_of(path)


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


async def test_ctrl_c_ends_a_pull_at_once_with_130(folder: Path) -> None:
    async with served_from() as hub:
        hub.stalls[FILE] = 400_000
        process = await pulling(hub, folder)
        await hub.on_stall.wait()
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(30):
            _, problems = await process.communicate()
    assert process.returncode == 130
    assert b"Traceback" not in problems
