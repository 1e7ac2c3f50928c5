"""Every block of code on a page is true: it is a file, fits the schema, or names options that exist."""

import argparse
import json
import re
import shlex
from importlib import import_module
from typing import Any

import pytest

from docs.pages import ROOT, Block, blocks
from gateways import check_event
from perch.cli.main import VERBS
from perch.protocols.native import NativeProtocol
from perch.settings import Settings

LANGUAGES = {"python", "json", "sh", "console", "ini", "text"}
DEVELOPER_VERBS = set(re.findall(r"^  (\w+)\)$", (ROOT / "run").read_text(encoding="utf-8"), re.MULTILINE))
COMMANDS = [
    pytest.param(line.removeprefix("$ ").strip(), id=f"{block}: {line.strip()[:40]}")
    for block in blocks("sh", "console")
    for line in block.text.splitlines()
    if re.search(r"(\./run|\bperch) [a-z]", line)
]


def each(*languages: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("block", blocks(*languages), ids=str)


def test_no_block_is_in_a_language_that_nothing_here_checks() -> None:
    assert [str(block) for block in blocks() if block.language not in LANGUAGES] == []


@each("python")
def test_a_python_block_is_the_file_it_names(block: Block) -> None:
    assert block.file is not None, "name the example with <!-- file: … -->; it is tested as a program"
    assert block.text == (ROOT / block.file).read_text(encoding="utf-8")


@each("json")
def test_a_json_block_is_a_message_of_the_protocol(block: Block) -> None:
    message = json.loads(block.text)
    if "stream_id" in message:
        check_event(message)
    elif "error" in message:
        assert set(message["error"]) == {"code", "message", "retryable", "retry_after_s"}
    else:
        NativeProtocol("st_1").decode_text(block.text)


@each("ini")
def test_a_line_for_the_env_file_is_a_setting(block: Block) -> None:
    names = {line.partition("=")[0].lower() for line in block.text.splitlines() if "=" in line}
    assert names
    assert names <= Settings.model_fields.keys()


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_names_a_verb_and_options_that_exist(line: str) -> None:
    words = shlex.split(line, comments=True)
    start = next(index for index, word in enumerate(words) if word in {"./run", "perch"})
    for variable in filter(None, (word.partition("=")[0] for word in words[:start] if "=" in word)):
        assert variable.removesuffix("_FILE").lower() in Settings.model_fields, f"{variable} is no setting"
    verb, arguments = words[start + 1], _until_operator(words[start + 2 :])
    if verb in DEVELOPER_VERBS:
        _check_files(arguments)
        return
    assert verb in VERBS
    _parser(verb).parse_args(arguments)


def _until_operator(words: list[str]) -> list[str]:
    for index, word in enumerate(words):
        if word in {"&&", "&", "|", ">", ";"}:
            return words[:index]
    return words


def _check_files(arguments: list[str]) -> None:
    for argument in arguments:
        if argument.startswith(("examples/", "scripts/", "tests/")):
            assert (ROOT / argument).is_file()


class _Strict(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        pytest.fail(message)


def _parser(verb: str) -> argparse.ArgumentParser:
    parser = _Strict(prog=verb)
    import_module(f"perch.cli.{verb}").add_arguments(parser)
    return parser


def test_the_check_of_commands_sees_some() -> None:
    assert len(COMMANDS) > 20
    assert {"test", "lint", "bench", "python"} <= DEVELOPER_VERBS
