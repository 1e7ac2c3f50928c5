"""The reference pages say what the code says."""

import asyncio
import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from docs.pages import PAGES, ROOT, first_column, read, section
from perch import errors
from perch.asr.stream import StreamConfig
from perch.core.audio import samples_to_bytes, seconds_to_samples
from perch.core.messages import Limits
from perch.core.outbox import Outbox
from perch.protocols import base, native, settings
from perch.server.config import AdmissionConfig
from perch.server.outgoing import _HIGH_WATER
from perch.settings import Settings

REFERENCE = ROOT / "docs/reference"
PROTOCOL = REFERENCE / "protocol.md"
SCHEMA = json.loads((REFERENCE / "native-events.schema.json").read_text(encoding="utf-8"))


async def make_docs(*arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "scripts/make_docs.py", *arguments),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def test_the_generated_parts_are_what_the_script_makes() -> None:
    status, difference = await make_docs("--check")
    assert status == 0, f"run: ./run python scripts/make_docs.py\n{difference}"


async def test_the_check_notices_a_page_that_says_something_else(tmp_path: Path) -> None:
    for page in REFERENCE.glob("*.md"):
        shutil.copy(page, tmp_path)
    assert (await make_docs("--folder", str(tmp_path)))[0] == 0
    stale = tmp_path / "settings.md"
    good = read(stale)
    stale.write_text(good.replace("`8443`", "`8080`"), encoding="utf-8")
    status, difference = await make_docs("--check", "--folder", str(tmp_path))
    assert status == 1
    assert "8080" in difference
    assert (await make_docs("--folder", str(tmp_path)))[0] == 0
    assert read(stale) == good


def test_the_command_line_is_described_as_its_help_says_it() -> None:
    """Defaults are filled in, in whatever format, and a percent sign is one."""
    described = read(REFERENCE / "cli.md")
    assert "Measured in each step (default: 20)." in described
    assert not re.search(r"%\(|%%", described)


def test_every_setting_is_described() -> None:
    described = first_column(read(REFERENCE / "settings.md"))
    assert described == [name.upper() for name in Settings.model_fields]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_names_no_setting_that_does_not_exist(page: Path) -> None:
    others = {"PERCH_API_KEY", "PERCH_ENGINE_API_KEY", "PERCH_OFFLINE"}
    known = {name.upper() for name in Settings.model_fields} | others
    named = set(re.findall(r"\b(?:PERCH|RIVA|ASR)_[A-Z0-9_]+[A-Z0-9]\b", read(page)))
    unknown = {name for name in named - known if not name.startswith("PERCH_LOAD_")}
    assert {name for name in unknown if name.removesuffix("_FILE") not in known} == set()


def test_every_code_a_client_can_meet_is_described_once() -> None:
    described = first_column(read(REFERENCE / "errors.md"))
    assert sorted(described) == sorted(_codes(errors.PerchError))


def _codes(kind: type[errors.PerchError]) -> set[str]:
    children = [child for child in kind.__subclasses__() if child.__module__ == errors.__name__]
    return set[str]().union(*map(_codes, children)) if children else {kind.code}


def test_every_close_code_is_described() -> None:
    described = set(
        re.findall(r"^\| (\d{4}) ", section(REFERENCE / "errors.md", "Close codes"), re.MULTILINE)
    )
    sent = {base.CLOSE_NORMAL, base.CLOSE_INTERNAL, *base.CLOSE_CODES.values()}
    assert described == {str(code) for code in sent}


def test_every_event_of_the_schema_is_described() -> None:
    described = first_column(section(PROTOCOL, "What the server sends"))
    kinds = {option["$ref"].rpartition("/")[2] for option in SCHEMA["oneOf"]}
    assert kinds <= set(described)


def test_every_command_is_described() -> None:
    described = set(first_column(section(PROTOCOL, "What a client sends")))
    assert {"start", *native._COMMANDS} <= described


def test_every_key_of_the_configuration_is_described_and_no_other() -> None:
    keys = section(PROTOCOL, "The keys of `config`")
    assert sorted(first_column(keys)) == sorted(settings.KEYS)
    for key in (*settings._ENDPOINTING, *settings.ENCODINGS):
        assert f"`{key}`" in keys


def test_every_notice_is_described_and_no_other() -> None:
    source = "".join(read(path) for part in ("asr", "core", "server") for path in _modules(part))
    sent = set(re.findall(r"\b(?:Notice|notify|receive_notice)\(\s*\"(\w+)\"", source))
    assert set(first_column(section(PROTOCOL, "Notices"))) == sent


def _modules(part: str) -> list[Path]:
    return sorted((ROOT / "src/perch" / part).glob("*.py"))


def test_every_limit_told_to_clients_is_named() -> None:
    text = section(PROTOCOL, "Limits")
    assert all(f"`{name}`" in text for name in Limits.__slots__)


@pytest.mark.parametrize(
    ("what", "number"),
    [
        ("PERCH_SPOOL_BYTES", Limits().spool_bytes),
        ("asr/stream.py", samples_to_bytes(seconds_to_samples(StreamConfig().replay_s))),
        ("PERCH_MAX_MESSAGE_BYTES", Limits().max_message_bytes),
        ("core/outbox.py", Outbox()._max_events),
        ("server/outgoing.py", _HIGH_WATER),
        ("PERCH_MAX_SESSION_S", Limits().max_session_s),
        ("PERCH_MAX_SESSIONS", AdmissionConfig().max_sessions),
    ],
)
def test_the_page_on_memory_has_the_numbers_of_the_code(what: str, number: float) -> None:
    table = section(ROOT / "docs/explanation/memory.md", "Memory")
    [row] = [line for line in table.splitlines() if f"`{what}`" in line]
    assert re.search(rf"\b{number:.0f}\b", row), row


def test_the_architecture_note_is_short_and_names_files_functions_and_the_one_boundary() -> None:
    note = section(ROOT / "docs/explanation/design.md", "Architecture note")
    assert 200 <= len(note.split()) <= 400
    for name in ("perch.asr.base.ASRClient", "RivaASRClient", "MockASRClient"):
        assert name in note
    for path in re.findall(r"`((?:\w+/)+\w+\.py)", note):
        assert (ROOT / "src/perch" / path).is_file(), f"{path} does not exist"


def test_the_names_in_the_architecture_note_exist() -> None:
    note = section(ROOT / "docs/explanation/design.md", "Architecture note")
    source = "".join(read(path) for path in (ROOT / "src/perch").rglob("*.py"))
    names = {part for quoted in re.findall(r"`([^`]+)`", note) for part in re.findall(r"\w+", quoted)}
    folders = {path.stem for path in (ROOT / "src").rglob("*")} | {"src", "py"}
    assert {name for name in names - folders if not re.search(rf"\b{name}\b", source)} == set()
