"""A local stand-in for the part of Kaggle's API that kagglehub uses to download a public data set."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def archive_of(files: Mapping[str, bytes]) -> bytes:
    """A zip archive with these files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


@dataclass
class KaggleStub:
    """What the stand-in does, and what it was asked.

    Attributes:
        archive: The bytes it serves as the data set.
        status: HTTP status of every API call, if not 200.
        headers: More headers of refusals.
        cut_after: Bytes after which the first download is cut, if any.
        digest: Whether downloads announce the archive's MD5; "wrong" announces another.
        hang: While set, API calls are accepted and never answered.
        calls: Every request: method, last part of the path, Range header.
    """

    archive: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    digest: str = "right"
    hang: bool = False
    url: str = ""
    calls: list[tuple[str, str, str | None]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)


@contextlib.contextmanager
def serving(stub: KaggleStub) -> Iterator[KaggleStub]:
    """Serves the stub on 127.0.0.1 for as long as the block lasts."""
    handler = type("Handler", (_Handler,), {"stub": stub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    stub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield stub
    finally:
        stub.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    stub: KaggleStub

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._note()
        if self.stub.hang:
            self.stub.released.wait()
            self.close_connection = True
        elif self.stub.status != 200:
            body = json.dumps({"code": self.stub.status, "message": "refused by the stand-in"}).encode()
            self._reply(self.stub.status, {"Content-Type": "application/json", **self.stub.headers}, body)
        elif self.path.endswith("/DownloadDataset"):
            # Kaggle too redirects to a storage service.
            self._reply(302, {"Location": f"{self.stub.url}/archive.zip"}, b"")
        else:
            self._reply(404, {}, b"")

    def do_GET(self) -> None:
        self._note()
        stub, wanted = self.stub, self.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        headers = {"Content-Type": "application/zip", "Accept-Ranges": "bytes"}
        if stub.digest != "none":
            content = stub.archive if stub.digest == "right" else b"something else"
            headers["x-goog-hash"] = f"md5={base64.b64encode(hashlib.md5(content).digest()).decode()}"
        if wanted:
            headers["Content-Range"] = f"bytes {start}-{len(stub.archive) - 1}/{len(stub.archive)}"
        body = stub.archive[start:]
        cut = stub.cut_after if not wanted else None
        self._reply(206 if wanted else 200, headers, body, cut=cut)

    def _note(self) -> None:
        self.stub.calls.append((self.command, self.path.rsplit("/", 1)[-1], self.headers.get("Range")))

    def _reply(self, status: int, headers: Mapping[str, str], body: bytes, *, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self.close_connection = True
