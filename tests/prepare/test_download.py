"""The downloader against a server on the loopback that misbehaves in the ways servers do."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mmtab.prepare.importers import DownloadError
from mmtab.prepare.importers.download import Checksum, download

BODY = bytes(range(256)) * 1200
SHA256 = Checksum("sha256", hashlib.sha256(BODY).hexdigest())
Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        with server.lock:
            server.requests.append(dict(self.headers))
            answer = server.answers.pop(0) if server.answers else whole
        answer(self)

    def send(self, status: int, body: bytes, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.answers: list[Answer] = []
        self.requests: list[dict[str, str]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/data.bin"

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is what these tests are about."""


def whole(handler: Handler, body: bytes = BODY, tag: str = '"one"') -> None:
    """As a good server: ranges are honoured where the file is still the same."""
    asked = handler.headers.get("Range", "")
    start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
    if not asked or handler.headers.get("If-Range") != tag:
        handler.send(200, body, ETag=tag)
    elif start >= len(body):
        handler.send(416, b"", Content_Range=f"bytes */{len(body)}")
    else:
        handler.send(206, body[start:], ETag=tag, Content_Range=f"bytes {start}-{len(body) - 1}/{len(body)}")


def cut(n_bytes: int, **headers: str) -> Answer:
    """The connection ends after so many bytes."""
    return lambda handler: handler.send(200, BODY[:n_bytes], len(BODY), **({"ETag": '"one"'} | headers))


def status(code: int, **headers: str) -> Answer:
    return lambda handler: handler.send(code, b"no", **headers)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def naps() -> list[float]:
    return []


def fetch(server: Server, folder: Path, naps: list[float], checksum: Checksum | None = SHA256, **more: object) -> str:
    return download(server.url, folder / "data.bin", checksum=checksum, sleep=naps.append, **more)  # type: ignore[arg-type]


def leftovers(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"data.bin.lock"}


def test_a_file_comes_whole_and_once(server: Server, tmp_path: Path, naps: list[float]) -> None:
    assert fetch(server, tmp_path, naps, size=len(BODY)) == SHA256.digest
    assert (tmp_path / "data.bin").read_bytes() == BODY
    assert leftovers(tmp_path) == {"data.bin", "data.bin.sha256"} and naps == []
    assert server.requests[0]["User-Agent"].startswith("mmtab/") and server.requests[0]["Accept-Encoding"] == "identity"
    assert fetch(server, tmp_path, naps) == SHA256.digest and len(server.requests) == 1


def test_a_cut_connection_goes_on_where_it_ended(server: Server, tmp_path: Path, naps: list[float]) -> None:
    server.answers = [cut(100_000)]
    fetch(server, tmp_path, naps)
    assert (tmp_path / "data.bin").read_bytes() == BODY
    assert [r.get("Range") for r in server.requests] == [None, "bytes=100000-"]
    assert server.requests[1]["If-Range"] == '"one"' and len(naps) == 1 and 1 <= naps[0] <= 1.5


def test_a_later_process_goes_on_too(server: Server, tmp_path: Path, naps: list[float]) -> None:
    server.answers = [cut(100_000)]
    with pytest.raises(DownloadError, match="1 attempts"):
        fetch(server, tmp_path, naps, attempts=1)
    assert leftovers(tmp_path) == {"data.bin.part", "data.bin.part.json"}
    fetch(server, tmp_path, naps)
    assert server.requests[-1]["Range"] == "bytes=100000-" and (tmp_path / "data.bin").read_bytes() == BODY


def test_a_server_that_ignores_ranges_sends_all_again(server: Server, tmp_path: Path, naps: list[float]) -> None:
    server.answers = [cut(1000), lambda handler: handler.send(200, BODY, ETag='"one"')]
    fetch(server, tmp_path, naps)
    assert (tmp_path / "data.bin").read_bytes() == BODY


def test_a_file_that_changed_meanwhile_is_fetched_anew(server: Server, tmp_path: Path, naps: list[float]) -> None:
    fresh = BODY[::-1]
    server.answers = [cut(1000), lambda handler: whole(handler, fresh, '"two"')]
    fetch(server, tmp_path, naps, checksum=None)
    assert (tmp_path / "data.bin").read_bytes() == fresh


@pytest.mark.parametrize("headers", [{"ETag": 'W/"weak"'}, {"ETag": ""}])
def test_without_a_strong_mark_nothing_is_resumed(
    server: Server, tmp_path: Path, naps: list[float], headers: dict[str, str]
) -> None:
    server.answers = [cut(1000, **headers)]
    fetch(server, tmp_path, naps, checksum=None)
    assert "Range" not in server.requests[1] and (tmp_path / "data.bin").read_bytes() == BODY


def test_the_last_modification_is_a_mark(server: Server, tmp_path: Path, naps: list[float]) -> None:
    moment = "Wed, 21 Oct 2015 07:28:00 GMT"
    server.answers = [cut(1000, ETag="", Last_Modified=moment)]
    fetch(server, tmp_path, naps)
    assert server.requests[1]["If-Range"] == moment


def test_a_part_that_is_already_all(server: Server, tmp_path: Path, naps: list[float]) -> None:
    (tmp_path / "data.bin.part").write_bytes(BODY)
    (tmp_path / "data.bin.part.json").write_text(f'{{"url": "{server.url}", "validator": "\\"one\\""}}')
    fetch(server, tmp_path, naps)
    assert (tmp_path / "data.bin").read_bytes() == BODY and len(server.requests) == 1


def test_a_part_longer_than_the_file_is_dropped(server: Server, tmp_path: Path, naps: list[float]) -> None:
    (tmp_path / "data.bin.part").write_bytes(BODY + b"more")
    (tmp_path / "data.bin.part.json").write_text(f'{{"url": "{server.url}", "validator": "\\"one\\""}}')
    fetch(server, tmp_path, naps)
    assert (tmp_path / "data.bin").read_bytes() == BODY and len(server.requests) == 2


def test_a_part_of_another_file_is_fetched_anew(server: Server, tmp_path: Path, naps: list[float]) -> None:
    (tmp_path / "data.bin.part").write_bytes(b"x" * 1000)
    (tmp_path / "data.bin.part.json").write_text(f'{{"url": "{server.url}", "validator": "\\"one\\""}}')
    fetch(server, tmp_path, naps)  # the checksum gives it away
    assert (tmp_path / "data.bin").read_bytes() == BODY and "Range" not in server.requests[1]


def test_a_range_other_than_asked_for_is_not_appended(server: Server, tmp_path: Path, naps: list[float]) -> None:
    server.answers = [cut(1000), lambda handler: handler.send(206, BODY[5:], Content_Range="bytes 5-9/10")]
    fetch(server, tmp_path, naps)
    assert (tmp_path / "data.bin").read_bytes() == BODY


def test_a_wrong_checksum_is_refused_and_removed(server: Server, tmp_path: Path, naps: list[float]) -> None:
    server.answers = [lambda handler: handler.send(200, b"something else")]
    with pytest.raises(
        DownloadError, match=rf"expected sha256 {SHA256.digest}, found {'[0-9a-f]' * 64}; it was removed"
    ):
        fetch(server, tmp_path, naps)
    assert leftovers(tmp_path) == set()


@pytest.mark.parametrize("algorithm", ["sha512", "sha1", "md5"])
def test_other_checksums(server: Server, tmp_path: Path, naps: list[float], algorithm: str) -> None:
    right = hashlib.new(algorithm, BODY).hexdigest()
    assert fetch(server, tmp_path, naps, Checksum(algorithm, right)) == SHA256.digest
    (tmp_path / "data.bin").unlink()
    with pytest.raises(DownloadError, match=algorithm):
        fetch(server, tmp_path, naps, Checksum(algorithm, right[::-1]))


def test_without_a_published_checksum_the_first_one_is_kept(server: Server, tmp_path: Path, naps: list[float]) -> None:
    assert fetch(server, tmp_path, naps, checksum=None) == SHA256.digest
    assert (tmp_path / "data.bin.sha256").read_text() == f"{SHA256.digest}  data.bin\n"
    (tmp_path / "data.bin").write_bytes(b"tampered with")
    with pytest.raises(DownloadError, match="is not the file it should be"):
        fetch(server, tmp_path, naps, checksum=None)
    assert not (tmp_path / "data.bin").exists()


def test_an_absent_file_is_one_clear_line(server: Server, tmp_path: Path, naps: list[float]) -> None:
    server.answers = [status(404)]
    with pytest.raises(DownloadError, match=r"answered 404 Not Found.*source=PATH") as caught:
        fetch(server, tmp_path, naps)
    assert "\n" not in str(caught.value) and naps == [] and leftovers(tmp_path) == set()


def test_a_busy_server_is_waited_for_as_it_asks(server: Server, tmp_path: Path, naps: list[float]) -> None:
    past = "Wed, 21 Oct 2015 07:28:00 GMT"
    server.answers = [status(503, Retry_After="7"), status(429, Retry_After=past), status(502), whole]
    fetch(server, tmp_path, naps)
    assert naps[:2] == [7.0, 0.0] and 4 <= naps[2] <= 6  # the third failure, with no wish


def test_a_wait_beyond_patience_is_told(server: Server, tmp_path: Path, naps: list[float]) -> None:
    server.answers = [status(503, Retry_After="86400")]
    with pytest.raises(DownloadError, match="come back in 86400 seconds"):
        fetch(server, tmp_path, naps)


def test_attempts_are_bounded(server: Server, tmp_path: Path, naps: list[float]) -> None:
    server.answers = [status(500)] * 9
    with pytest.raises(DownloadError, match=r"answered 500, 3 attempts"):
        fetch(server, tmp_path, naps, attempts=3)
    assert len(server.requests) == 3 and len(naps) == 2


@pytest.mark.parametrize(
    ("answer", "size"),
    [
        (whole, 1000),  # its header says so
        (lambda handler: chunked(handler, BODY), 1000),  # only its bytes say so
    ],
)
def test_more_than_declared_is_refused(
    server: Server, tmp_path: Path, naps: list[float], answer: Answer, size: int
) -> None:
    server.answers = [answer]
    with pytest.raises(DownloadError, match="larger than it should be: expected 1000 bytes"):
        fetch(server, tmp_path, naps, size=size)
    assert leftovers(tmp_path) == set()


def test_less_than_declared_is_refused(server: Server, tmp_path: Path, naps: list[float]) -> None:
    with pytest.raises(DownloadError, match="shorter than it should be"):
        fetch(server, tmp_path, naps, size=len(BODY) + 1)


def test_a_file_without_a_length(server: Server, tmp_path: Path, naps: list[float]) -> None:
    server.answers = [lambda handler: chunked(handler, BODY)]
    assert fetch(server, tmp_path, naps) == SHA256.digest


def chunked(handler: Handler, body: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    try:
        for at in range(0, len(body), 50_000):
            block = body[at : at + 50_000]
            handler.wfile.write(f"{len(block):x}\r\n".encode() + block + b"\r\n")
        handler.wfile.write(b"0\r\n\r\n")
    except OSError:
        handler.close_connection = True


def test_nobody_there(tmp_path: Path, naps: list[float]) -> None:
    with Server() as server:
        url = server.url
    with pytest.raises(
        DownloadError, match=r"could not be fetched \(the connection was refused, 2 attempts\).*source=PATH"
    ):
        download(url, tmp_path / "data.bin", attempts=2, sleep=naps.append)


def test_no_network(tmp_path: Path, naps: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with pytest.raises(DownloadError, match=r"no-such-host\.invalid.*could not be resolved.*source=PATH") as caught:
        download("https://no-such-host.invalid/a.zip", tmp_path / "a.zip", attempts=1, sleep=naps.append)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["ftp://example.org/a.zip", "file:///etc/passwd", "a.zip"])
def test_other_schemes_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(DownloadError, match="only http and https"):
        download(url, tmp_path / "a.zip")


PROCESS = """
import sys
from pathlib import Path
from mmtab.prepare.importers.download import download
print(download(sys.argv[1], Path(sys.argv[2])))
"""


def test_processes_that_want_the_same_file_fetch_it_once(server: Server, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROCESS, server.url, str(tmp_path / "data.bin")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=500)[0].strip() for process in running] == [SHA256.digest] * 2
    assert len(server.requests) == 1 and leftovers(tmp_path) == {"data.bin", "data.bin.sha256"}
