"""A dataset on the Hugging Face Hub -> the Parquet shards of one commit in the local Hub cache.

The revision becomes a commit hash first; everything after that asks for the commit. Only Parquet
files are fetched, and of these only the training split, where there is one by name: neither the
dataset's code nor its other files reach the disk.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_memscan.data.listing import require_whole
from pytest_memscan.data.naming import name_some, printable
from pytest_memscan.data.opening import open_regular
from pytest_memscan.data.readers.columns import require_pyarrow
from pytest_memscan.data.readers.parquet import read_shards
from pytest_memscan.data.records import Reading
from pytest_memscan.data.sources import DataSource
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


def open_hub(source: DataSource, *, offline: bool) -> Reading:
    """Every row of the training split of a dataset.

    Args:
        source: Repository and revision.
        offline: Use the local cache only. ``HF_HUB_OFFLINE=1`` means the same.

    Raises:
        TrainDataError: Not found, no access, not reachable, no Parquet files, or they differ from
            the hashes that the Hub gives for them.
        NotCachedError: Offline, and not or not completely in the cache.
    """
    repo, revision = source.repo or "", source.revision
    require_pyarrow(source.label)
    folder, names, all_names = _fetch(repo, revision, offline=offline)
    split = "all" if len(names) == len(all_names) else f"training split, {len(names)} of"
    origin = f"hub:{repo}@{folder.name[:7]} ({split} {len(all_names)} Parquet files)"
    return read_shards({name: folder / name for name in names}, origin=origin)


def training_files(names: Iterable[str]) -> list[str]:
    """The Parquet files of the training split, or all of them where none is called so.

    Example:
        >>> training_files(["README.md", "data/test-0.parquet", "data/train-0.parquet"])
        ['data/train-0.parquet']
    """
    files = _parquet_files(names)
    return [name for name in files if _TRAIN.search(name)] or files


def _parquet_files(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if name.lower().endswith(".parquet"))


def _fetch(repo: str, revision: str | None, *, offline: bool) -> tuple[Path, list[str], list[str]]:
    """Snapshot folder, files to read, and all Parquet files of the commit."""
    return cached_or_downloaded(
        repo, revision, offline=offline, from_cache=_from_cache, download=_download
    )


def _download(repo: str, revision: str | None) -> tuple[Path, list[str], list[str]]:
    from huggingface_hub import HfApi, snapshot_download

    asked = revision or DEFAULT_REVISION
    try:
        info = HfApi().dataset_info(repo, revision=revision, files_metadata=True)
        commit = commit_hash(info.sha, DATASET, repo, asked=revision)
        names = safe_names(info.siblings or [], DATASET, repo)
        wanted = _require_files(names, repo, commit)
        folder = Path(
            snapshot_download(
                repo,
                repo_type="dataset",
                revision=commit,
                allow_patterns=[glob.escape(name) for name in wanted],
            )
        )
    except MemscanError:
        raise
    except Exception as error:
        raise explain(error, DATASET, repo, asked) from None
    _compare_with_hub(folder, info, wanted, repo)
    if asked != commit:
        remember_revision(folder, asked, commit)
    return folder, wanted, _parquet_files(names)


def _require_files(names: Sequence[str], repo: str, commit: str) -> list[str]:
    wanted = training_files(names)
    if not wanted:
        listed = name_some([printable(name) for name in sorted(names)]) or "nothing"
        raise TrainDataError(
            f"dataset {repo}@{commit[:7]} holds no Parquet files but {listed}; the Hub converts "
            f"many datasets itself: try hub:{repo}@refs/convert/parquet, or download the images "
            "and name their folder"
        )
    require_whole(wanted, f"dataset {repo}@{commit[:7]}")
    return wanted


def _compare_with_hub(folder: Path, info: DatasetInfo, wanted: list[str], repo: str) -> None:
    for sibling in info.siblings or []:
        if sibling.rfilename in wanted:
            _require_hash(folder, sibling.rfilename, announced_hash(sibling), repo)


def _require_hash(folder: Path, name: str, expected: str, repo: str) -> None:
    with open_regular(folder / name, printable(name)) as file:
        require_hash(file, expected, DATASET, name=printable(name), repo=repo)


def _from_cache(repo: str, revision: str) -> tuple[Path, list[str], list[str]]:
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
    wanted = training_files(listed)
    missing = [printable(name) for name in wanted if not (folder / name).is_file()]
    if missing or not wanted:
        what = name_some(missing) or "Parquet files"
        raise not_cached(DATASET, repo, revision, f"the cache lacks {what}")
    for name in wanted:
        # The cache names the real file after the hash the Hub gave for it.
        _require_hash(folder, name, (folder / name).resolve().name, repo)
    return folder, wanted, _parquet_files(listed)


def _cached_listing(repo: str, commit: str) -> list[str] | None:
    """The names of all files of a commit, if the cache remembers them."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        entries = get_cached_repo_tree(repo, repo_type="dataset", revision=commit)
    except CachedRepoTreeNotFoundError:  # single files were fetched, or by an older library
        return None
    return [entry.path for entry in entries]
