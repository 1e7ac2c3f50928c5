"""``GET /metrics``: this process, and those beside it that share its port.

Processes behind one port (``PERCH_REUSE_PORT``) cannot be scraped one by one, so whichever is asked answers for
all of them, each under its own ``process`` label: counters stay counters when a process is replaced.
"""

import re
from collections.abc import Iterable, Iterator

from prometheus_client.exposition import CONTENT_TYPE_LATEST

from perch.core.audio import samples_to_seconds
from perch.observability.metrics import EndpointSample, Snapshot
from perch.server.parts import Parts

_SAMPLE = re.compile(rb"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$")


def own(parts: Parts) -> bytes:
    """The exposition of this process."""
    return parts.metrics.render(_snapshot(parts))[0]


async def exposition(parts: Parts, *, shared: bool) -> tuple[bytes, str]:
    """What a scrape gets, and its content type; ``shared`` if other processes have this port too."""
    body = own(parts)
    if shared:
        others = await parts.siblings.metrics()
        body = merged([(parts.siblings.name, body), *others])
    return body, CONTENT_TYPE_LATEST


def merged(expositions: Iterable[tuple[str, bytes]]) -> bytes:
    """One exposition of several, every series with the name of its process."""
    heads: dict[bytes, list[bytes]] = {}
    samples: dict[bytes, list[bytes]] = {}
    for process, body in expositions:
        for family, line in _lines(body):
            if line.startswith(b"#"):
                head = heads.setdefault(family, [])
                if line not in head:
                    head.append(line)
            else:
                samples.setdefault(family, []).append(_labelled(line, process))
    lines = [line for family, head in heads.items() for line in (*head, *samples.get(family, ()))]
    return b"".join(line + b"\n" for line in lines)


def _lines(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Each line with the family it belongs to: samples follow their ``# HELP``."""
    family = b""
    for line in body.splitlines():
        if line.startswith(b"# HELP "):
            family = line.split(b" ", 3)[2]
        yield family, line


def _labelled(line: bytes, process: str) -> bytes:
    found = _SAMPLE.match(line)
    assert found is not None, line
    name, labels, value = found.groups()
    label = b'process="%s"' % process.encode()
    return b"%s{%s} %s" % (name, label if not labels else labels + b"," + label, value)


def _snapshot(parts: Parts) -> Snapshot:
    load = parts.client.load()
    return Snapshot(
        lag_s=samples_to_seconds(load.lag),
        spool_bytes=load.spool_bytes,
        parked=len(parts.resumption),
        endpoints=tuple(EndpointSample(e.address, e.streams, e.breaker) for e in load.endpoints),
    )
