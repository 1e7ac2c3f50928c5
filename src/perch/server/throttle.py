"""Failed attempts to come in, counted by address for a while."""

import ipaddress
from collections import OrderedDict

_WINDOW_S = 60.0
_MAX_ADDRESSES = 10_000


class FailedAttempts:
    """Addresses that failed ``limit`` times within a minute have to wait until the minute is over.

    A pure object: time is passed in. 0 is no limit. It remembers a bounded number of addresses, the latest ones.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._windows: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def add(self, address: str, now: float) -> None:
        """``address`` has failed."""
        group = _group(address)
        began, count = self._windows.pop(group, (now, 0))
        if now - began >= _WINDOW_S:
            began, count = now, 0
        self._windows[group] = (began, count + 1)
        if len(self._windows) > _MAX_ADDRESSES:
            self._windows.popitem(last=False)

    def wait_s(self, address: str, now: float) -> float:
        """Seconds until ``address`` may fail again; 0 if it may now."""
        if not self._windows or not self._limit:
            return 0.0
        began, count = self._windows.get(_group(address), (now, 0))
        return max(0.0, began + _WINDOW_S - now) if count >= self._limit else 0.0


def _group(address: str) -> str:
    """One host can have a whole IPv6 /64, so that is what counts as an address."""
    if ":" not in address:
        return address
    try:
        network = ipaddress.ip_network((address.partition("%")[0], 64), strict=False)
    except ValueError:
        return address
    return str(network)
