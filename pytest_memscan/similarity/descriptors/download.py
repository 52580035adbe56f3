"""Fetching one published file over HTTP, resumable; what it holds is judged by its sha256."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from pytest_memscan.errors import DescriptorError, shown_path

MAX_BYTES = 1 << 30  # the largest published file has a fifth of it
_CHUNK = 1 << 20  # bytes
_TIMEOUT = 30  # seconds without a byte
_OFFLINE_VARIABLES = ("MEMSCAN_OFFLINE", "HF_HUB_OFFLINE")


def download(url: str, target: Path, *, progress: Callable[[int], None] | None = None) -> None:
    """Fetch `url` into `target`; what an earlier try left in ``target.part`` is continued.

    Args:
        url: http or https.
        target: Replaced only by a complete file.
        progress: Told the bytes on disk after each chunk.

    Raises:
        DescriptorError: Offline, not reachable, not there, ended early, too large, or the disk.
    """
    for variable in _OFFLINE_VARIABLES:
        if os.environ.get(variable, "").lower() in ("1", "true", "yes", "on"):
            raise DescriptorError(f"--download needs the network, and {variable} is set")
    if urlsplit(url).scheme not in ("http", "https"):
        raise DescriptorError(f"{shown_url(url)} is not an http or https address")
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as file:
            _fetch(url, file, progress or (lambda _: None))
        part.replace(target)
    except HTTPError as error:
        error.close()
        raise DescriptorError(
            f"{shown_url(url)} answered {error.code}; nothing was fetched: check the address, or "
            "take the file from elsewhere and convert it by its path"
        ) from None
    except (URLError, HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise DescriptorError(
            f"could not reach {shown_url(url)} ({type(reason).__name__}); check the connection "
            "and try again (what was fetched is kept), or take the file from elsewhere and "
            "convert it by its path"
        ) from None
    except OSError as error:
        raise DescriptorError(f"{shown_path(part)} cannot be written: {error.strerror}") from None


def shown_url(url: str) -> str:
    """The address without a user name, password or query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _fetch(url: str, file: BinaryIO, progress: Callable[[int], None]) -> None:
    """Append the rest of the file, or all of it where the server does not resume."""
    have = file.seek(0, os.SEEK_END)
    try:
        response = _open(url, have)
    except HTTPError as error:
        if error.code != 416 or not have:
            raise
        error.close()
        have = file.truncate(0)  # what is there is not the start of this file
        response = _open(url, 0)
    with response:
        if have and not _continues(response, have):
            have = file.truncate(0)
        expected = response.headers.get("Content-Length")
        total = None if expected is None else have + int(expected)
        while chunk := response.read(_CHUNK):
            have += file.write(chunk)
            if have > MAX_BYTES:
                file.truncate(0)
                raise DescriptorError(f"{shown_url(url)} sends more than {MAX_BYTES:,} bytes")
            progress(have)
    if total is not None and have != total:
        raise DescriptorError(
            f"{shown_url(url)} ended after {have:,} of {total:,} bytes; run the command again to "
            "fetch the rest"
        )


def _open(url: str, have: int) -> HTTPResponse:
    headers = {"User-Agent": "pytest-memscan", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    request = Request(url, headers=headers)  # noqa: S310 - the scheme was checked
    response: HTTPResponse = urlopen(request, timeout=_TIMEOUT)  # noqa: S310
    return response


def _continues(response: HTTPResponse, have: int) -> bool:
    """Whether the answer starts where we stopped; some servers ignore Range and send all."""
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return response.status == 206 and found is not None and int(found[1]) == have
