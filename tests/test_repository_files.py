"""The files an operator uses: they exist, and what they say is true of the program."""

import asyncio
import json
import os
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from load_tool.gateways import listening, mock_gateway
from perch import errors
from perch.observability.metrics import EndpointSample, Metrics, Snapshot, error_codes
from perch.server.config import TlsConfig
from perch.server.tls import server_context
from perch.settings import Settings

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["src", "static", "tests", "load", "dashboards", "runbooks"])
def test_the_folder_is_there_and_holds_something(name: str) -> None:
    assert any((ROOT / name).iterdir())


@pytest.mark.parametrize("name", ["Dockerfile", "pyproject.toml", ".env.example"])
def test_the_file_is_there_and_says_something(name: str) -> None:
    assert (ROOT / name).stat().st_size > 0


# --- dashboard and alerts ----------------------------------------------------------------------------

DASHBOARD = json.loads((ROOT / "dashboards/perch.json").read_text(encoding="utf-8"))
ALERTS = [
    rule
    for group in yaml.safe_load((ROOT / "dashboards/alerts.yml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
    if "alert" in rule
]
RECORDED = {
    rule["record"]: rule["expr"]
    for group in yaml.safe_load((ROOT / "dashboards/alerts.yml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
    if "record" in rule
}
EXPRESSIONS = (
    [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    + [rule["expr"] for rule in ALERTS]
    + list(RECORDED.values())
)

_RECORDED = re.compile(r"\bperch:[a-z0-9_:]+")


def _spelled_out(expression: str) -> str:
    """``expression`` with what it reads of the recording rules in their place; one that is not there fails."""
    return _RECORDED.sub(lambda found: RECORDED[found[0]], expression)


_METRIC = re.compile(r"\b(?:perch|process)_[a-z0-9_]+")
_MATCHER = re.compile(r"\b((?:perch|process)_[a-z0-9_]+)\{([^}]*)\}")
_LABELS_OF_THE_SCRAPE = {"instance", "job"}


def exported() -> dict[str, dict[str, set[str]]]:
    """Every series the gateway exports: its labels and the values they can have."""
    body, _ = Metrics().render(Snapshot(endpoints=(EndpointSample("riva:50051", 0, "closed"),)))
    series: dict[str, dict[str, set[str]]] = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            labels = series.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return series


def conditions(expression: str) -> Iterator[tuple[str, str, str, str]]:
    """Metric, label, operator and value of every label condition."""
    for metric, inside in _MATCHER.findall(expression):
        for label, operator, value in re.findall(r'([a-z_]+)\s*(=~|!~|!=|=)\s*"([^"]*)"', inside):
            yield metric, label, operator, value


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_query_reads_only_metrics_that_the_gateway_exports(expression: str) -> None:
    names = _METRIC.findall(_spelled_out(expression))
    assert names
    assert set(names) <= exported().keys()


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_query_asks_only_for_labels_and_values_that_occur(expression: str) -> None:
    series = exported()
    for metric, label, operator, value in conditions(expression):
        if label in _LABELS_OF_THE_SCRAPE:
            continue
        wanted = value.split("|") if "~" in operator else [re.escape(value)]
        for alternative in wanted:
            assert any(re.fullmatch(alternative, known) for known in series[metric][label]), alternative
    for grouped in re.findall(r"\bby\s*\(([^)]*)\)", expression):
        known = {label for name in _METRIC.findall(expression) for label in series[name]}
        assert {label.strip() for label in grouped.split(",")} <= known | _LABELS_OF_THE_SCRAPE


def test_the_dashboard_shows_latency_quantiles_errors_and_the_engine() -> None:
    shown = " ".join(target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"])
    for metric in ("perch_partial_latency_seconds", "perch_final_latency_seconds"):
        for quantile in ("0.5", "0.95"):
            assert re.search(rf"histogram_quantile\({quantile}, [^+]*{metric}_bucket", shown)
    for metric in ("perch_sessions_closed_total", "perch_engine_failures_total", "perch_engine_ready"):
        assert metric in shown


def test_panels_can_be_told_apart_and_do_not_overlap() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for place in (panel["gridPos"] for panel in panels):
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_happened_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"page", "ticket"}
    notes = rule["annotations"]
    assert notes["summary"]
    assert notes.keys() & {"runbook", "action"}
    assert "runbook" not in notes or (ROOT / notes["runbook"]).is_file()


# --- runbooks ----------------------------------------------------------------------------------------

RUNBOOKS = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "runbooks").glob("*.md")}


def test_there_is_a_runbook_for_a_dead_engine_and_for_going_back() -> None:
    assert {"riva-down.md", "rollback.md"} <= RUNBOOKS.keys()


@pytest.mark.parametrize("name", RUNBOOKS)
def test_a_runbook_names_only_settings_codes_metrics_and_alerts_that_exist(name: str) -> None:
    text = RUNBOOKS[name]
    settings = {field.upper() for field in Settings.model_fields}
    assert set(re.findall(r"\b(?:PERCH|RIVA|ASR)_[A-Z0-9_]+", text)) <= settings
    assert set(_METRIC.findall(text)) <= exported().keys()
    assert set(re.findall(r"\bPerch[A-Z]\w+", text)) <= {rule["alert"] for rule in ALERTS}
    quoted = re.findall(r'"code": "(\w+)"|\bcode `(\w+)`', text)
    assert {one or other for one, other in quoted} <= error_codes()


@pytest.mark.parametrize("name", RUNBOOKS)
def test_a_runbook_says_what_clients_see_and_how_to_verify(name: str) -> None:
    headings = set(re.findall(r"^## (.+)$", RUNBOOKS[name], re.MULTILINE))
    assert "How to verify" in headings
    assert "clients see" in RUNBOOKS[name]
    for command in ("/health", "/ready", "perch check riva"):
        assert command in RUNBOOKS[name]


def test_the_switch_in_the_runbook_has_the_effect_it_names() -> None:
    off = Settings(_env_file=None, asr_enabled=False, riva_host="riva.example")  # type: ignore[call-arg]
    assert off.gateway().asr_enabled is False
    mock = Settings(_env_file=None, perch_backend="mock", riva_host="riva.example")  # type: ignore[call-arg]
    assert mock.backend() == "mock"
    assert errors.AsrDisabled.code == "asr_disabled"


# --- image -------------------------------------------------------------------------------------------


def instructions(name: str) -> list[str]:
    """The arguments of every ``name`` instruction of the Dockerfile, in order."""
    joined = re.sub(r"\\\n", "", DOCKERFILE)
    return re.findall(rf"^{name} +(.+)$", joined, re.MULTILINE)


def test_base_and_tools_are_pinned_and_dependencies_come_from_the_lock() -> None:
    [argument] = instructions("ARG")
    assert re.fullmatch(r"PYTHON=python:3\.11\.\d+-slim-[a-z]+(@sha256:[0-9a-f]{64})?", argument)
    assert instructions("FROM") == ["${PYTHON} AS build", "${PYTHON}"]
    installs = [line for line in instructions("RUN") if "install" in line or "sync" in line]
    for line in installs:
        assert re.search(r"\buv==\d+\.\d+\.\d+$", line) or "uv sync --frozen --no-default-groups" in line


def test_the_image_runs_the_gateway_as_nobody_special() -> None:
    assert instructions("USER") == ["10001:10001"]
    assert instructions("EXPOSE") == ["8443"]
    assert json.loads(instructions("ENTRYPOINT")[0]) == ["perch"]
    assert json.loads(instructions("CMD")[0]) == ["serve", "--host", "0.0.0.0"]
    final = DOCKERFILE.rpartition("\nFROM ")[2]
    assert "USER 10001:10001" in final
    assert "COPY --from=build /opt/perch /opt/perch" in final


def test_the_image_fetches_no_weights() -> None:
    fetchers = r"curl|wget|https?://|huggingface|ngc |\.onnx|\.nemo|\.riva|\.rmir|^ADD "
    code = "\n".join(line for line in DOCKERFILE.splitlines() if not line.startswith(("#", "HEALTHCHECK")))
    assert not re.search(fetchers, code.replace(healthcheck()[-1], ""), re.MULTILINE)


def test_every_copied_path_exists_and_is_let_through_by_dockerignore() -> None:
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [rule for rule in rules if rule and not rule.startswith("#")]
    let_through = {rule[1:] for rule in patterns if rule.startswith("!")}
    copied = {
        source
        for line in instructions("COPY")
        if not line.startswith("--from")
        for source in shlex.split(line)[:-1]
    }
    assert patterns[0] == "*"
    assert copied == let_through == {"pyproject.toml", "uv.lock", "README.md", "LICENSE", "static", "src"}
    assert all((ROOT / path).exists() for path in copied)
    assert {"**/.env*", "**/*.pem", "**/*.key"} <= set(patterns)


def test_the_build_has_every_file_the_package_is_built_from() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    named = {project["project"]["readme"], *project["project"]["license-files"], *wheel["force-include"]}
    assert named <= set(re.findall(r"[\w.]+", " ".join(instructions("COPY"))))


def healthcheck() -> list[str]:
    """The health check's command."""
    [line] = instructions("HEALTHCHECK")
    command: list[str] = json.loads(line[line.index("[") :])
    return command


async def probe(host: str) -> int:
    """The exit status of the health check, looking for a gateway at ``host``."""
    scheme, _, port = host.split(":")
    assert healthcheck()[0] == "python"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *healthcheck()[1:],
        env=os.environ | {"PERCH_PORT": port, "PERCH_TLS": str(scheme == "https").lower()},
        stderr=asyncio.subprocess.DEVNULL,
    )
    return await asyncio.wait_for(process.wait(), 20)


async def test_the_health_check_passes_on_a_gateway_that_refuses_every_session() -> None:
    async with mock_gateway(asr_enabled=False) as host:
        assert await probe(host) == 0


async def test_the_health_check_passes_on_a_self_signed_certificate(tmp_path: Path) -> None:
    context, self_signed = server_context(TlsConfig(), tmp_path, "127.0.0.1")
    assert self_signed is not None
    async with mock_gateway(ssl_context=context) as host:
        assert host.startswith("https:")
        assert await probe(host) == 0


async def test_the_health_check_fails_on_an_answer_that_is_not_ok_and_on_none() -> None:
    async def broken(_: web.Request) -> web.Response:
        return web.Response(status=500)

    app = web.Application()
    app.router.add_get("/health", broken)
    async with listening(app) as host:
        assert await probe(host) == 1
    assert await probe(host) == 1
