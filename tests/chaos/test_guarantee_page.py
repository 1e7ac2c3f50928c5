"""The numbers of the page on the guarantee are those of the code."""

import re

import pytest

from docs.pages import ROOT, read
from perch.asr.attempt import AttemptTimeouts
from perch.asr.channels import ChannelConfig
from perch.asr.stream import StreamConfig
from perch.server.config import ResumeConfig

DEFAULTS = {
    type(config).__name__: config
    for config in (StreamConfig(), AttemptTimeouts(), ChannelConfig(), ResumeConfig())
}
ROWS = re.findall(
    r"^\| `(\w+)\.(\w+)` \| (\d+) \|", read(ROOT / "docs/explanation/guarantee.md"), re.MULTILINE
)


def test_the_page_has_a_table_of_limits() -> None:
    assert ("StreamConfig", "replay_s") in {(config, name) for config, name, _ in ROWS}


@pytest.mark.parametrize(("config", "name", "value"), ROWS)
def test_a_limit_on_the_page_is_the_default_of_the_code(config: str, name: str, value: str) -> None:
    assert float(value) == getattr(DEFAULTS[config], name)
