"""Connect to servers that speak the OpenAI protocol: address, key, requests, and the meaning of errors.

The key is read from the environment when a request is made. It is never stored, shown, logged or pickled.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from personalllm.backends.transport import back_off, http_client
from personalllm.core.errors import OfflineError, ParameterError, PersonalLLMError, RunError, UserError
from personalllm.core.registry import import_extra
from personalllm.core.storage import is_loopback, offline

__all__ = ["DEFAULT_KEY", "ODD", "BrokenReply", "Endpoint", "filtered", "openai_sdk"]

DEFAULT_KEY = "OPENAI_API_KEY"
ODD = (AttributeError, LookupError, OverflowError, TypeError, ValueError)
"""Raised where a reply is valid JSON of another shape: the client does not check what it is sent."""

_TRANSIENT = (408, 409, 429)
_LONGEST_MESSAGE = 400
_LONGEST_PAUSE = 120.0
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KINDS = {401: "key", 403: "key", 404: "no such model", 408: "timeout", 429: "rate limit"}
_FILTERED = ("content_filter", "content_policy_violation", "moderation_blocked", "ResponsibleAIPolicyViolation")


class BrokenReply(RunError):
    """A reply that is cut off or not what the protocol says; worth another try."""


@dataclass(frozen=True)
class Endpoint:
    """The address of a server, and how long and how often a request to it is tried.

    Attributes:
        base_url: Address of the API, usually ending in `/v1`.
        timeout: Maximum seconds without a sign of life, > 0.
        retries: Further tries after a transient failure, >= 0.
        key_name: The environment variable that holds the key.

    Raises:
        UserError: If the address is not http(s), or carries a password or a query.
        OfflineError: If `PERSONALLLM_OFFLINE` is set and the server is not on this machine.
    """

    base_url: str
    timeout: float = 300.0
    retries: int = 4
    key_name: str = DEFAULT_KEY

    def __post_init__(self) -> None:
        object.__setattr__(self, "base_url", self.base_url.strip().rstrip("/"))
        try:
            parts = urlsplit(self.base_url)
            parts.port  # noqa: B018  (a property that checks)
        except ValueError as error:
            raise UserError(
                f"The base URL is not the address of a server: {error}.", "Give one such as http://127.0.0.1:8000/v1."
            ) from None
        if parts.username or parts.password or parts.query or parts.fragment:
            raise UserError(
                "The base URL carries a user name, a password or a query, which would end up in results.",
                f"Give only the address, e.g. http://127.0.0.1:8000/v1, and put the key into {self.key_name}.",
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(
                f"{self.base_url!r} is not the address of a server.", "Give one such as http://127.0.0.1:8000/v1."
            )
        if not self.timeout > 0:
            raise ParameterError("timeout", "> 0 seconds", self.timeout)
        if self.retries < 0:
            raise ParameterError("retries", ">= 0", self.retries)
        if not _VARIABLE.fullmatch(self.key_name):
            raise UserError(
                "The setting that names the key's environment variable does not hold the name of a variable.",
                "Give the name, e.g. OPENROUTER_API_KEY, never the key itself.",
            )
        self.check_allowed()

    @property
    def root(self) -> str:
        """The address without `/v1`, where servers keep what is not part of the OpenAI protocol."""
        return self.base_url.removesuffix("/v1")

    @property
    def loopback(self) -> bool:
        """Whether the server is on this machine."""
        return is_loopback(self.base_url)

    def check_allowed(self) -> None:
        """Raise `OfflineError` if the offline switch forbids this server."""
        if offline() and not self.loopback:
            raise OfflineError(
                f"PERSONALLLM_OFFLINE is set, and {self.base_url} is not on this machine.",
                "Unset PERSONALLLM_OFFLINE, or use a server on 127.0.0.1.",
            )

    def require(self) -> None:
        """Raise unless the server may be used and its key is there; makes no request."""
        self.check_allowed()
        self._key()

    def client(self, retries: int | None = None) -> Any:
        """Return a new asynchronous client of the `openai` package, to be used as a context manager.

        Redirects are not followed, and requests to a server on this machine never go through a proxy.

        Args:
            retries: Tries that the client makes by itself; those of the endpoint if None.
        """
        sdk = openai_sdk()
        self.check_allowed()
        transport = sdk.DefaultAsyncHttpxClient(trust_env=not self.loopback, follow_redirects=False)
        return sdk.AsyncOpenAI(
            api_key=self._key(),
            base_url=self.base_url,
            timeout=self.timeout,
            max_retries=self.retries if retries is None else retries,
            http_client=transport,
        )

    def fetch(self, url: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        """Request what the protocol does not have (token counts, properties).

        Args:
            url: Below `root`.
            body: Sent as JSON with POST; None for GET.

        Returns:
            The status and the decoded JSON (None if it is none).

        Raises:
            UserError: If the key is refused.
            RunError: If the server cannot be reached, or fails again and again.
        """
        import httpx

        self.check_allowed()
        with http_client(self.timeout, trust_env=not self.loopback) as client:
            for attempt in range(self.retries + 1):
                last = attempt == self.retries
                try:
                    response = client.request(
                        "GET" if body is None else "POST",
                        url,
                        json=body,
                        headers={"Authorization": f"Bearer {self._key()}"},
                    )
                except httpx.HTTPError as error:
                    if last:
                        raise self._unreachable(error) from None
                else:
                    payload = _decoded(response.content)
                    if response.status_code in (401, 403):
                        raise self._refused_key(_error_message(payload))
                    if last or not _may_pass(response.status_code):
                        return response.status_code, payload
                time.sleep(back_off(attempt))
        raise AssertionError("unreachable")

    def pause(self, error: Exception, attempt: int) -> float | None:
        """Return the seconds to wait before the next try after an exception; None if another try is no use.

        `Retry-After` is respected up to two minutes; a server that wants more has failed.

        Args:
            error: Of the `openai` package, a `TimeoutError`, or a `BrokenReply`.
            attempt: Number of the try that failed, from 0.
        """
        if attempt >= self.retries:
            return None
        if isinstance(error, openai_sdk().APIStatusError):
            status = int(error.status_code)
            if not _may_pass(status) or _out_of_quota(error):
                return None
            requested = _retry_after(error.response.headers)
            if requested is not None:
                return requested if requested <= _LONGEST_PAUSE else None
        return back_off(attempt)

    def kind(self, error: Exception) -> str:
        """Return the kind of a failure in a word or two, for counting."""
        sdk = openai_sdk()
        if isinstance(error, (TimeoutError, sdk.APITimeoutError)):
            return "timeout"
        if isinstance(error, sdk.APIConnectionError):
            return "unreachable" if _never_connected(error) else "lost connection"
        if not isinstance(error, sdk.APIStatusError):
            return "broken reply"
        status = int(error.status_code)
        if status == 402 or _out_of_quota(error):
            return "quota"
        if status >= 500:
            return "server error"
        return _KINDS.get(status, "no such model" if 300 <= status < 400 else "refused request")

    def failure(self, error: Exception, model: str) -> PersonalLLMError:
        """Return the error that reports an exception of the `openai` package, without the key."""
        sdk = openai_sdk()
        if isinstance(error, (TimeoutError, sdk.APITimeoutError)):
            return RunError(
                f"{self.base_url} did not answer within {self.timeout:g} s, {self.retries + 1} times in a row.",
                "Raise the timeout, or ask for fewer replies at once.",
            )
        if isinstance(error, sdk.APIConnectionError):
            return self._unreachable(error.__cause__ or error)
        if not isinstance(error, sdk.APIStatusError):
            return RunError(f"{self.base_url} failed on {model}: {self.scrub(str(error))}.")
        return self._status_failure(int(error.status_code), _error_message(error.body) or str(error), model)

    def scrub(self, text: str) -> str:
        """Return a server's message on one line, shortened, without the key."""
        key = os.environ.get(self.key_name, "").strip()
        line = " ".join(text.replace(key, "[key]").split() if key else text.split()).rstrip(".")
        return line if len(line) <= _LONGEST_MESSAGE else line[:_LONGEST_MESSAGE] + " ..."

    def _status_failure(self, status: int, message: str, model: str) -> PersonalLLMError:
        words = self.scrub(message)
        if status in (401, 403):
            return self._refused_key(words)
        if status == 404 or 300 <= status < 400:
            return UserError(
                f"{self.base_url} has no chat or embedding model {model!r}: {status} {words}.",
                f"Check the model's name (see {self.base_url}/models) and the address, which usually ends in /v1.",
            )
        if status in (400, 413, 422):
            return RunError(
                f"{model} refused a request: {words}.",
                "If the prompt is too long: fewer shots, a smaller history budget, or a larger context_length. "
                "If a setting is not known to the server: leave it out.",
            )
        if status in (402, 429):
            return RunError(
                f"{self.base_url} refused more requests: {status} {words}.",
                "Wait, lower the concurrency, or check the quota of the key. The same command goes on from here.",
            )
        return RunError(f"{self.base_url} failed on {model}: {status} {words}.", "See the server's own log.")

    def _refused_key(self, message: str) -> UserError:
        return UserError(
            f"{self.base_url} refused the key: {self.scrub(message) or 'no reason given'}.",
            f"Put a valid key into the environment variable {self.key_name}.",
        )

    def _unreachable(self, reason: object) -> RunError:
        return RunError(
            f"{self.base_url} cannot be reached: {self.scrub(str(reason))}.",
            "Start the server, or check the address and the port.",
        )

    def _key(self) -> str:
        key = os.environ.get(self.key_name, "").strip()
        if not key and not self.loopback:
            raise UserError(
                f"There is no key for {self.base_url}.", f"Put it into the environment variable {self.key_name}."
            )
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise UserError(
                f"The key in {self.key_name} cannot be sent: it holds a space, a line break or a character that is not "
                "ASCII.",
                "Copy the key again, and nothing but the key.",
            )
        return key or "none"


def _may_pass(status: int) -> bool:
    """Return whether another try may succeed; 501 means that the server does not implement the request."""
    return (status >= 500 and status != 501) or status in _TRANSIENT


def openai_sdk() -> Any:
    """Return the package `openai`.

    Raises:
        MissingExtra: If it is not installed.
    """
    return import_extra("openai", "openai")


def filtered(error: Exception) -> bool:
    """Return whether a refusal (400, 403) comes from a content filter, in the words of the services that have one."""
    if getattr(error, "status_code", None) not in (400, 403):
        return False
    body = getattr(error, "body", None)
    inner = body.get("error", body) if isinstance(body, dict) else None
    if not isinstance(inner, dict):
        return False
    deeper = inner.get("innererror")
    codes = [inner.get("code"), inner.get("type"), deeper.get("code") if isinstance(deeper, dict) else None]
    metadata = inner.get("metadata")
    return any(code in _FILTERED for code in codes) or (isinstance(metadata, dict) and "flagged_input" in metadata)


def _never_connected(error: Exception) -> bool:
    """Return whether no connection was made, rather than that one broke."""
    return type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout", "ProxyError")  # of the SDK's transport


def _out_of_quota(error: Exception) -> bool:
    """Return whether a 429 says that there is no credit left: waiting does not help."""
    return getattr(error, "code", None) == "insufficient_quota"


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a server asks to wait: `retry-after-ms`, or `Retry-After` in seconds or as a date."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        if seconds >= 0:
            return seconds
    try:
        return max(0.0, parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def _decoded(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return None


def _error_message(payload: object) -> str:
    """Return the message in the body of an error, or an empty text."""
    if isinstance(payload, dict):
        inner = payload.get("error", payload)
        if isinstance(inner, dict):
            inner = inner.get("message") or inner.get("detail") or ""
        return str(inner)
    return ""
