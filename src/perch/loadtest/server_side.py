"""What the gateway says of itself at ``/metrics``, before and after a step."""

import asyncio
import ssl
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

_TIMEOUT_S = 5.0
_MIB = 1 << 20
_LAG = "perch_event_loop_lag_seconds_bucket"
_ENGINE_LABELS = ("engine", "endpoint", "address")


@dataclass(frozen=True, slots=True)
class Scrape:
    """The samples that matter here."""

    cpu_s: float
    resident_mib: float
    sessions: float
    audio_s: float
    lag: Mapping[float, float]
    """Cumulative counts by upper bound in seconds."""
    engines: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ServerSide:
    """What one gateway process did during the measured window; ``lag_p99_ms`` is None for want of samples."""

    cpu_share: float
    cpu_ms_per_stream_s: float | None
    resident_mib: float
    sessions: float
    lag_p99_ms: float | None
    engines: list[str] = field(default_factory=list)


async def scrape(url: str, key: str, tls: ssl.SSLContext | None) -> Scrape | None:
    """What is at ``url`` now; None if it cannot be had."""
    try:
        return parse(await asyncio.to_thread(_get, url, key, tls))
    except (OSError, HTTPException, ValueError, KeyError):
        return None


def parse(text: str) -> Scrape:
    """Read an exposition.

    Raises:
        ValueError: It is none.
        KeyError: It is another program's.
    """
    single: dict[str, float] = {}
    lag: dict[float, float] = {}
    engines: set[str] = set()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == _LAG:
                lag[float(sample.labels["le"])] = sample.value
            elif family.name.startswith("perch_engine"):
                engines |= {sample.labels[name] for name in _ENGINE_LABELS if name in sample.labels}
            elif not sample.labels:
                single[sample.name] = sample.value
    return Scrape(
        cpu_s=single["process_cpu_seconds_total"],
        resident_mib=single["process_resident_memory_bytes"] / _MIB,
        sessions=single["perch_sessions_active"],
        audio_s=single["perch_audio_seconds_total"],
        lag=lag,
        engines=frozenset(engines),
    )


def between(before: Scrape, after: Scrape, seconds: float) -> ServerSide:
    """The difference of two scrapes that are ``seconds`` apart."""
    cpu_s, audio_s = after.cpu_s - before.cpu_s, after.audio_s - before.audio_s
    lag = quantile({edge: count - before.lag.get(edge, 0.0) for edge, count in after.lag.items()}, 0.99)
    return ServerSide(
        cpu_share=cpu_s / seconds,
        cpu_ms_per_stream_s=1000 * cpu_s / audio_s if audio_s > 0 else None,
        resident_mib=after.resident_mib,
        sessions=after.sessions,
        lag_p99_ms=None if lag is None else 1000 * lag,
        engines=sorted(after.engines),
    )


def quantile(buckets: Mapping[float, float], share: float) -> float | None:
    """Prometheus' ``histogram_quantile``; None of nothing."""
    edges = sorted(buckets)
    total = buckets[edges[-1]] if edges else 0.0
    if not total:
        return None
    low_edge = low_count = 0.0
    for edge in edges:
        if buckets[edge] >= share * total:
            if edge == float("inf"):
                return low_edge
            within = buckets[edge] - low_count
            return low_edge + (edge - low_edge) * ((share * total - low_count) / within if within else 1.0)
        low_edge, low_count = edge, buckets[edge]
    return low_edge


def machine_cpu() -> tuple[float, float] | None:
    """Busy and total jiffies of this machine so far; None where the system does not say."""
    try:
        first = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0]
    except OSError:
        return None
    user, nice, system, idle, iowait, *rest = (float(part) for part in first.split()[1:9])
    busy = user + nice + system + sum(rest)
    return busy, busy + idle + iowait


def _get(url: str, key: str, tls: ssl.SSLContext | None) -> str:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - the address was checked to be HTTP
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S, context=tls) as answer:  # noqa: S310
        text: bytes = answer.read()
    return text.decode()
