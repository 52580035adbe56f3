"""A model on the Hugging Face Hub -> the folder of one commit in the local Hub cache.

The revision becomes a commit hash first; everything after that asks for the commit, so a branch
that moves in between changes nothing. Only the files that diffusers will load are fetched, after
``model_index.json`` and the list of names were judged: pickles and code never reach the disk. The
model card is fetched too: it may name the base and the prompts of a fine-tune.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pytest_memscan.checkpoints import layout
from pytest_memscan.checkpoints.adapter_names import adapter_names
from pytest_memscan.checkpoints.claims import CARD
from pytest_memscan.checkpoints.components import Parts, read_parts
from pytest_memscan.checkpoints.families import MODEL_INDEX
from pytest_memscan.checkpoints.files import open_regular, read_json
from pytest_memscan.checkpoints.weights import MAX_INDEX_BYTES
from pytest_memscan.errors import CheckpointError, MemscanError
from pytest_memscan.hub.errors import MODEL, explain, not_cached
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
    from huggingface_hub.hf_api import ModelInfo


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
    return cached_or_downloaded(
        repo, revision, offline=offline, from_cache=_from_cache, download=_download
    )


def _from_cache(repo: str, revision: str) -> tuple[Path, str]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        snapshot = snapshot_download(
            repo, revision=revision, local_files_only=True, allow_patterns=[MODEL_INDEX]
        )
    except LocalEntryNotFoundError:
        raise not_cached(MODEL, repo, revision, "it is not in the local cache") from None
    except Exception as error:
        raise explain(error, MODEL, repo, revision) from None
    folder = Path(snapshot)
    names = layout.list_names(folder)
    try:
        if MODEL_INDEX in names:
            wanted = _wanted_names(folder, names, read_parts(folder))
        else:
            wanted = list(adapter_names(names) or ())
    except CheckpointError as error:
        raise not_cached(MODEL, repo, revision, f"the cached copy is partial: {error}") from None
    if not wanted:
        raise not_cached(MODEL, repo, revision, f"the cache lacks {MODEL_INDEX}")
    wanted += [CARD] if CARD in names else []
    for name in wanted:
        # The cache names the real file after the hash the Hub gave for it.
        _require_hash(folder, name, (folder / name).resolve().name, repo)
    return folder, commit_hash(folder.name, MODEL, repo)


def _wanted_names(folder: Path, names: tuple[str, ...], parts: Parts) -> list[str]:
    """The files to load, all of which exist in the folder."""
    files = layout.files_to_load(names, parts)
    wanted = files.names()
    for part in files.of_part.values():
        if part.weights is None or not part.is_sharded:
            continue
        index = read_json(folder, part.weights, max_bytes=MAX_INDEX_BYTES)
        shards = sorted(set(layout.shard_names(index, part).values()))
        for shard in shards:
            if shard not in names:
                raise CheckpointError(f"{shard} is missing")
        wanted += shards
    return wanted


def _download(repo: str, revision: str | None) -> tuple[Path, str]:
    from huggingface_hub import HfApi, snapshot_download

    asked = revision or DEFAULT_REVISION
    try:
        info = HfApi().model_info(repo, revision=revision, files_metadata=True)
    except Exception as error:
        raise explain(error, MODEL, repo, asked) from None
    commit = commit_hash(info.sha, MODEL, repo, asked=revision)
    names = safe_names(info.siblings or [], MODEL, repo)
    try:
        wanted = _wanted_on_hub(repo, commit, names)
        folder = Path(snapshot_download(repo, revision=commit, allow_patterns=wanted))
    except MemscanError:
        raise
    except Exception as error:
        raise explain(error, MODEL, repo, asked) from None
    _compare_with_hub(folder, info, set(wanted), repo)
    if asked != commit:
        remember_revision(folder, asked, commit)
    return folder, commit


def _wanted_on_hub(repo: str, commit: str, names: tuple[str, ...]) -> list[str]:
    """The files of a pipeline or of a LoRA, and the model card."""
    from huggingface_hub import hf_hub_download

    card = [CARD] if CARD in names else []
    if MODEL_INDEX not in names:
        of_adapter = adapter_names(names)
        if of_adapter is None:
            why = layout.describe_without_index(names)
            raise CheckpointError(f"{repo}@{commit[:7]} has no {MODEL_INDEX}: {why}")
        return [*of_adapter, *card]
    # This small file first: an unsupported pipeline is refused before gigabytes are fetched.
    index = hf_hub_download(repo, MODEL_INDEX, revision=commit)
    files = layout.files_to_load(names, read_parts(Path(index).parent))
    return [name for name in names if layout.may_be_loaded(name, files)] + card


def _compare_with_hub(folder: Path, info: ModelInfo, wanted: set[str], repo: str) -> None:
    for sibling in info.siblings or []:
        if sibling.rfilename in wanted:
            _require_hash(folder, sibling.rfilename, announced_hash(sibling), repo)


def _require_hash(folder: Path, name: str, expected: str, repo: str) -> None:
    with open_regular(folder, name) as file:
        require_hash(file, expected, MODEL, name=name, repo=repo)
