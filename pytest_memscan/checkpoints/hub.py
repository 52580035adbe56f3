"""A model on the Hugging Face Hub -> the folder of one commit in the local Hub cache.

The revision becomes a commit hash first; everything after that asks for the commit, so a branch
that moves in between changes nothing. Only the files that diffusers will load are fetched, after
the list of names and ``model_index.json`` were judged: pickles and code never reach the disk.

huggingface_hub is imported inside functions (it is slow, and reads its environment variables
``HF_HOME``, ``HF_ENDPOINT``, ``HF_HUB_OFFLINE`` when imported).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_memscan.checkpoints import hub_errors, layout
from pytest_memscan.checkpoints.files import git_blob_id, open_regular, read_json, sha256, shown
from pytest_memscan.errors import CheckpointError

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DEFAULT_REVISION = "main"


def fetch(repo: str, revision: str | None, *, offline: bool) -> tuple[Path, str]:
    """Snapshot folder and commit of a Hub model, downloaded unless it is cached.

    Args:
        repo: "ORG/NAME".
        revision: Branch, tag or commit; default: the main branch.
        offline: Use the local cache only. ``HF_HUB_OFFLINE=1`` means the same.

    Raises:
        CheckpointError: Not found, no access, not reachable, not cached, not supported, or the
            files differ from the hashes the Hub gives for them.
    """
    from huggingface_hub import constants

    if offline or constants.HF_HUB_OFFLINE:
        return _from_cache(repo, revision or _DEFAULT_REVISION)
    if revision is not None and COMMIT.fullmatch(revision):
        # A commit never changes: if all of it is here, the network is not needed.
        try:
            return _from_cache(repo, revision)
        except hub_errors.NotCachedError:
            pass
    return _download(repo, revision)


def _from_cache(repo: str, revision: str) -> tuple[Path, str]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        snapshot = snapshot_download(
            repo, revision=revision, local_files_only=True, allow_patterns=[layout.MODEL_INDEX]
        )
    except LocalEntryNotFoundError:
        raise hub_errors.not_cached(repo, revision, "it is not in the local cache") from None
    except Exception as error:
        raise hub_errors.explain(error, repo, revision) from None
    folder = Path(snapshot)
    names = layout.list_names(folder)
    if layout.MODEL_INDEX not in names:
        raise hub_errors.not_cached(repo, revision, f"the cache lacks {layout.MODEL_INDEX}")
    layout.check_pipeline(read_json(folder, layout.MODEL_INDEX))
    try:
        wanted = _wanted_names(folder, names)
    except CheckpointError as error:
        raise hub_errors.not_cached(
            repo, revision, f"the cached copy is partial: {error}"
        ) from None
    for name in wanted:
        # The cache names the real file after the hash the Hub gave for it.
        _require_hash(folder, name, (folder / name).resolve().name, repo)
    return folder, _commit(folder.name, repo)


def _wanted_names(folder: Path, names: tuple[str, ...]) -> list[str]:
    """The files to load, all of which exist in the folder."""
    files = layout.files_to_load(names)
    wanted = [layout.MODEL_INDEX, files.scheduler_config, files.unet_config, files.weights]
    if not files.is_sharded:
        return wanted
    index = read_json(folder, files.weights, max_bytes=8 << 20)
    shards = sorted(set(layout.shard_names(index, files).values()))
    for shard in shards:
        if shard not in names:
            raise CheckpointError(f"{shard} is missing")
    return [*wanted, *shards]


def _download(repo: str, revision: str | None) -> tuple[Path, str]:
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download

    asked = revision or _DEFAULT_REVISION
    try:
        info = HfApi().model_info(repo, revision=revision, files_metadata=True)
    except Exception as error:
        raise hub_errors.explain(error, repo, asked) from None
    commit = _commit(info.sha, repo)
    if revision is not None and COMMIT.fullmatch(revision) and commit != revision:
        raise CheckpointError(f"the Hub answered with commit {commit[:7]} of {repo}, not {asked}")
    names = _safe_names(info, repo)
    if layout.MODEL_INDEX not in names:
        raise CheckpointError(
            f"{repo}@{commit[:7]} has no {layout.MODEL_INDEX}: "
            f"{layout.describe_without_index(names)}"
        )
    files = layout.files_to_load(names)
    try:
        # This small file first: an unsupported pipeline is refused before gigabytes are fetched.
        index = hf_hub_download(repo, layout.MODEL_INDEX, revision=commit)
        layout.check_pipeline(read_json(Path(index).parent, layout.MODEL_INDEX))
        wanted = [name for name in names if layout.may_be_loaded(name, files)]
        snapshot_download(repo, revision=commit, allow_patterns=wanted)
    except CheckpointError:
        raise
    except Exception as error:
        raise hub_errors.explain(error, repo, asked) from None
    folder = Path(index).parent
    _compare_with_hub(folder, info, set(wanted), repo)
    if asked != commit:
        _remember_revision(folder, asked, commit)
    return folder, commit


def _remember_revision(folder: Path, revision: str, commit: str) -> None:
    """Write the cache's reference from branch or tag to commit, as a download by branch would.

    Without it, offline mode would not find by branch what was just downloaded by commit.
    """
    reference = folder.parent.parent / "refs" / revision
    temporary = reference.with_name(f"{reference.name}.{os.getpid()}.tmp")
    try:
        reference.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(commit, encoding="ascii")
        temporary.replace(reference)
    except OSError:
        return  # a read-only cache: only the shortcut is missing


def _commit(value: str | None, repo: str) -> str:
    if value is None or not COMMIT.fullmatch(value):
        raise CheckpointError(f"{repo}: the Hub gave {shown(value)}, which is not a commit hash")
    return value


def _safe_names(info: ModelInfo, repo: str) -> tuple[str, ...]:
    """The names in the repository, none of which could point outside a folder."""
    names = tuple(sibling.rfilename for sibling in info.siblings or [])
    for name in names:
        parts = name.split("/")
        if "\\" in name or ":" in name or not name.isprintable() or {"", ".", ".."} & set(parts):
            raise CheckpointError(
                f"{repo} lists a file named {shown(name)}, which could leave the cache folder; "
                "nothing was downloaded"
            )
    return names


def _compare_with_hub(folder: Path, info: ModelInfo, wanted: set[str], repo: str) -> None:
    for sibling in info.siblings or []:
        if sibling.rfilename in wanted:
            expected = sibling.lfs.sha256 if sibling.lfs is not None else sibling.blob_id
            _require_hash(folder, sibling.rfilename, expected or "", repo)


def _require_hash(folder: Path, name: str, expected: str, repo: str) -> None:
    """The file has the hash the Hub gives: SHA-256 in LFS, git's id otherwise."""
    with open_regular(folder, name) as file:
        if _SHA256.fullmatch(expected):
            found = sha256(file)
        elif COMMIT.fullmatch(expected):
            found = git_blob_id(file.read())
        else:
            return  # a mirror without hashes, or a cache without links: nothing to compare with
    if found != expected:
        raise CheckpointError(
            f"{name} of {repo} is not the file on the Hub (hash {found[:12]}, expected "
            f"{expected[:12]}): the download or the cache is damaged; delete this model from the "
            "Hub cache and try again"
        )
