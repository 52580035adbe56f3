"""An image encoder's files: which are needed, where they come from, what their hashes are.

Weights are safetensors or nothing; no file with code or pickles is fetched or read.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_memscan.errors import DescriptorError
from pytest_memscan.hub.errors import RepoKind, explain, not_cached
from pytest_memscan.hub.snapshot import (
    DEFAULT_REVISION,
    announced_hash,
    cached_or_downloaded,
    commit_hash,
    remember_revision,
    require_hash,
    safe_names,
    sha256,
)
from pytest_memscan.reports.text import escape

CONFIG = "config.json"
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
_REFUSED_KEYS = ("quantization_config", "transformers_weights")  # other weights than those hashed
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".h5")
ENCODER = RepoKind(
    noun="model",
    page="",
    download="",
    local=", and no folder of that name here",
    error=DescriptorError,
)


@dataclass(frozen=True, kw_only=True)
class EncoderFiles:
    """Names in the encoder's folder of what will be read."""

    processor: str
    weights: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        index = () if self.weights == (SINGLE,) else (INDEX,)
        return (CONFIG, self.processor, *index, *self.weights)


def choose_files(names: Iterable[str], *, label: str) -> EncoderFiles:
    """The files to read, among those that are there.

    Raises:
        DescriptorError: The configuration, the preprocessing or safetensors weights are missing,
            or it is an adapter for another model.
    """
    there = set(names)
    if ADAPTER in there:
        raise DescriptorError(f"{label} is an adapter for another model, not an image encoder")
    if CONFIG not in there:
        raise DescriptorError(f"{label} has no {CONFIG}; name a folder or Hub model that has one")
    processor = next((name for name in PROCESSORS if name in there), None)
    if processor is None:
        raise DescriptorError(
            f"{label} has no {PROCESSORS[0]}, so how it wants its images is unknown; add the file "
            "from the model it was made from"
        )
    if SINGLE in there:
        return EncoderFiles(processor=processor, weights=(SINGLE,))
    shards = tuple(sorted(name for name in there if _SHARD.fullmatch(name)))
    if INDEX in there and shards:
        return EncoderFiles(processor=processor, weights=shards)
    pickles = sorted(name for name in there if name.endswith(_PICKLES) and "/" not in name)
    only = f", only {pickles[0]}, which can run code when loaded" if pickles else ""
    raise DescriptorError(
        f"{label} has no {SINGLE}{only}; use a revision with safetensors weights, or convert them"
    )


def names_in(folder: Path, *, label: str) -> tuple[str, ...]:
    """Names of the files directly in a folder.

    Raises:
        DescriptorError: It cannot be listed.
    """
    try:
        return tuple(sorted(path.name for path in folder.iterdir() if path.is_file()))
    except OSError as error:
        raise DescriptorError(f"{label} cannot be read: {error.strerror}") from None


def read_config(folder: Path, *, label: str) -> dict[str, Any]:
    """The configuration of the network, which asks for nothing but what will be hashed.

    Raises:
        DescriptorError: Not JSON, not of transformers, or it asks for other weights or for code.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise DescriptorError(f"{CONFIG} of {label} is not JSON that can be read") from None
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise DescriptorError(
            f"{CONFIG} of {label} names no model_type, so it is not a transformers model"
        )
    for key in _REFUSED_KEYS:
        if config.get(key) is not None:
            raise DescriptorError(f"{CONFIG} of {label} asks for {key}, which is not supported")
    _refuse_kernels(config, label)
    return config


def _refuse_kernels(config: Mapping[str, Any], label: str) -> None:
    """An attention named "ORG/NAME" would be fetched from the Hub and run, whatever we ask for."""
    for key, value in config.items():
        if "_implementation" in key and value not in (None, True, False, "eager", "sdpa"):
            raise DescriptorError(
                f"{CONFIG} of {label} asks for {escape(key)} '{escape(str(value))}', which could "
                "be code from the Hub; remove the entry"
            )
        if isinstance(value, dict):
            _refuse_kernels(value, label)


def file_hashes(folder: Path, files: EncoderFiles, *, label: str) -> dict[str, str]:
    """Name -> SHA-256 of every file that will be read.

    In the Hub cache, where a weight file is named after its hash, the two must agree.

    Raises:
        DescriptorError: A file cannot be read, is damaged, or a shard is missing.
    """
    if files.weights != (SINGLE,):
        _check_shards(folder, files, label)
    hashes = {}
    for name in files.names:
        try:
            with (folder / name).open("rb") as file:
                require_hash(file, (folder / name).resolve().name, ENCODER, name=name, repo=label)
                hashes[name] = sha256(file)
        except OSError as error:
            raise DescriptorError(f"{name} of {label} cannot be read: {error.strerror}") from None
    return hashes


def joint_hash(hashes: Mapping[str, str]) -> str:
    """One SHA-256 for several files; that of the file where there is one."""
    if len(hashes) == 1:
        return next(iter(hashes.values()))
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(hashes.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def fetch(repo: str, revision: str | None, *, offline: bool) -> tuple[Path, str]:
    """Snapshot folder and commit of a Hub model, downloaded unless it is cached.

    The revision becomes a commit first; files are asked for by commit.

    Args:
        repo: "ORG/NAME".
        revision: Branch, tag or commit; default: the main branch.
        offline: Use the local cache only. ``HF_HUB_OFFLINE=1`` means the same.

    Raises:
        DescriptorError: Not found, no access, not reachable, not an encoder, or damaged.
        NotCachedError: Offline, and not all of it is in the cache.
    """
    return cached_or_downloaded(
        repo,
        revision,
        offline=offline,
        from_cache=_from_cache,
        download=lambda repo, asked: _download(repo, asked or DEFAULT_REVISION),
    )


def _from_cache(repo: str, revision: str) -> tuple[Path, str]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(
            snapshot_download(
                repo, revision=revision, local_files_only=True, allow_patterns=[CONFIG]
            )
        )
        choose_files(names_in(folder, label=repo), label=repo)
    except LocalEntryNotFoundError:
        raise not_cached(ENCODER, repo, revision, "it is not in the local cache") from None
    except DescriptorError as error:
        raise not_cached(ENCODER, repo, revision, f"of what is cached, {error}") from None
    except Exception as error:
        raise explain(error, ENCODER, repo, revision) from None
    return folder, commit_hash(folder.name, ENCODER, repo)


def _download(repo: str, asked: str) -> tuple[Path, str]:
    from huggingface_hub import HfApi, snapshot_download

    try:
        info = HfApi().model_info(repo, revision=asked, files_metadata=True)
        commit = commit_hash(info.sha, ENCODER, repo, asked=asked)
        names = safe_names(info.siblings or [], ENCODER, repo)
        wanted = choose_files(names, label=repo).names
        folder = Path(snapshot_download(repo, revision=commit, allow_patterns=list(wanted)))
    except DescriptorError:
        raise
    except Exception as error:
        raise explain(error, ENCODER, repo, asked) from None
    for sibling in info.siblings or []:
        if sibling.rfilename in wanted:
            with (folder / sibling.rfilename).open("rb") as file:
                expected = announced_hash(sibling)
                require_hash(file, expected, ENCODER, name=sibling.rfilename, repo=repo)
    if asked != commit:
        remember_revision(folder, asked, commit)
    return folder, commit


def _check_shards(folder: Path, files: EncoderFiles, label: str) -> None:
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        promised = set(index["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        raise DescriptorError(f"{INDEX} of {label} is damaged") from None
    if promised != set(files.weights):
        raise DescriptorError(
            f"{label} does not hold the files that its {INDEX} names; fetch it again"
        )
