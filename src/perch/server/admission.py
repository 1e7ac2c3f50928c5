"""Who may open a session now. Decided before the upgrade, so a refused client gets an HTTP answer."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from perch.errors import AtCapacity, GoingAway
from perch.server.config import AdmissionConfig


class Admission:
    """Counts sessions in total, per key and per address; a lease is taken and given back in one ``with``."""

    def __init__(self, config: AdmissionConfig) -> None:
        self._config = config
        self._by_key: Counter[str] = Counter()
        self._by_address: Counter[str] = Counter()
        self._shut = False
        self.active = 0

    @property
    def is_open(self) -> bool:
        return not self._shut

    def shut(self) -> None:
        """Admit nobody any more: the process is going away."""
        self._shut = True

    @contextmanager
    def lease(self, key: str, address: str) -> Iterator[None]:
        """Count one session of ``key`` from ``address`` while the block runs.

        Raises:
            GoingAway: The gateway is draining.
            AtCapacity: A limit is reached.
        """
        self._check(key, address)
        self.active += 1
        self._by_key[key] += 1
        self._by_address[address] += 1
        try:
            yield
        finally:
            self.active -= 1
            _count_down(self._by_key, key)
            _count_down(self._by_address, address)

    def _check(self, key: str, address: str) -> None:
        config = self._config
        if self._shut:
            raise GoingAway("This gateway is shutting down; connect again.", retry_after=1.0)
        if self.active >= config.max_sessions:
            self._refuse("The gateway serves as many sessions as it may.")
        if self._by_key[key] >= config.max_sessions_per_key:
            self._refuse("This API key has as many sessions open as it may.")
        if self._by_address[address] >= config.max_sessions_per_address:
            self._refuse("This address has as many sessions open as it may.")

    def _refuse(self, message: str) -> None:
        raise AtCapacity(f"{message} Try again shortly.", retry_after=self._config.retry_after_s)


def _count_down(counter: Counter[str], name: str) -> None:
    counter[name] -= 1
    if not counter[name]:
        del counter[name]
