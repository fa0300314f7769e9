"""A web server on the loopback that serves bytes in ranges, with etags, and with faults on request."""

import hashlib
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
DEADLINE_S = 60.0


class Request(NamedTuple):
    method: str
    name: str
    begin: int
    if_match: str | None


@dataclass
class Fault:
    """Something that goes wrong, so many times, with requests that it is `of`.

    kind: "status" (with `status`), "cut" (closes halfway), "stall" (sends half, then nothing), "drip" (sends in small
    pieces with pauses), "short" (a smaller Content-Length than the range), "flip" (a byte is wrong), "whole" (ignores
    the range), "total" (lies about the object's size), "call" (calls `then` before it answers as usual).
    """

    kind: str
    times: int = 1
    of: Callable[[Request], bool] = lambda request: request.method == "GET"
    status: int = 503
    then: Callable[[], None] = lambda: None


@dataclass
class RangeServer:
    """Serves `files`, which may change at any time. `requests` are all that came, in their order."""

    files: dict[str, bytes]
    faults: list[Fault] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    has_etags: bool = True
    has_weak_etags: bool = False
    checks_if_match: bool = True
    modified: str = "Mon, 02 Mar 2026 10:00:00 GMT"

    def __enter__(self) -> "RangeServer":
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self.under_way = self.most_under_way = 0
        server = self

        class Answers(_Answers):
            serves = server

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(DEADLINE_S)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def etag(self, name: str) -> str:
        return f'{"W/" if self.has_weak_etags else ""}"{hashlib.md5(self.files[name]).hexdigest()}"'

    def gets(self, suffix: str = ".safetensors") -> list[Request]:
        return [one for one in self.requests if one.method == "GET" and one.name.endswith(suffix)]

    def fault_of(self, request: Request) -> Fault | None:
        with self.lock:
            self.requests.append(request)
            for fault in self.faults:
                if fault.times > 0 and fault.of(request):
                    fault.times -= 1
                    return fault
        return None


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    serves: RangeServer

    def serve_one(self) -> None:
        server = self.serves
        with server.lock:
            server.under_way += 1
            server.most_under_way = max(server.most_under_way, server.under_way)
        try:
            self.answer(server)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            with server.lock:
                server.under_way -= 1

    def answer(self, server: RangeServer) -> None:
        name = self.path.lstrip("/")
        asked = _RANGE.fullmatch(self.headers.get("Range", ""))
        request = Request(self.command, name, int(asked[1]) if asked else 0, self.headers.get("If-Match"))
        fault = server.fault_of(request)
        kind = fault.kind if fault else ""
        if fault and kind == "call":
            fault.then()
        if fault and kind == "status":
            return self.refuse(fault.status)
        if name not in server.files:
            return self.refuse(404)
        if server.checks_if_match and request.if_match not in (None, server.etag(name)):
            return self.refuse(412)
        return self.send_content(name, None if kind == "whole" else asked, kind)

    def refuse(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send_content(self, name: str, asked: "re.Match[str] | None", kind: str) -> None:
        server = self.serves
        content = server.files[name]
        begin, end = 0, len(content)
        if asked:
            begin, end = int(asked[1]), min(int(asked[2] or end) + 1, end)
        body = bytearray(content[begin:end])
        if kind == "flip":
            body[len(body) // 2] ^= 1
        self.send_response(206 if asked else 200)
        if asked:
            total = len(content) + 1 if kind == "total" else len(content)
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{total}")
        self.send_header("Content-Length", str(len(body) // 2 if kind == "short" else len(body)))
        self.send_header("Last-Modified", server.modified)
        if server.has_etags:
            self.send_header("ETag", server.etag(name))
        self.end_headers()
        if self.command == "GET":
            self.send_body(bytes(body), kind)

    def send_body(self, body: bytes, kind: str) -> None:
        half = len(body) // 2
        if kind == "drip":
            step = max(1, len(body) // 20)
            for start in range(0, len(body), step):
                self.wfile.write(body[start : start + step])
                self.serves.closing.wait(0.05)
            return
        self.wfile.write(body[:half] if kind in ("cut", "stall", "short") else body)
        if kind == "stall":
            self.serves.closing.wait(DEADLINE_S)
        if kind in ("cut", "stall"):
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


# What http.server calls.
for method in ("GET", "HEAD"):
    setattr(_Answers, f"do_{method}", _Answers.serve_one)
