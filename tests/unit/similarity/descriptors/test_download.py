"""Fetching a file from a server that resumes, does not, stops early, lies, or is not there."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pytest_memscan.errors import DescriptorError
from pytest_memscan.similarity.descriptors import download as downloads
from pytest_memscan.similarity.descriptors.download import download

BODY = bytes(range(256)) * 20_000  # 5 MB


@dataclass
class Server:
    """One file at ``/file``, and how it is served."""

    url: str = ""
    body: bytes = BODY
    status: int = 200  # other than 200: every request gets it
    ignores_range: bool = False
    stops_after: list[int] = field(default_factory=list)  # bytes, one for each request to come
    ranges: list[str | None] = field(default_factory=list)  # asked for


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.ranges.append(wanted)
            if state.status != 200 or self.path != "/file":
                self.send_error(state.status if state.status != 200 else 404)
                return
            start = int(wanted[6:-1]) if wanted and not state.ignores_range else 0
            if start >= len(state.body):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            if start:
                end, total = len(state.body) - 1, len(state.body)
                self.send_header("Content-Range", f"bytes {start}-{end}/{total}")
            self.send_header("Content-Length", str(len(state.body) - start))
            self.end_headers()
            stop = state.stops_after.pop(0) if state.stops_after else None
            self.wfile.write(state.body[start:][:stop])

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{http.server_port}/file"
    thread = threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield state
    http.shutdown()
    http.server_close()
    thread.join()


def failure(url: str, target: Path) -> str:
    with pytest.raises(DescriptorError) as raised:
        download(url, target)
    assert not target.exists()
    message = str(raised.value)
    assert "\n" not in message
    assert str(target.parent) not in message
    return message


def test_a_file_is_fetched_whole(server: Server, tmp_path: Path) -> None:
    told: list[int] = []
    target = tmp_path / "new" / "file"
    download(server.url, target, progress=told.append)
    assert target.read_bytes() == BODY
    assert told == sorted(told)
    assert told[-1] == len(BODY)
    assert [path.name for path in target.parent.iterdir()] == ["file"]


def test_what_was_fetched_before_the_end_is_continued(server: Server, tmp_path: Path) -> None:
    server.stops_after = [1_500_000, 2_000_000]
    target = tmp_path / "file"
    assert f"ended after 1,500,000 of {len(BODY):,} bytes" in failure(server.url, target)
    assert "ended after 3,500,000" in failure(server.url, target)
    download(server.url, target)
    assert target.read_bytes() == BODY
    assert server.ranges == [None, "bytes=1500000-", "bytes=3500000-"]


def test_a_server_that_does_not_resume_sends_all_again(server: Server, tmp_path: Path) -> None:
    server.ignores_range = True
    (tmp_path / "file.part").write_bytes(b"older bytes")
    download(server.url, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == BODY


def test_a_part_that_is_too_long_is_thrown_away(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(BODY + b"more")
    download(server.url, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == BODY
    assert server.ranges[-1] is None


@pytest.mark.parametrize("status", [403, 404, 500])
def test_an_answer_other_than_the_file_is_named(
    status: int, server: Server, tmp_path: Path
) -> None:
    server.status = status
    assert f"answered {status}" in failure(server.url, tmp_path / "file")


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://user:secret@127.0.0.1:{free.getsockname()[1]}/file?key=secret"
        message = failure(url, tmp_path / "file")
    assert "could not reach http://127.0.0.1:" in message
    assert "secret" not in message


@pytest.mark.parametrize("variable", ["MEMSCAN_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_means_no_request(
    variable: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")
    assert f"{variable} is set" in failure(server.url, tmp_path / "file")
    assert server.ranges == []


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/file", "sscd.pt"])
def test_only_http_addresses_are_fetched(url: str, tmp_path: Path) -> None:
    assert "is not an http or https address" in failure(url, tmp_path / "file")


def test_a_body_without_end_is_stopped(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "MAX_BYTES", 3_000_000)
    assert "sends more than 3,000,000 bytes" in failure(server.url, tmp_path / "file")
    assert (tmp_path / "file.part").stat().st_size == 0


def test_a_folder_that_cannot_be_written_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(DescriptorError, match="cannot be written"):
        download(server.url, tmp_path / "taken" / "file")
