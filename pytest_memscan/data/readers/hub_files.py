"""Files of a dataset on the Hugging Face Hub -> the local Hub cache, of one commit, verified.

The revision becomes a commit hash first; everything after that asks for the commit. Only the files
that a reader chooses by name are fetched: neither the dataset's code nor its other files reach the
disk.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_memscan.data.listing import require_whole
from pytest_memscan.data.naming import name_some, printable
from pytest_memscan.data.opening import open_regular
from pytest_memscan.errors import MemscanError, TrainDataError
from pytest_memscan.hub.errors import DATASET, explain, not_cached
from pytest_memscan.hub.snapshot import (
    DEFAULT_REVISION,
    announced_hash,
    cached_or_downloaded,
    commit_hash,
    remember_revision,
    require_hash,
    safe_names,
)

if TYPE_CHECKING:
    from huggingface_hub.hf_api import DatasetInfo

_TRAIN = re.compile(r"(^|[/_.-])train([/_.-]|$)", re.IGNORECASE)
_NOTHING = [".nothing"]  # a pattern: ask for the folder only


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which files of a dataset a reader reads.

    Attributes:
        choose: Names of all files -> those to read, in order.
        noun: What they are, for messages: "Parquet files".
        remedy: What to do where there are none.
    """

    choose: Callable[[Iterable[str]], list[str]]
    noun: str
    remedy: str


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """Verified files of one commit.

    Attributes:
        folder: The commit's folder in the local cache.
        commit: Its hash.
        files: Names of the files that were chosen; they are in `folder`.
        listed: Names of all files of the commit; most of them were not fetched.
    """

    folder: Path
    commit: str
    files: tuple[str, ...]
    listed: tuple[str, ...]


def of_training_split(files: Iterable[str]) -> list[str]:
    """Those of the training split, or all of them where none is called so; sorted.

    Example:
        >>> of_training_split(["data/test-0.csv", "data/train-0.csv"])
        ['data/train-0.csv']
    """
    ordered = sorted(files)
    return [name for name in ordered if _TRAIN.search(name)] or ordered


def fetch_files(repo: str, revision: str | None, wanted: Wanted, *, offline: bool) -> Fetched:
    """Bring some files of a dataset to the disk, and compare them with the Hub's hashes.

    Args:
        repo: "ORG/NAME".
        revision: Branch, tag or commit; None for the main branch.
        wanted: Which of its files.
        offline: Use the local cache only. ``HF_HUB_OFFLINE=1`` means the same.

    Raises:
        TrainDataError: Not found, no access, not reachable, no such files, or they differ from the
            hashes that the Hub gives for them.
        NotCachedError: Offline, and not or not completely in the cache.
    """
    return cached_or_downloaded(
        repo,
        revision,
        offline=offline,
        from_cache=lambda repo, revision: _from_cache(repo, revision, wanted),
        download=lambda repo, revision: _download(repo, revision, wanted),
    )


def _download(repo: str, revision: str | None, wanted: Wanted) -> Fetched:
    from huggingface_hub import HfApi, snapshot_download

    asked = revision or DEFAULT_REVISION
    try:
        info = HfApi().dataset_info(repo, revision=revision, files_metadata=True)
        commit = commit_hash(info.sha, DATASET, repo, asked=revision)
        names = safe_names(info.siblings or [], DATASET, repo)
        files = _require_files(names, wanted, f"dataset {repo}@{commit[:7]}")
        folder = Path(
            snapshot_download(
                repo,
                repo_type="dataset",
                revision=commit,
                allow_patterns=[glob.escape(name) for name in files],
            )
        )
    except MemscanError:
        raise
    except Exception as error:
        raise explain(error, DATASET, repo, asked) from None
    _compare_with_hub(folder, info, files, repo)
    if asked != commit:
        remember_revision(folder, asked, commit)
    return Fetched(folder=folder, commit=commit, files=tuple(files), listed=names)


def _require_files(names: Sequence[str], wanted: Wanted, where: str) -> list[str]:
    files = wanted.choose(names)
    if not files:
        listed = name_some([printable(name) for name in sorted(names)]) or "nothing"
        raise TrainDataError(f"{where} holds no {wanted.noun} but {listed}; {wanted.remedy}")
    require_whole(files, where)
    return files


def _compare_with_hub(folder: Path, info: DatasetInfo, files: list[str], repo: str) -> None:
    for sibling in info.siblings or []:
        if sibling.rfilename in files:
            _require_hash(folder, sibling.rfilename, announced_hash(sibling), repo)


def _require_hash(folder: Path, name: str, expected: str, repo: str) -> None:
    with open_regular(folder / name, printable(name)) as file:
        require_hash(file, expected, DATASET, name=printable(name), repo=repo)


def _from_cache(repo: str, revision: str, wanted: Wanted) -> Fetched:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        snapshot = snapshot_download(
            repo,
            repo_type="dataset",
            revision=revision,
            local_files_only=True,
            allow_patterns=_NOTHING,
        )
    except LocalEntryNotFoundError:
        raise not_cached(DATASET, repo, revision, "it is not in the local cache") from None
    except Exception as error:
        raise explain(error, DATASET, repo, revision) from None
    folder = Path(snapshot)
    commit = commit_hash(folder.name, DATASET, repo, asked=revision)
    listed = _cached_listing(repo, commit)
    if listed is None:
        what = "the cache does not tell which files belong to it"
        raise not_cached(DATASET, repo, revision, what)
    files = wanted.choose(listed)
    missing = [printable(name) for name in files if not (folder / name).is_file()]
    if missing or not files:
        what = name_some(missing) or wanted.noun
        raise not_cached(DATASET, repo, revision, f"the cache lacks {what}")
    for name in files:
        # The cache names the real file after the hash the Hub gave for it.
        _require_hash(folder, name, (folder / name).resolve().name, repo)
    return Fetched(folder=folder, commit=commit, files=tuple(files), listed=tuple(listed))


def _cached_listing(repo: str, commit: str) -> list[str] | None:
    """The names of all files of a commit, if the cache remembers them."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        entries = get_cached_repo_tree(repo, repo_type="dataset", revision=commit)
    except CachedRepoTreeNotFoundError:  # single files were fetched, or by an older library
        return None
    return [entry.path for entry in entries]
