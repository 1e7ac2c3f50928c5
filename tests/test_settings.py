"""Settings: every bad value named in one message, secrets from files, safe defaults."""

from pathlib import Path

import pytest

from perch import settings
from perch.settings import InvalidSettings, load

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable and no .env of the machine leaks into a test."""
    for name in settings.Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)


def test_the_defaults_are_valid_and_start_the_embedded_engine() -> None:
    loaded = load()
    assert loaded.backend() == "engine"
    assert loaded.gateway().host == "127.0.0.1"
    assert loaded.gateway().tls is not None


def test_every_bad_value_is_named_in_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERCH_PORT", "eighty")
    monkeypatch.setenv("RIVA_PORT", "700000")
    monkeypatch.setenv("PERCH_TLS_CERT", "/nowhere.pem")
    monkeypatch.setenv("PERCH_PROT", "1")
    monkeypatch.setenv("RIVA_METADATA", "function-id")
    with pytest.raises(InvalidSettings) as invalid:
        load()
    for name in ("PERCH_PORT", "RIVA_PORT", "PERCH_TLS_CERT", "PERCH_PROT", "RIVA_METADATA"):
        assert name in str(invalid.value)


def test_what_other_parts_of_perch_read_is_no_misspelt_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PERCH_COMMAND", "PERCH_OFFLINE"):
        monkeypatch.setenv(name, "1")
    load()


def test_values_that_do_not_go_together_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERCH_BACKEND", "riva")
    with pytest.raises(InvalidSettings, match="RIVA_HOST"):
        load()


def test_beyond_loopback_keys_are_needed_unless_told_otherwise() -> None:
    with pytest.raises(InvalidSettings, match="PERCH_API_KEYS"):
        load(perch_host="0.0.0.0")
    assert load(perch_host="0.0.0.0", perch_insecure=True).perch_insecure
    assert load(perch_host="0.0.0.0", perch_api_keys="k").gateway().api_keys == ("k",)


def test_a_riva_host_is_fronted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIVA_HOST", "riva-1, riva-2:50052, [::1]:50051")
    monkeypatch.setenv("RIVA_API_KEY", "sekret")
    loaded = load()
    assert loaded.backend() == "riva"
    config = loaded.riva()
    assert config.endpoints == ("riva-1:50051", "riva-2:50052", "[::1]:50051")
    assert config.api_key == "sekret"
    assert config.backend.kind == "riva"


def test_our_own_engine_is_not_sent_rivas_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIVA_API_KEY", "sekret")
    monkeypatch.setenv("RIVA_SSL", "true")
    config = load().riva(endpoint="127.0.0.1:1")
    assert (config.api_key, config.channel.tls, config.backend.kind) == ("", False, "engine")


def test_secrets_may_live_in_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("one\ntwo\n", encoding="utf-8")
    monkeypatch.setenv("PERCH_API_KEYS_FILE", str(tmp_path / "keys"))
    loaded = load()
    assert loaded.gateway().api_keys == ("one", "two")
    assert set(loaded.secrets()) == {"one", "two"}
    monkeypatch.setenv("RIVA_API_KEY_FILE", str(tmp_path / "missing"))
    with pytest.raises(InvalidSettings, match="RIVA_API_KEY_FILE"):
        load()


def test_a_bad_secret_is_named_but_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIVA_METADATA", "hunter2")
    with pytest.raises(InvalidSettings) as invalid:
        load()
    assert "hunter2" not in str(invalid.value)


def test_the_example_environment_lists_every_setting_and_is_valid(tmp_path: Path) -> None:
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    assert example == settings.example() + "\n", "run: ./run config example > .env.example"
    (tmp_path / ".env").write_text(example, encoding="utf-8")
    assert load().model_dump() == settings.Settings(_env_file=None).model_dump()  # type: ignore[call-arg]


def test_the_state_folder_is_known_whatever_else_is_wrong(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PERCH_PORT", "abc")
    assert settings.state_dir() == Path(".perch")
    monkeypatch.setenv("PERCH_STATE_DIR", str(tmp_path / "state"))
    assert settings.state_dir() == tmp_path / "state"
