"""Transcriptions that answer later: ``POST`` with ``Prefer: respond-async`` gives an id, ``GET`` the result.

They live in this process, which is what a recording of minutes needs; they do not survive its end. Results are
kept for an hour, for their caller alone.
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import structlog

from perch import errors

log = structlog.get_logger(__name__)

_KEPT_S = 3600.0
_MOST = 1000

Work = Callable[[], Awaitable[dict[str, Any]]]


@dataclass(eq=False)
class Job:
    """One transcription and what has become of it."""

    principal: str
    id: str = field(default_factory=lambda: f"job_{secrets.token_hex(12)}")
    status: str = "pending"
    created: float = field(default_factory=time.time)
    ended: float | None = None
    result: dict[str, Any] = field(default_factory=dict)
    error: errors.PerchError | None = None

    def described(self) -> dict[str, Any]:
        body: dict[str, Any] = {
            "id": self.id,
            "object": "transcription",
            "status": self.status,
            "created_at": _iso(self.created),
        }
        if self.ended is not None:
            body["completed_at"] = _iso(self.ended)
        if self.error is not None:
            body["error"] = {"code": self.error.code, "message": self.error.message}
        return body | self.result


class Jobs:
    """The jobs of this process, each with a task of its own."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, principal: str, work: Work) -> Job:
        """Begin ``work``, whose result is the job's.

        Raises:
            AtCapacity: There are as many jobs as are kept.
        """
        self._forget()
        if len(self._jobs) >= _MOST:
            raise errors.AtCapacity(
                "There are too many transcriptions here; try again later.", retry_after=60.0
            )
        job = Job(principal)
        self._jobs[job.id] = job
        task = asyncio.create_task(self._run(job, work), name=job.id)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return job

    def find(self, name: str, principal: str) -> Job | None:
        """The job of this id, if it is this caller's."""
        self._forget()
        job = self._jobs.get(name)
        return job if job is not None and job.principal == principal else None

    async def aclose(self) -> None:
        """End what still runs."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _run(self, job: Job, work: Work) -> None:
        job.status = "running"
        try:
            job.result = await work()
            job.status = "completed"
        except errors.PerchError as error:
            job.status, job.error = "failed", error
        except Exception:
            log.exception("job_broke", job=job.id)
            job.status = "failed"
            job.error = errors.InternalError("The gateway failed; its log has the details.")
        job.ended = time.time()

    def _forget(self) -> None:
        oldest = time.time() - _KEPT_S
        for job in [job for job in self._jobs.values() if job.ended is not None and job.ended < oldest]:
            del self._jobs[job.id]


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
