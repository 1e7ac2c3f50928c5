"""Writes dashboards/perch.json (Grafana) and dashboards/alerts.yml (Prometheus) from the tables below.

Run it after a change: ``./run python scripts/make_dashboards.py``. A test fails while the files are not what it
writes, or while a query names a metric that the gateway does not have.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "dashboards"
DASHBOARD = FOLDER / "perch.json"
ALERTS = FOLDER / "alerts.yml"

FAILED = 'outcome=~"engine_.*|internal_error|lag_exceeded|other"'
"""Sessions that ended by no fault of their client."""

# --- the dashboard -----------------------------------------------------------------------------------

_HERE = '{instance=~"$instance"}'
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True)
class Panel:
    """One panel, and its queries by their legend."""

    title: str
    about: str
    unit: str
    queries: dict[str, str]
    width: int = 8
    kind: str = "timeseries"
    limit: float | None = None
    """Drawn as a line: what is promised."""
    options: dict[str, Any] = field(default_factory=dict)


def _rate(metric: str, by: str = "", labels: str = "") -> str:
    inside = f'instance=~"$instance"{"," if labels else ""}{labels}'
    return f"sum{f' by ({by})' if by else ''}(rate({metric}{{{inside}}}[$__rate_interval]))"


def _quantile(share: float, metric: str, by: str = "") -> str:
    grouped = f"le, {by}" if by else "le"
    return (
        f"histogram_quantile({share:g}, sum by ({grouped}) (rate({metric}_bucket{_HERE}[$__rate_interval])))"
    )


def _percentiles(metric: str) -> dict[str, str]:
    return {f"p{share * 100:g}": _quantile(share, metric) for share in (0.5, 0.95, 0.99)}


def _process(metric: str) -> str:
    """The process's own figures are found by who scraped them."""
    return f"{metric}{_HERE} and on (instance, job) perch_build_info"


_UP_OR_DOWN = {
    "0": {"text": "DOWN", "color": "red"},
    "1": {"text": "ready", "color": "green"},
}

ROWS: list[list[Panel]] = [
    [
        Panel(
            "Engine",
            "Whether each gateway's engine answers.",
            "short",
            {"{{instance}}": f"perch_engine_ready{_HERE}"},
            width=4,
            kind="stat",
            options={"mappings": [{"type": "value", "options": _UP_OR_DOWN}], "noValue": "no gateway"},
        ),
        Panel(
            "Sessions now",
            "Open sessions.",
            "short",
            {"open": f"sum(perch_sessions_active{_HERE})"},
            width=4,
            kind="stat",
        ),
        Panel(
            "Places taken",
            "Open sessions of those that would be admitted.",
            "percentunit",
            {"taken": f"sum(perch_sessions_active{_HERE}) / sum(perch_sessions_limit{_HERE})"},
            width=4,
            kind="stat",
        ),
        Panel(
            "Audio throughput",
            "Seconds of audio accepted for each second: streams that are really sending.",
            "short",
            {"streams": _rate("perch_audio_seconds_total")},
            width=4,
            kind="stat",
        ),
        Panel(
            "Sessions that fail",
            "Of those that end, by no fault of the client. The objective is less than 0.5 %.",
            "percentunit",
            {
                "failing": f"{_rate('perch_sessions_closed_total', labels=FAILED)} / "
                f"{_rate('perch_sessions_closed_total')}"
            },
            width=4,
            kind="stat",
        ),
        Panel(
            "Version",
            "How many gateways run each version.",
            "short",
            {"{{version}}": f"count by (version) (perch_build_info{_HERE})"},
            width=4,
            kind="stat",
        ),
    ],
    [
        Panel(
            "Partial latency",
            "From the arrival of the audio a partial covers to sending it. Objective: p95 at most 300 ms.",
            "s",
            _percentiles("perch_partial_latency_seconds"),
            limit=0.3,
        ),
        Panel(
            "End of speech to final",
            "From the arrival of the last sound of an utterance to sending its final. Objective: p95 at most 800 ms.",
            "s",
            _percentiles("perch_speech_end_to_final_seconds"),
            limit=0.8,
        ),
        Panel(
            "First partial latency",
            "The first partial of a session, from the arrival of the audio it covers.",
            "s",
            _percentiles("perch_first_partial_latency_seconds"),
            limit=0.3,
        ),
    ],
    [
        Panel(
            "Final latency",
            "From the arrival of the audio the engine had heard when it said a final to sending it: endpointing is not in it.",
            "s",
            _percentiles("perch_final_latency_seconds"),
        ),
        Panel(
            "Stages of the gateway (p95)",
            "Where its own time goes: reading a frame, writing to the engine, reading from it, writing to the client.",
            "s",
            {"{{stage}}": _quantile(0.95, "perch_stage_seconds", by="stage")},
        ),
        Panel(
            "Event loop lag (p99)",
            "How late the event loop runs a timer. High lag is a gateway without CPU.",
            "s",
            {"p99": _quantile(0.99, "perch_event_loop_lag_seconds")},
        ),
    ],
    [
        Panel("Sessions", "Open, by gateway.", "short", {"{{instance}}": f"perch_sessions_active{_HERE}"}),
        Panel(
            "Sessions closed by outcome",
            "Each second, by how they ended.",
            "cps",
            {"{{outcome}}": f"{_rate('perch_sessions_closed_total', by='outcome')} > 0"},
        ),
        Panel(
            "Refused by code",
            "Requests and sessions refused before they began.",
            "cps",
            {"{{code}}": f"{_rate('perch_requests_refused_total', by='code')} > 0"},
        ),
    ],
    [
        Panel(
            "Streams on engines",
            "Open on each engine.",
            "short",
            {"{{endpoint}}": f"sum by (endpoint) (perch_engine_streams{_HERE})"},
        ),
        Panel(
            "Engines left alone",
            "1 where a circuit breaker is open: no stream goes to that engine.",
            "short",
            {
                "{{endpoint}}": 'max by (endpoint) (perch_engine_breaker{instance=~"$instance",state="open"})',
            },
        ),
        Panel(
            "Attempts by outcome",
            "Streams opened on engines, by how they ended.",
            "cps",
            {"{{outcome}}": f"{_rate('perch_engine_attempts_total', by='outcome')} > 0"},
        ),
    ],
    [
        Panel(
            "Engine failures by code",
            "Sessions that an engine ended.",
            "cps",
            {"{{code}}": f"{_rate('perch_engine_failures_total', by='code')} > 0"},
        ),
        Panel(
            "Failovers and replays",
            "Streams that went on after their engine failed, and the audio that was sent again for it.",
            "short",
            {
                "failovers, {{code}}": f"{_rate('perch_engine_failovers_total', by='code')} > 0",
                "seconds of audio replayed": _rate("perch_replayed_audio_seconds_total"),
            },
        ),
        Panel(
            "Clients that came back",
            "Sessions taken up again, and those that wait for their client now.",
            "short",
            {
                "from {{source}}": _rate("perch_resumes_total", by="source"),
                "parked": f"sum(perch_sessions_parked{_HERE})",
            },
        ),
    ],
    [
        Panel(
            "Behind the audio",
            "Audio no engine has taken yet, of the session that is furthest behind.",
            "s",
            {"{{instance}}": f"perch_lag_seconds{_HERE}"},
        ),
        Panel(
            "Audio held",
            "Kept until a final covers it: what a failover can replay.",
            "bytes",
            {"{{instance}}": f"perch_spool_bytes{_HERE}"},
        ),
        Panel(
            "Real-time factor (RTFx)",
            "Seconds of audio for each second of wall time, of closed sessions: 1 is a microphone.",
            "short",
            {"p50": _quantile(0.5, "perch_session_rtfx"), "p5": _quantile(0.05, "perch_session_rtfx")},
        ),
    ],
    [
        Panel(
            "Events sent",
            "Each second, by kind.",
            "cps",
            {"{{kind}}": _rate("perch_events_sent_total", by="kind")},
        ),
        Panel(
            "Session length",
            "Audio in closed sessions.",
            "s",
            {
                "p50": _quantile(0.5, "perch_session_audio_seconds"),
                "p95": _quantile(0.95, "perch_session_audio_seconds"),
            },
        ),
        Panel(
            "Session duration",
            "Wall time of closed sessions.",
            "s",
            {
                "p50": _quantile(0.5, "perch_session_duration_seconds"),
                "p95": _quantile(0.95, "perch_session_duration_seconds"),
            },
        ),
    ],
    [
        Panel(
            "CPU",
            "Of one core.",
            "percentunit",
            {
                "{{instance}}": f"rate(process_cpu_seconds_total{_HERE}[$__rate_interval]) "
                "and on (instance, job) perch_build_info"
            },
        ),
        Panel(
            "Memory",
            "Resident.",
            "bytes",
            {"{{instance}}": _process("process_resident_memory_bytes")},
        ),
        Panel(
            "Open files",
            "Each session is one, and so is each connection to an engine.",
            "short",
            {
                "{{instance}}": _process("process_open_fds"),
                "limit": f"min({_process('process_max_fds')})",
            },
        ),
    ],
]


def dashboard() -> str:
    """The dashboard as Grafana imports it."""
    described = {
        "uid": "perch",
        "title": "Perch",
        "description": "The speech gateway: latency, sessions, errors, engine.",
        "tags": ["perch", "speech"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [_data_source(), _instances()]},
        "panels": list(_placed()),
    }
    return json.dumps(described, indent=1, ensure_ascii=False) + "\n"


def _data_source() -> dict[str, Any]:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}


def _instances() -> dict[str, Any]:
    return {
        "name": "instance",
        "label": "Gateway",
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": "label_values(perch_build_info, instance)", "refId": "instance"},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _placed() -> Iterator[dict[str, Any]]:
    y = number = 0
    for row in ROWS:
        height = 5 if row[0].kind == "stat" else 8
        x = 0
        for panel in row:
            number += 1
            yield _panel(panel, number, {"x": x, "y": y, "w": panel.width, "h": height})
            x += panel.width
        y += height


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0, **panel.options}
    if panel.kind == "stat":
        options: dict[str, Any] = {
            "reduceOptions": {"calcs": ["lastNotNull"]},
            "colorMode": "background" if "mappings" in panel.options else "value",
            "graphMode": "none" if "mappings" in panel.options else "area",
        }
    else:
        options = {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi"},
        }
        defaults["custom"] = {"fillOpacity": 10, "showPoints": "never"}
        if panel.limit is not None:
            defaults["custom"]["thresholdsStyle"] = {"mode": "line"}
            steps = [{"color": "green", "value": None}, {"color": "red", "value": panel.limit}]
            defaults["thresholds"] = {"mode": "absolute", "steps": steps}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": _SOURCE, "expr": expr, "legendFormat": legend}
            for index, (legend, expr) in enumerate(panel.queries.items())
        ],
    }


# --- alerts ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Objective:
    """A share of events that may be bad, and the series that say how many were."""

    name: str
    alert: str
    budget: float
    bad: str
    """PromQL with ``WINDOW`` for the range: the share of bad events in it."""
    summary: str
    advice: tuple[str, str]


OBJECTIVES = [
    Objective(
        "partials_late",
        "PerchPartialsLate",
        0.05,
        '1 - sum(rate(perch_partial_latency_seconds_bucket{le="0.3"}[WINDOW])) / '
        "sum(rate(perch_partial_latency_seconds_count[WINDOW]))",
        "of partials come later than 300 ms; 5 % may.",
        (
            "action",
            "If perch_event_loop_lag_seconds is high too, the gateway is short of CPU; else the engine is.",
        ),
    ),
    Objective(
        "finals_late",
        "PerchFinalsLate",
        0.05,
        '1 - sum(rate(perch_speech_end_to_final_seconds_bucket{le="0.8"}[WINDOW])) / '
        "sum(rate(perch_speech_end_to_final_seconds_count[WINDOW]))",
        "of finals come later than 800 ms after the end of speech; 5 % may.",
        (
            "action",
            "Compare perch_final_latency_seconds: if that is low, endpointing waits too long; else see PerchPartialsLate.",
        ),
    ),
    Objective(
        "sessions_failing",
        "PerchSessionsFailing",
        0.005,
        f"sum(rate(perch_sessions_closed_total{{{FAILED}}}[WINDOW])) / "
        "sum(rate(perch_sessions_closed_total[WINDOW]))",
        "of sessions end in an error that is not the client's; 0.5 % may.",
        ("runbook", "runbooks/riva-down.md"),
    ),
]

_BURNS = [("1h", "5m", 14.4, "page"), ("6h", "30m", 6.0, "page"), ("3d", "6h", 1.0, "ticket")]
"""Long window, short window, times the budget's even pace, severity: the multi-window, multi-burn-rate alerts of
Google's SRE workbook, chapter 5. The short window ends the alert soon after the trouble does."""
_WINDOWS = sorted(
    {window for long, short, _, _ in _BURNS for window in (long, short)},
    key=["5m", "30m", "1h", "6h", "3d"].index,
)


@dataclass(frozen=True)
class Alert:
    name: str
    expr: str
    wait: str
    severity: str
    summary: str
    advice: tuple[str, str]


ALERT_RULES = [
    Alert(
        "PerchGone",
        "absent(perch_build_info)",
        "2m",
        "page",
        "No Perch gateway is being scraped.",
        ("action", "Look at the process and its last log lines, then at the scrape target."),
    ),
    Alert(
        "PerchEngineDown",
        "perch_engine_ready == 0",
        "1m",
        "page",
        "The engine behind {{ $labels.instance }} does not answer; new sessions get HTTP 503.",
        ("runbook", "runbooks/riva-down.md"),
    ),
    Alert(
        "PerchEngineLeftAlone",
        'perch_engine_breaker{state="open"} == 1',
        "2m",
        "ticket",
        "{{ $labels.instance }} sends no streams to {{ $labels.endpoint }}: it failed too often.",
        ("runbook", "runbooks/riva-down.md"),
    ),
    Alert(
        "PerchFailingOver",
        "sum by (instance) (increase(perch_engine_failovers_total[10m])) > 10",
        "0m",
        "ticket",
        "Engines behind {{ $labels.instance }} fail under their streams; no words are lost, but it costs latency.",
        ("runbook", "runbooks/riva-down.md"),
    ),
    Alert(
        "PerchRefusingForCapacity",
        'sum(rate(perch_requests_refused_total{code="at_capacity"}[5m])) > 0',
        "5m",
        "ticket",
        "Sessions are being refused because every place is taken.",
        ("action", "Add a gateway or raise PERCH_MAX_SESSIONS, after a load test (load/README.md)."),
    ),
    Alert(
        "PerchNearlyFull",
        "perch_sessions_active / perch_sessions_limit > 0.85",
        "10m",
        "ticket",
        "{{ $value | humanizePercentage }} of the places of {{ $labels.instance }} are taken.",
        ("action", "Add a gateway before the next client is refused."),
    ),
    Alert(
        "PerchBehind",
        "perch_lag_seconds > 5",
        "2m",
        "ticket",
        "A session on {{ $labels.instance }} is {{ $value | humanizeDuration }} behind its audio.",
        ("action", "Engines do not keep up: give them fewer streams, or more of them."),
    ),
    Alert(
        "PerchEventLoopLate",
        "histogram_quantile(0.99, sum by (le, instance) (rate(perch_event_loop_lag_seconds_bucket[5m]))) > 0.1",
        "10m",
        "ticket",
        "The event loop of {{ $labels.instance }} runs {{ $value | humanizeDuration }} late.",
        ("action", "Run fewer sessions on this process, or more processes (PERCH_REUSE_PORT=true)."),
    ),
    Alert(
        "PerchFilesNearlyOut",
        "(process_open_fds / process_max_fds > 0.8) and on (instance, job) perch_build_info",
        "5m",
        "ticket",
        "{{ $labels.instance }} has used {{ $value | humanizePercentage }} of its file descriptors.",
        ("action", "Raise the limit (ulimit -n, LimitNOFILE): each session takes one."),
    ),
]


def alerts() -> str:
    """The rules as Prometheus reads them."""
    lines = [
        "# Prometheus rules, written by scripts/make_dashboards.py. Each alert says what a person should do;",
        "# thresholds are the product's objectives: p95 of partials 300 ms, of finals 800 ms, errors under 0.5 %.",
        "groups:",
        "  - name: perch-ratios",
        "    rules:",
    ]
    for objective in OBJECTIVES:
        for window in _WINDOWS:
            lines += [
                f"      - record: {_ratio(objective, window)}",
                f"        expr: {objective.bad.replace('WINDOW', window)}",
            ]
    lines += ["", "  - name: perch", "    rules:"]
    for alert in [*ALERT_RULES, *_burning()]:
        lines += [*_alert(alert), ""]
    return "\n".join(lines).rstrip() + "\n"


def _ratio(objective: Objective, window: str) -> str:
    return f"perch:{objective.name}:ratio_rate{window}"


def _burning() -> Iterator[Alert]:
    """Two alerts for each objective: it is being spent fast, or has been for long."""
    for objective in OBJECTIVES:
        for severity, suffix in (("page", ""), ("ticket", "ForDays")):
            pairs = [(long, short, pace) for long, short, pace, kind in _BURNS if kind == severity]
            expr = " or ".join(
                f"({_ratio(objective, long)} > {_limit(objective, pace)} and "
                f"{_ratio(objective, short)} > {_limit(objective, pace)})"
                for long, short, pace in pairs
            )
            yield Alert(
                f"{objective.alert}{suffix}",
                expr,
                "0m",
                severity,
                f"{{{{ $value | humanizePercentage }}}} {objective.summary}",
                objective.advice,
            )


def _limit(objective: Objective, pace: float) -> str:
    return f"{pace * objective.budget:g}"


def _alert(alert: Alert) -> list[str]:
    kind, advice = alert.advice
    return [
        f"      - alert: {alert.name}",
        "        expr: |",
        f"          {alert.expr}",
        *([f"        for: {alert.wait}"] if alert.wait != "0m" else []),
        "        labels:",
        f"          severity: {alert.severity}",
        "        annotations:",
        f"          summary: {json.dumps(alert.summary, ensure_ascii=False)}",
        f"          {kind}: {json.dumps(advice, ensure_ascii=False) if kind == 'action' else advice}",
    ]


def main() -> None:
    DASHBOARD.write_text(dashboard(), encoding="utf-8")
    ALERTS.write_text(alerts(), encoding="utf-8")


if __name__ == "__main__":
    main()
