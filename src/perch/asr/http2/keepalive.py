"""When to ask a quiet server for a sign of life, and when to stop waiting for one."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

_MOST_UNANSWERED_BY_DATA = 2
"""Pings between two frames of ours: servers take more than this for an attack."""


@dataclass(frozen=True, slots=True)
class KeepaliveConfig:
    """Patience with a quiet server."""

    after_s: float = 20.0
    """Without a byte from the server, while there are calls, until it is asked for one."""
    timeout_s: float = 10.0
    """Until the connection is given up for dead."""


class Keepalive:
    """One timer per connection, which nothing has to reset: traffic only sets the two attributes.

    Args:
        config: How patient to be.
        is_needed: Whether anybody waits for the server.
        ping: Asks the server.
        give_up: Called when it did not answer.
    """

    def __init__(
        self,
        config: KeepaliveConfig,
        *,
        is_needed: Callable[[], bool],
        ping: Callable[[], None],
        give_up: Callable[[], None],
    ) -> None:
        self.heard = False
        """To be set when anything was received."""
        self.pings = 0
        """To be set to zero when anything but a ping is sent."""
        self._config = config
        self._is_needed = is_needed
        self._ping = ping
        self._give_up = give_up
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self.heard = False
        self._timer = asyncio.get_running_loop().call_later(self._config.after_s, self._check)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _check(self) -> None:
        if self.heard or not self._is_needed() or self.pings >= _MOST_UNANSWERED_BY_DATA:
            self.start()
            return
        self.pings += 1
        self._ping()
        self._timer = asyncio.get_running_loop().call_later(self._config.timeout_s, self._judge)

    def _judge(self) -> None:
        if self.heard:
            self.start()
        else:
            self._give_up()
