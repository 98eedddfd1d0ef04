"""Limit the rate of requests to a server: requests and tokens per minute."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from contextlib import suppress
from weakref import WeakValueDictionary

from personalllm.core.errors import ParameterError

__all__ = ["RateLimiter"]

_MINUTE = 60.0
_LATE = 0.05
_SHARED: WeakValueDictionary[Hashable, RateLimiter] = WeakValueDictionary()
_SHARED_LOCK = threading.Lock()


class RateLimiter:
    """Spaces requests evenly, so that no minute holds more of them, or of their tokens, than allowed.

    After a request starts, the next one waits `60 / requests_per_minute` or `tokens * 60 / tokens_per_minute` seconds,
    whichever is longer. So at most `requests_per_minute` requests (rounded up) start in any 60 seconds, with at most
    `tokens_per_minute` tokens plus those of one request. A pause is not followed by a burst; only the delay of a timer,
    up to 0.05 s, is caught up. Requests start in the order in which they were made, and only the first in the queue has
    a timer, so none waits in a busy loop.

    The queue is not bound to an event loop and may be used from several threads.

    Args:
        requests_per_minute: > 0, or None for no limit.
        tokens_per_minute: > 0, or None for no limit. Prompt and new tokens together.
        clock: Returns seconds, monotonic.

    Raises:
        ParameterError: If a limit is not above 0.

    >>> now = [0.0]
    >>> line = RateLimiter(requests_per_minute=120, clock=lambda: now[0])
    >>> line.take(0), line.take(0)
    (0.0, 0.5)
    """

    def __init__(
        self,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for name, limit in (("requests_per_minute", requests_per_minute), ("tokens_per_minute", tokens_per_minute)):
            if limit is not None and not limit > 0:
                raise ParameterError(name, "> 0", limit)
        self._per_request = 0.0 if requests_per_minute is None else _MINUTE / requests_per_minute
        self._per_token = 0.0 if tokens_per_minute is None else _MINUTE / tokens_per_minute
        self._clock = clock
        self._lock = threading.Lock()
        self._next_request = self._next_token = self._held = float("-inf")
        self._line: deque[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = deque()

    @classmethod
    def shared(cls, key: Hashable, requests_per_minute: float | None, tokens_per_minute: float | None) -> RateLimiter:
        """Return the limiter of this process for a key and limits: all requests to the same model share one queue."""
        full = (key, requests_per_minute, tokens_per_minute)
        with _SHARED_LOCK:
            limiter = _SHARED.get(full)
            if limiter is None:
                limiter = _SHARED[full] = cls(requests_per_minute, tokens_per_minute)
        return limiter

    def take(self, tokens: float, waiting_since: float | None = None) -> float:
        """Begin a request now if it may begin, and return 0; else return the seconds after which to ask again.

        Args:
            tokens: How many tokens the request may use at most, prompt and reply together.
            waiting_since: When it was first requested, by the clock; now if None. Who has waited and wakes a little
                late moves the next one away from when it could have begun.
        """
        with self._lock:
            return self._take(tokens, self._clock() if waiting_since is None else waiting_since)

    def settle(self, reserved: float, used: float) -> None:
        """Return (or take) the difference between the tokens that were reserved and those that were used."""
        with self._lock:
            self._next_token -= (reserved - used) * self._per_token
            self._wake_first()

    def hold(self, seconds: float) -> None:
        """Start no request for some seconds, because a server has reported too many requests."""
        with self._lock:
            self._held = max(self._held, self._clock() + seconds)

    async def wait(self, tokens: float) -> None:
        """Wait in the queue and return when a request of so many tokens may begin; it counts as begun."""
        turn = asyncio.Event()
        entry, since = (asyncio.get_running_loop(), turn), self._clock()
        with self._lock:
            self._line.append(entry)
        try:
            while True:
                with self._lock:
                    turn.clear()
                    left = self._take(tokens, since) if self._line[0] is entry else None
                if left == 0:
                    return
                with suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        await turn.wait()
        finally:
            with self._lock:
                self._line.remove(entry)
                self._wake_first()

    def _take(self, tokens: float, since: float) -> float:
        now, free = self._clock(), max(self._next_request, self._next_token, self._held)
        if free > now:
            return free - now
        begun = max(free, since, now - _LATE)
        self._next_request = begun + self._per_request
        self._next_token = begun + tokens * self._per_token
        return 0.0

    def _wake_first(self) -> None:
        if self._line:
            loop, turn = self._line[0]
            loop.call_soon_threadsafe(turn.set)
