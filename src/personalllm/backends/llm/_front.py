"""What stands before the local runtime: it refuses requests for a model that is not served, and passes on the rest."""

from __future__ import annotations

import json
import threading
from http.client import HTTPConnection, HTTPException, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

__all__ = ["Front"]

_PIECE = 1 << 16
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
        address = urlsplit(runtime)
        self.runtime = (address.hostname or "127.0.0.1", address.port or 80)
        self.model = model
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True, name="models serve")
        self._thread.start()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a client that went away."""

    def close(self) -> None:
        """Stop listening."""
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Front

    def log_message(self, *args: object) -> None:
        """Say nothing: the terminal belongs to the command."""

    def do_GET(self) -> None:
        self._pass_on(None)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        wanted = _model_of(body)
        if wanted is None or wanted == self.server.model:
            self._pass_on(body)
            return
        message = f"The model {wanted!r} is not served here; this server has {self.server.model!r}."
        self._refuse(404, {"message": message, "type": "invalid_request_error", "code": "model_not_found"})

    def _refuse(self, status: int, fields: dict[str, str]) -> None:
        data = json.dumps({"error": {"param": "model" if status == 404 else None, **fields}}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _pass_on(self, body: bytes | None) -> None:
        connection = HTTPConnection(*self.server.runtime)
        try:
            headers = {name: self.headers[name] for name in _PASSED_ON if name in self.headers}
            try:
                connection.request(self.command, self.path, body, headers)
                answer = connection.getresponse()
            except (OSError, HTTPException) as error:
                self._refuse(502, {"message": f"The runtime failed: {error}.", "type": "server_error"})
                return
            self._answer(answer)
        except (OSError, HTTPException):
            self.close_connection = True  # the client went away, or the runtime broke off
        finally:
            connection.close()

    def _answer(self, answer: HTTPResponse) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.getheader("Content-Type") or "application/json")
        length = answer.getheader("Content-Length")
        if length is not None:
            self.send_header("Content-Length", length)
            self.end_headers()
            self.wfile.write(answer.read())
            return
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while piece := answer.read1(_PIECE):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")


def _model_of(body: bytes) -> str | None:
    """Return the model that a request names, if it names one."""
    try:
        found = json.loads(body)
    except ValueError:
        return None
    model = found.get("model") if isinstance(found, dict) else None
    return model if isinstance(model, str) else None
