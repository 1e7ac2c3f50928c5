"""What the handlers of the gateway share, and the keys of the application it is kept under."""

from dataclasses import dataclass, field

from aiohttp import web

from perch.asr.base import ASRClient
from perch.observability.metrics import Metrics
from perch.observability.tracing import Tracing
from perch.server.admission import Admission
from perch.server.auth import Authenticator
from perch.server.background import Jobs
from perch.server.config import GatewayConfig
from perch.server.fetch import Fetcher
from perch.server.live import Engine
from perch.server.monitor import EngineMonitor
from perch.server.observers import Observers
from perch.server.resume import Resumption
from perch.server.sessions import OpenSessions
from perch.server.siblings import Siblings


@dataclass(slots=True)
class Parts:
    """What the handlers share: made by the wiring, owned by the app."""

    client: ASRClient
    metrics: Metrics
    tracing: Tracing
    admission: Admission
    authenticator: Authenticator
    monitor: EngineMonitor
    engine: Engine
    siblings: Siblings
    resumption: Resumption
    fetcher: Fetcher
    observers: Observers
    jobs: Jobs
    sessions: OpenSessions = field(default_factory=OpenSessions)


CONFIG = web.AppKey("config", GatewayConfig)
PARTS = web.AppKey("parts", Parts)
