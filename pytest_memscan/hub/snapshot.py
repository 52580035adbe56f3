"""Commits, names and hashes: what is on the disk is what the Hub announced."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from pytest_memscan.hub.errors import NotCachedError, RepoKind
from pytest_memscan.reports.text import escape

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

T = TypeVar("T")
COMMIT = re.compile(r"[0-9a-f]{40}")
DEFAULT_REVISION = "main"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_HASH_CHUNK = 1 << 20  # bytes


def cached_or_downloaded(
    repo: str,
    revision: str | None,
    *,
    offline: bool,
    from_cache: Callable[[str, str], T],
    download: Callable[[str, str | None], T],
) -> T:
    """What one of the two gives; the network is used only where it may be and has to be.

    Args:
        repo: "ORG/NAME".
        revision: Branch, tag or commit; None for the main branch.
        offline: Use the local cache only. ``HF_HUB_OFFLINE=1`` means the same.
        from_cache: ``(repo, revision)`` -> what is cached.
        download: ``(repo, revision or None)`` -> what was fetched.

    Raises:
        NotCachedError: Offline, and not all of it is in the cache.
    """
    from huggingface_hub import constants

    if offline or constants.HF_HUB_OFFLINE:
        return from_cache(repo, revision or DEFAULT_REVISION)
    if revision is not None and COMMIT.fullmatch(revision):
        # A commit never changes: if all of it is here, the network is not needed.
        try:
            return from_cache(repo, revision)
        except NotCachedError:
            pass
    return download(repo, revision)


def sha256(file: BinaryIO) -> str:
    """SHA-256 of an open file, from its first byte."""
    file.seek(0)
    digest = hashlib.sha256()
    while chunk := file.read(_HASH_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def git_blob_id(data: bytes) -> str:
    """The id under which git, and so the Hub, stores a file that is not in LFS."""
    return hashlib.sha1(b"blob %d\x00" % len(data) + data, usedforsecurity=False).hexdigest()


def commit_hash(value: str | None, kind: RepoKind, repo: str, *, asked: str | None = None) -> str:
    """The commit that the Hub told.

    Args:
        value: What the Hub said.
        kind: Model or dataset.
        repo: "ORG/NAME".
        asked: Revision that the user named; when it is a commit, no other will do.

    Raises:
        MemscanError: Of `kind`: not a commit hash, or another commit than the one asked for.
    """
    if value is None or not COMMIT.fullmatch(value):
        raise kind.error(f"{repo}: the Hub gave '{escape(str(value))}', which is not a commit hash")
    if asked is not None and COMMIT.fullmatch(asked) and value != asked:
        raise kind.error(f"the Hub answered with commit {value[:7]} of {repo}, not {asked}")
    return value


def safe_names(siblings: Iterable[RepoSibling], kind: RepoKind, repo: str) -> tuple[str, ...]:
    """The names in a repository, none of which could point outside a folder.

    Raises:
        MemscanError: Of `kind`: one of them could.
    """
    names = tuple(sibling.rfilename for sibling in siblings)
    for name in names:
        parts = name.split("/")
        if "\\" in name or ":" in name or not name.isprintable() or {"", ".", ".."} & set(parts):
            raise kind.error(
                f"{repo} lists a file named '{escape(name)}', which could leave the cache folder; "
                "nothing was downloaded"
            )
    return names


def announced_hash(sibling: RepoSibling) -> str:
    """The hash the Hub gives for a file: SHA-256 in LFS, git's id otherwise, or nothing."""
    return (sibling.lfs.sha256 if sibling.lfs is not None else sibling.blob_id) or ""


def require_hash(file: BinaryIO, expected: str, kind: RepoKind, *, name: str, repo: str) -> None:
    """Check that a downloaded or cached file is the one on the Hub.

    Args:
        file: Open for reading.
        expected: As `announced_hash`; the cache names its files after it. Anything that is
            neither hash (a mirror without hashes, a cache without links) cannot be compared.
        kind: Model or dataset.
        name: File, for the message.
        repo: "ORG/NAME".

    Raises:
        MemscanError: Of `kind`: it is another file.
    """
    if _SHA256.fullmatch(expected):
        found = sha256(file)
    elif COMMIT.fullmatch(expected):
        found = git_blob_id(file.read())
    else:
        return
    if found != expected:
        raise kind.error(
            f"{name} of {repo} is not the file on the Hub (hash {found[:12]}, expected "
            f"{expected[:12]}): the download or the cache is damaged; delete this {kind.noun} from "
            "the Hub cache and try again"
        )


def remember_revision(snapshot: Path, revision: str, commit: str) -> None:
    """Write the cache's reference from branch or tag to commit, as a download by branch would.

    Without it, offline mode would not find by branch what was just downloaded by commit.
    """
    reference = snapshot.parent.parent / "refs" / revision
    temporary = reference.with_name(f"{reference.name}.{os.getpid()}.tmp")
    try:
        reference.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(commit, encoding="ascii")
        temporary.replace(reference)
    except OSError:
        return  # a read-only cache: only the shortcut is missing
