"""A real S3 server (moto's) and a web server on the loopback, and between them and the client, faults on demand."""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from wsgiref.handlers import format_date_time

from werkzeug.serving import WSGIRequestHandler, make_server


@dataclass
class Fault:
    """What happens to the next requests that fit.

    Args:
        method: Of the requests.
        ending: How their paths end.
        status: They are answered with it, and the server never sees them.
        cut: So many bytes of the body come, and the connection ends.
        stall: Seconds before the body comes.
        times: How often; -1 for ever.
        after: So many requests that fit pass first.
    """

    method: str
    ending: str
    status: int | None = None
    cut: int | None = None
    stall: float = 0.0
    drip: float | None = None
    times: int = -1
    after: int = 0


@dataclass
class Faulty:
    """A WSGI application with faults in front of it; it notes every request."""

    app: Any
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    hooks: list[tuple[str, str, Callable[[], Any]]] = field(default_factory=list)
    """What is called before a request is answered: method, ending of the path, and the call."""

    def clear(self) -> None:
        self.faults.clear()
        self.requests.clear()
        self.hooks.clear()

    def asked(self, method: str, ending: str = "") -> list[str]:
        """The ranges, or "", of the requests for paths that end so."""
        return [span for how, path, span in self.requests if how == method and path.partition("?")[0].endswith(ending)]

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        query = f"?{environ['QUERY_STRING']}" if environ.get("QUERY_STRING") else ""
        self.requests.append((method, path + query, environ.get("HTTP_RANGE", "")))
        for hook in [hook for hook in self.hooks if hook[0] == method and path.endswith(hook[1])]:
            hook[2]()
        for fault in self.faults:
            if fault.method != method or not path.endswith(fault.ending) or not fault.times:
                continue
            if fault.after:
                fault.after -= 1
                continue
            fault.times -= 1
            if fault.status is not None:
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                start_response(f"{fault.status} Fault", [("Content-Length", "0")])
                return [b""]
            return self._slow_or_cut(fault, environ, start_response)
        return self.app(environ, start_response)

    def _slow_or_cut(self, fault: Fault, environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        body = b"".join(self.app(environ, start_response))
        time.sleep(fault.stall)
        if fault.drip is not None:
            for place in range(len(body)):
                time.sleep(fault.drip)
                yield body[place : place + 1]
        else:
            yield body[: fault.cut]


class _Quiet(WSGIRequestHandler):
    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        """Says nothing: `Faulty` notes the requests."""


class _Server:
    def __init__(self, app: Any):
        self.faulty = Faulty(app)
        self._server = make_server("127.0.0.1", 0, self.faulty, threaded=True, request_handler=_Quiet)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Any:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class LocalS3(_Server):
    """moto's S3 server on a free port."""

    KEYS = {"AWS_ACCESS_KEY_ID": "ann", "AWS_SECRET_ACCESS_KEY": "key", "AWS_DEFAULT_REGION": "us-east-1"}

    def __init__(self) -> None:
        app = importlib.import_module("moto.moto_server.werkzeug_app")  # of an extra
        super().__init__(app.DomainDispatcherApplication(app.create_backend_app))

    def client(self) -> Any:
        """boto3's own client, past the library; its requests are noted and meet faults as well."""
        login = {"aws_access_key_id": "ann", "aws_secret_access_key": "key", "region_name": "us-east-1"}
        return importlib.import_module("boto3").client("s3", endpoint_url=self.url, **login)


class LocalWeb(_Server):
    """A web server of files in memory, by path; `ranges`, `sizes` and `tags` say what it tells and understands."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.ranges = self.sizes = self.tags = True
        self.redirect: str | None = None
        super().__init__(self._answer)

    def _answer(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        if self.redirect is not None:
            start_response("302 Found", [("Location", self.redirect), ("Content-Length", "0")])
            return [b""]
        if path not in self.files:
            start_response("404 Not Found", [("Content-Length", "0")])
            return [b""]
        body, status = self.files[path], "200 OK"
        headers = [("Last-Modified", format_date_time(0)), ("ETag", f'"{hash(body):x}"')] if self.tags else []
        if self.ranges and (span := environ.get("HTTP_RANGE")):
            first, last = span.removeprefix("bytes=").split("-")
            headers.append(("Content-Range", f"bytes {span.removeprefix('bytes=')}/{len(body)}"))
            body, status = body[int(first) : int(last or len(body)) + 1], "206 Partial Content"
        if self.sizes:
            headers.append(("Content-Length", str(len(body))))
        start_response(status, headers)
        return [b"" if method == "HEAD" else body]
