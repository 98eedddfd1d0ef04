"""HTTP clients, pauses between tries, and coroutines from code that has none."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import httpx

__all__ = ["back_off", "http_client", "run_coroutine"]

T = TypeVar("T")


def http_client(timeout: float | None, *, trust_env: bool = True) -> httpx.Client:
    """Return a new HTTP client that follows no redirect: the key must not travel to another host.

    Args:
        timeout: Maximum seconds without a sign of life; None for no limit.
        trust_env: Whether the proxies and certificates of the environment are used.
    """
    import httpx

    return httpx.Client(verify=_certificates(trust_env), timeout=timeout, trust_env=trust_env, follow_redirects=False)


@lru_cache(2)
def _certificates(trust_env: bool) -> ssl.SSLContext:  # noqa: FBT001
    """Return the certificates to check servers with; reading them takes longer than a request to this machine."""
    import httpx

    return httpx.create_ssl_context(trust_env=trust_env)


def back_off(attempt: int) -> float:
    """Return the seconds to wait after try number `attempt` (from 0): 0.5 s, doubled each time, at most 8 s.

    >>> [back_off(attempt) for attempt in (0, 1, 10)]
    [0.5, 1.0, 8.0]
    """
    return float(min(8.0, 0.5 * 2.0 ** min(attempt, 10)))


def run_coroutine(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, also from inside a running event loop (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()
