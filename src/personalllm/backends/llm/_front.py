"""A proxy in front of the local runtime that refuses requests for a model that is not served."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

from personalllm.backends.transport import http_client

__all__ = ["Front"]

_PASSED_ON = ("Accept", "Authorization", "Content-Type")


class Front(ThreadingHTTPServer):
    """Listens on 127.0.0.1 and passes requests on to the runtime.

    The runtime answers whatever model a request names. Here a name that is not served gets what the OpenAI protocol
    has for it: 404 and `model_not_found`. A request that names no model is passed on.

    Args:
        runtime: Address of the runtime.
        model: The name of the model that it serves.
        port: Port to listen on; 0 takes a free one.

    Raises:
        OSError: If the port cannot be listened on.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, runtime: str, model: str, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.runtime = runtime.rstrip("/")
        self.model = model
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True, name="models serve")
        self._thread.start()

    def handle_error(self, request: object, client_address: object) -> None:
        """Report nothing when a client went away."""

    def close(self) -> None:
        """Stop listening."""
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Front
    answered = False

    def log_message(self, *args: object) -> None:
        """Log nothing: the terminal belongs to the command."""

    def do_GET(self) -> None:
        self._pass_on(None)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        requested = _model_of(body)
        if requested is None or requested == self.server.model:
            self._pass_on(body)
            return
        message = f"The model {requested!r} is not served here; this server has {self.server.model!r}."
        self._refuse(404, {"message": message, "type": "invalid_request_error", "code": "model_not_found"})

    def _refuse(self, status: int, fields: dict[str, str]) -> None:
        data = json.dumps({"error": {"param": "model" if status == 404 else None, **fields}}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _pass_on(self, body: bytes | None) -> None:
        headers = {name: self.headers[name] for name in _PASSED_ON if name in self.headers}
        try:
            with (
                http_client(None, trust_env=False) as client,  # no limit: a long reply takes its time
                client.stream(self.command, self.server.runtime + self.path, content=body, headers=headers) as answer,
            ):
                self._answer(answer)
        except (httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError) as error:
            if self.answered:
                self.close_connection = True  # the runtime broke off
            else:
                self._refuse(502, {"message": f"The runtime failed: {error}.", "type": "server_error"})
        except OSError:
            self.close_connection = True  # the client went away

    def _answer(self, answer: httpx.Response) -> None:
        self.answered = True
        self.send_response(answer.status_code)
        self.send_header("Content-Type", answer.headers.get("Content-Type") or "application/json")
        length = answer.headers.get("Content-Length")
        if length is not None:
            self.send_header("Content-Length", length)
            self.end_headers()
            self.wfile.write(answer.read())
            return
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in answer.iter_raw():
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")


def _model_of(body: bytes) -> str | None:
    """Return the model that a request names, if it names one."""
    try:
        request = json.loads(body)
    except ValueError:
        return None
    model = request.get("model") if isinstance(request, dict) else None
    return model if isinstance(model, str) else None
