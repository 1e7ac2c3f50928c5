"""Who may open a session now. Decided before the upgrade, so a refused client gets an HTTP answer.

A session without a socket keeps its place. Whether a new connection comes to take such a session up is known
only from its first message, so parked sessions do not count when it is let in: they do when it begins a
session of its own (``Lease.confirm``).
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from perch.errors import AtCapacity, GoingAway
from perch.server.config import AdmissionConfig

_Scope = tuple[Literal["all", "key", "address"], str]


def _free(_: float) -> None:
    """Audio costs a caller nothing that has no limit of its own."""


@dataclass(frozen=True, slots=True)
class _Terms:
    """What the holder of a key was given beside the gateway's own limits."""

    max_sessions: int | None = None
    spend: Callable[[float], None] = _free


class Lease:
    """The place of one session. Give it back with ``release``, once or more often."""

    def __init__(self, admission: "Admission", scopes: tuple[_Scope, ...], terms: _Terms) -> None:
        self._admission = admission
        self._scopes = scopes
        self._terms = terms
        self._held = True
        self._parked = False
        admission.count(scopes, 1)

    def release(self) -> None:
        if self._held:
            self._held = False
            self.unpark()
            self._admission.count(self._scopes, -1)

    def park(self) -> None:
        """The session has no socket for now."""
        if self._held and not self._parked:
            self._parked = True
            self._admission.count_parked(self._scopes, 1)

    def unpark(self) -> None:
        if self._parked:
            self._parked = False
            self._admission.count_parked(self._scopes, -1)

    def hand_on(self) -> "Lease":
        """The same place, for another session in place of the one that held it."""
        self.release()
        return Lease(self._admission, self._scopes, self._terms)

    def spend(self, audio_s: float) -> None:
        """Count audio that was accepted, against what the caller may send.

        Raises:
            RateLimited: It was more than that.
        """
        self._terms.spend(audio_s)

    def confirm(self) -> None:
        """A session of its own begins.

        Raises:
            AtCapacity: It was let in only to take up another.
        """
        self._admission.check(self._scopes, self._terms.max_sessions)


class Admission:
    """Counts sessions in total, per key and per address."""

    def __init__(self, config: AdmissionConfig) -> None:
        self._config = config
        self._taken: Counter[_Scope] = Counter()
        self._parked: Counter[_Scope] = Counter()
        self._shut = False
        self._limits = {
            "all": (config.max_sessions, "The gateway serves as many sessions as it may."),
            "key": (config.max_sessions_per_key, "This API key has as many sessions open as it may."),
            "address": (
                config.max_sessions_per_address,
                "This address has as many sessions open as it may.",
            ),
        }

    @property
    def active(self) -> int:
        return self._taken["all", ""]

    @property
    def has_parked(self) -> bool:
        """Whether a session waits for its client."""
        return bool(self._parked["all", ""])

    @property
    def is_open(self) -> bool:
        return not self._shut

    def shut(self) -> None:
        """Admit nobody any more: the process is going away."""
        self._shut = True

    def lease(
        self,
        key: str,
        address: str,
        *,
        max_sessions: int | None = None,
        spend: Callable[[float], None] = _free,
    ) -> Lease:
        """A place for one session of ``key`` from ``address``.

        Args:
            key: Whose session it is.
            address: Where it comes from.
            max_sessions: What this key may have, if that is less than any may.
            spend: Told of accepted audio; raises when it is too much.

        Raises:
            GoingAway: The gateway is draining.
            AtCapacity: A limit is reached.
        """
        if self._shut:
            raise GoingAway("This gateway is shutting down; connect again.", retry_after=1.0)
        scopes: tuple[_Scope, ...] = (("all", ""), ("key", key), ("address", address))
        for scope in scopes:
            self._refuse_beyond(scope, self._taken[scope] - self._parked[scope] + 1, max_sessions)
        return Lease(self, scopes, _Terms(max_sessions, spend))

    def check(self, scopes: tuple[_Scope, ...], max_sessions: int | None = None) -> None:
        """Raise if there are more sessions than there may be, parked ones included."""
        for scope in scopes:
            self._refuse_beyond(scope, self._taken[scope], max_sessions)

    def count(self, scopes: tuple[_Scope, ...], change: int) -> None:
        _count(self._taken, scopes, change)

    def count_parked(self, scopes: tuple[_Scope, ...], change: int) -> None:
        _count(self._parked, scopes, change)

    def _refuse_beyond(self, scope: _Scope, wanted: int, max_sessions: int | None) -> None:
        limit, message = self._limits[scope[0]]
        if scope[0] == "key" and max_sessions is not None:
            limit = min(limit, max_sessions)
        if wanted > limit:
            raise AtCapacity(f"{message} Try again shortly.", retry_after=self._config.retry_after_s)


def _count(counter: Counter[_Scope], scopes: tuple[_Scope, ...], change: int) -> None:
    for scope in scopes:
        counter[scope] += change
        if not counter[scope]:
            del counter[scope]
