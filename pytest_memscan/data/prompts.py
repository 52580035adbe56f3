"""What the user typed after ``--memscan-prompts`` or ``--memscan-canaries`` -> prompts.

Imported when pytest starts: nothing heavy. A prompt is somebody's caption, so none ever stands in
a message: places are named instead ("line 7").
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pytest_memscan.data.naming import printable
from pytest_memscan.data.prompt_rules import Entry, Tally
from pytest_memscan.data.sources import parse_source
from pytest_memscan.errors import OptionError, PromptError, TrainDataError, shown_path
from pytest_memscan.results import PromptCoverage

Kind = Literal["txt", "jsonl", "csv", "parquet", "folder", "hub", "builtin", "none"]
_SUFFIX_KINDS: dict[str, Kind] = {
    ".txt": "txt",
    ".jsonl": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
}
_BUILTIN_PREFIX = "builtin:"
_PROBE_FILE = Path(__file__).with_name("probe_prompts.txt")
_EXPECTED = (
    "expected a list of prompts (.txt, .jsonl, .csv or .parquet), a folder of images with "
    "captions, hub:ORG/NAME or builtin:probe"
)
_CHECKED_ENTRIES = 1000  # at start-up, however slow the disk is
_CHECKED_SECONDS = 1.0  # and as many more as this allows
_TOKENIZED_AT_ONCE = 1000


@dataclass(frozen=True, kw_only=True)
class PromptSource:
    """Where prompts come from.

    Attributes:
        kind: How they are stored.
        path: File or folder, absolute and private; None on the Hub and for the built-in list.
        repo: "ORG/NAME" of a dataset on the Hub, else None.
        revision: Its branch, tag or commit; None for the main branch.
    """

    kind: Kind
    path: Path | None = field(default=None, repr=False)
    repo: str | None = None
    revision: str | None = None

    @property
    def label(self) -> str:
        """The source as messages and reports may show it: without a private folder."""
        if self.kind in ("builtin", "none"):
            return "built-in probe list" if self.kind == "builtin" else "no prompts"
        if self.path is None:
            return f"hub:{self.repo}" + (f"@{self.revision}" if self.revision else "")
        return printable(shown_path(self.path))


PROBE = PromptSource(kind="builtin")
NO_PROMPTS = PromptSource(kind="none")
_BUILTIN = {"builtin:probe": PROBE, "builtin:none": NO_PROMPTS}


@dataclass(frozen=True, kw_only=True)
class PromptSet:
    """Different prompts that can be scanned.

    Attributes:
        prompts: In the order in which they were found. Private.
        places: Where each was found: "line 7". Private: may hold names of images.
        coverage: What became of every line or row.
        fingerprint: sha256 over the prompts in their order.
    """

    prompts: tuple[str, ...] = field(repr=False)
    places: tuple[str, ...] = field(repr=False)
    coverage: PromptCoverage
    fingerprint: str

    @property
    def is_whole(self) -> bool:
        """Whether no prompt was lost that could have been tried."""
        return not self.coverage.unusable


def parse_prompt_source(text: str, base: Path) -> PromptSource:
    """Read a path, ``hub:ORG/NAME[@REVISION]`` or ``builtin:probe``.

    Args:
        text: As typed.
        base: What a relative path starts from.

    Raises:
        OptionError: None of these. A missing file is found by `check_prompt_source`, so that
            ``--collect-only`` needs none.

    Example:
        >>> parse_prompt_source("hub:org/captions@v1", Path("."))
        PromptSource(kind='hub', repo='org/captions', revision='v1')
        >>> parse_prompt_source("builtin:probe", Path(".")).label
        'built-in probe list'
    """
    if text.startswith(_BUILTIN_PREFIX):
        if text not in _BUILTIN:
            known = " and ".join(_BUILTIN)
            raise OptionError(f"there is no list of prompts {text!r}; there are {known}")
        return _BUILTIN[text]
    source = parse_source(text, base)
    if source.kind == "hub":
        return PromptSource(kind="hub", repo=source.repo, revision=source.revision)
    if source.kind == "index":
        raise OptionError(f"{source.label} holds descriptors and no prompts; {_EXPECTED}")
    suffix = source.local.suffix.lower()
    if os.path.isdir(source.local) or not suffix:
        return PromptSource(kind="folder", path=source.local)
    if suffix not in _SUFFIX_KINDS:
        raise OptionError(f"{source.label} cannot be read as prompts; {_EXPECTED}")
    return PromptSource(kind=_SUFFIX_KINDS[suffix], path=source.local)


def check_prompt_source(source: PromptSource) -> None:
    """Find out at start-up whether there are prompts to read; nothing is fetched.

    A list on this machine is read for about a second, so all of a short one.

    Raises:
        OptionError: It cannot be read, or no prompt in it can be used.
    """
    if source.path is None:
        return
    try:
        with _as_prompt_error():
            entries = _LimitedTime(_local_entries(source))
            tally = Tally(source.label)
            tally.count_all(entries)
        if not entries.stopped:
            tally.require_some()
    except PromptError as error:
        raise OptionError(str(error)) from None


def read_prompts(source: PromptSource, *, offline: bool) -> PromptSet:
    """Every different prompt of a source.

    Args:
        source: Where they are.
        offline: Use the local Hub cache only.

    Raises:
        PromptError: It cannot be read, holds more than 1,000,000 lines or rows, or none that
            can be used.
        NotCachedError: Offline, and not in the Hub cache.
    """
    from pytest_memscan.data.readers.prompt_lists import hub_entries

    with _as_prompt_error():
        if source.kind == "hub":
            entries, origin = hub_entries(source.repo or "", source.revision, offline=offline)
        elif source.kind == "none":
            raise PromptError("builtin:none gives no prompts, and this scan needs some")
        elif source.kind == "builtin":
            entries, origin = _probe_entries(), source.label
        else:
            entries, origin = _local_entries(source), source.label
        tally = Tally(origin)
        tally.count_all(entries)
    tally.require_some()
    return _prompt_set(tally, is_probe=source.kind == "builtin")


def has_captions(captions: Iterable[str | None]) -> bool:
    """Whether any training image has a caption; if not, there is nothing for `prompts_of_captions`.

    Example:
        >>> has_captions([None, " "])
        False
    """
    return any(caption and not caption.isspace() for caption in captions)


def prompts_of_captions(captions: Sequence[str | None], origin: str) -> PromptSet:
    """Every different caption of the training images.

    Args:
        captions: One an image, in their order; None where there is none.
        origin: The source of the images, for people, without a private folder.

    Raises:
        PromptError: No caption can be used.
    """
    tally = Tally(origin, most=None)
    tally.count_all(Entry(f"train#{index:05d}", caption) for index, caption in enumerate(captions))
    tally.require_some()
    return _prompt_set(tally, is_probe=False)


def count_truncated(
    prompts: Sequence[str], tokenizers: Sequence[Any], *, limits: Sequence[int] | None = None
) -> int:
    """How many prompts no text encoder reads to their end.

    A checkpoint with several text encoders reads a prompt to its end if one of them does, so a
    prompt counts when every tokenizer cuts it.

    Args:
        prompts: Texts.
        tokenizers: As transformers makes them.
        limits: Tokens that each of them is asked for, where that is less than its own
            ``model_max_length`` (pipelines with a T5 encoder ask for 256, 300 or 512).

    Returns:
        Their number; 0 without tokenizers.
    """
    if not tokenizers:
        return 0
    lengths = [int(tokenizer.model_max_length) for tokenizer in tokenizers]
    lengths = [min(pair) for pair in zip(lengths, limits or lengths, strict=True)]
    count = 0
    for start in range(0, len(prompts), _TOKENIZED_AT_ONCE):
        cut = list(prompts[start : start + _TOKENIZED_AT_ONCE])
        for tokenizer, length in zip(tokenizers, lengths, strict=True):
            if cut:
                ids = tokenizer(cut, truncation=False, padding=False, verbose=False)["input_ids"]
                cut = [text for text, each in zip(cut, ids, strict=True) if len(each) > length]
        count += len(cut)
    return count


def _prompt_set(tally: Tally, *, is_probe: bool) -> PromptSet:
    digest = hashlib.sha256()
    for prompt in tally.prompts:
        # Hashes, since they are of one length: no two lists can look the same.
        digest.update(hashlib.sha256(prompt.encode()).digest())
    coverage = PromptCoverage(
        origin=tally.origin,
        is_probe=is_probe,
        num_found=tally.num_found,
        num_used=len(tally.prompts),
        dropped=dict(tally.dropped),
        unusable={reason: tuple(places) for reason, places in tally.unusable.items()},
    )
    return PromptSet(
        prompts=tuple(tally.prompts),
        places=tuple(tally.places),
        coverage=coverage,
        fingerprint=digest.hexdigest(),
    )


class _LimitedTime:
    """Entries until the time is up."""

    def __init__(self, entries: Iterator[Entry]) -> None:
        self._entries = entries
        self.stopped = False

    def __iter__(self) -> Iterator[Entry]:
        until = time.monotonic() + _CHECKED_SECONDS
        for number, entry in enumerate(self._entries):
            if number >= _CHECKED_ENTRIES and time.monotonic() > until:
                self.stopped = True
                return
            yield entry


def _local_entries(source: PromptSource) -> Iterator[Entry]:
    from pytest_memscan.data.readers.prompt_lists import folder_entries, list_entries

    path = source.path
    if path is None:
        raise ValueError(f"{source.label} has no path")
    if not os.path.lexists(path):
        raise PromptError(f"{source.label}: there is no such file or folder; {_EXPECTED}")
    if source.kind == "folder":
        if not os.path.isdir(path):
            raise PromptError(f"{source.label} is a file without a suffix; {_EXPECTED}")
        return folder_entries(path, source.label)
    return list_entries(path, source.label)


def _probe_entries() -> Iterator[Entry]:
    lines = _PROBE_FILE.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        if line and not line.startswith("#"):
            yield Entry(f"line {number}", line)


@contextmanager
def _as_prompt_error() -> Iterator[None]:
    """What readers shared with training images raise, as what it is here."""
    try:
        yield
    except TrainDataError as error:
        raise PromptError(str(error)) from None
