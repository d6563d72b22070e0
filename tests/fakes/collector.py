"""A collector of OpenTelemetry's: takes OTLP over HTTP as protobuf, and keeps what it was told."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Collector:
    """`behave` is how it answers: a status, or "hang" until it is told otherwise."""

    def __init__(self) -> None:
        self.behave: int | str = 200
        self.spans: list[Any] = []
        self.metrics: list[Any] = []
        self.lines: list[Any] = []
        self.resources: list[dict[str, Any]] = []
        # All that came, for what must never be in it.
        self.raw = b""
        self.go_on = threading.Event()
        self.url = ""

    def take(self, path: str, body: bytes) -> int:
        from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
        from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        if self.behave == "hang":
            self.go_on.wait(30)
            return 503
        if self.behave != 200:
            return int(self.behave)
        self.raw += body
        if path == "/v1/traces":
            traces = ExportTraceServiceRequest.FromString(body)
            for resource in traces.resource_spans:
                self.resources.append(attributes(resource.resource))
                self.spans += [span for scope in resource.scope_spans for span in scope.spans]
        elif path == "/v1/metrics":
            told = ExportMetricsServiceRequest.FromString(body)
            scopes = [scope for resource in told.resource_metrics for scope in resource.scope_metrics]
            self.metrics += [metric for scope in scopes for metric in scope.metrics]
        elif path == "/v1/logs":
            logs = ExportLogsServiceRequest.FromString(body)
            scopes = [scope for resource in logs.resource_logs for scope in resource.scope_logs]
            self.lines += [line for scope in scopes for line in scope.log_records]
        else:
            return 404
        return 200


def attributes(of: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in of.attributes}


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            status = collector.take(self.path, body)
            answer = b"" if status == 200 else b"\x00nonsense"
            self.send_response(status)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    collector.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        collector.go_on.set()
        server.shutdown()
        server.server_close()
