"""The local runtime's own OpenAI-compatible server, on this machine only (extra `local`)."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from personalllm.backends.llm.local import open_server
from personalllm.backends.models import model_path
from personalllm.core.errors import ModelFileError, ParameterError, UserError

if TYPE_CHECKING:
    from personalllm.backends.llm._front import Front

__all__ = ["ChatServer"]


class ChatServer:
    """Serves a GGUF model over HTTP on 127.0.0.1, in the layout of `LocalChatModel`.

    One request is answered at a time, without a prompt cache, and the sampler starts from neutral settings, so a
    request gives the text that `LocalChatModel` gives. Requests that come together wait for each other. A request for
    another model gets 404 and the code `model_not_found`.

    Args:
        name: Name of a registered model file (`personalllm models list`); clients ask for the model by it.
        path: A GGUF file to use instead of the registered one.
        port: Port to listen on, in [0, 65535]; 0 takes a free one.
        context_length: Maximum tokens of prompt and reply together.
        threads: Threads of the computation, >= 1; they change the speed, not a greedy text.
        embeddings: Serve embeddings instead of chats.

    Raises:
        MissingExtra: If the runtime is not installed.
        ModelFileError: If the model file is absent, or is not the registered one, or cannot be loaded.
        UserError: If the port is taken.
    """

    def __init__(
        self,
        name: str,
        *,
        path: Path | None = None,
        port: int = 0,
        context_length: int = 4096,
        threads: int = 1,
        embeddings: bool = False,
    ) -> None:
        if not 0 <= port <= 65535:
            raise ParameterError("port", "in [0, 65535]", port)
        if context_length < 64:
            raise ParameterError("context_length", ">= 64 tokens", context_length)
        if threads < 1:
            raise ParameterError("threads", ">= 1", threads)
        self.name = name
        file = model_path(name) if path is None else path
        if not file.is_file():
            raise ModelFileError(f"There is no model file at {file}.", "Give the path of a GGUF file.")
        if port:
            _check_free(port)
        from personalllm.backends.llm._front import Front

        self._server: Any = open_server(file, context_length, threads=threads, alias=name, embeddings=embeddings)
        self._front: Front | None = Front(self._server.listening_address, name, port)
        self.base_url = f"http://127.0.0.1:{self._front.server_port}/v1"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening and free the model."""
        if self._front is not None:
            self._front.close()
        self._front = self._server = None


def _check_free(port: int) -> None:
    """Raise unless the port can be listened on."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UserError(
                f"Port {port} cannot be listened on: {error.strerror}.", "Give another --port, or 0 for a free one."
            ) from None
