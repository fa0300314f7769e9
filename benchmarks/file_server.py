"""A web server of one folder's files for benchmarks: ranges, etags, sendfile, a thread a connection; nothing else.

    python benchmarks/file_server.py FOLDER

Prints its port and serves until its stdin ends. The kernel copies from the page cache into the socket (sendfile(2)),
outside the interpreter's lock, so it is not what a measurement over the loopback is limited by.
"""

import os
import re
import socket
import sys
import threading
from contextlib import suppress
from email.utils import formatdate
from pathlib import Path
from urllib.parse import unquote

_RANGE = re.compile(rb"\r\nrange: *bytes=(\d+)-(\d*)", re.IGNORECASE)
_MAX_HEAD_BYTES = 1 << 16


def main() -> None:
    """Serve until whoever started this closes the pipe."""
    folder = Path(sys.argv[1])
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        print(listener.getsockname()[1], flush=True)
        threading.Thread(target=accept, args=(listener, folder), daemon=True).start()
        sys.stdin.read()


def accept(listener: socket.socket, folder: Path) -> None:
    """A thread for each connection."""
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=serve, args=(connection, folder), daemon=True).start()


def serve(connection: socket.socket, folder: Path) -> None:
    """Answer the requests of one connection in turn."""
    head, rest = read_head(connection, b"")
    with connection, suppress(BrokenPipeError, ConnectionResetError):
        while head:
            answer(connection, folder, head)
            head, rest = read_head(connection, rest)


def read_head(connection: socket.socket, read: bytes) -> tuple[bytes, bytes]:
    """A request up to its blank line, and what came behind it; nothing at the end of the connection."""
    while b"\r\n\r\n" not in read:
        more = connection.recv(_MAX_HEAD_BYTES)
        if not more or len(read) > _MAX_HEAD_BYTES:
            return b"", b""
        read += more
    head, _, rest = read.partition(b"\r\n\r\n")
    return head, rest


def answer(connection: socket.socket, folder: Path, head: bytes) -> None:
    """Send a file or a range of it."""
    method, target, _ = head.split(b"\r\n", 1)[0].split(b" ", 2)
    path = folder / unquote(target.decode()).lstrip("/")
    if path.parent != folder or not path.is_file():
        connection.sendall(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
        return
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        begin, end, lines = 0, status.st_size, ["HTTP/1.1 200 OK"]
        if asked := _RANGE.search(head):
            begin, end = int(asked[1]), min(int(asked[2] or end) + 1, end)
            lines = ["HTTP/1.1 206 Partial Content", f"content-range: bytes {begin}-{end - 1}/{status.st_size}"]
        modified = formatdate(status.st_mtime, usegmt=True)
        lines += [f"content-length: {end - begin}", f'etag: "{status.st_mtime_ns:x}"', f"last-modified: {modified}"]
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        while method == b"GET" and begin < end:
            begin += os.sendfile(connection.fileno(), file.fileno(), begin, end - begin)


if __name__ == "__main__":
    main()
