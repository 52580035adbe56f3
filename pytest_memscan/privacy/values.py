"""Which values are private in this run, and what is shown in their place."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_memscan.checks import CHECKS
from pytest_memscan.errors import MemscanError, shown_path
from pytest_memscan.policy import METRICS
from pytest_memscan.privacy.scrubber import PrivatePath, Scrubber
from pytest_memscan.results import Verdict

if TYPE_CHECKING:
    from pytest_memscan.config import Config
    from pytest_memscan.data.prompts import PromptSource

HUB_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN")
PROMPT, CANARY, CACHE = "(prompt)", "(planted string)", "(cache folder)"
_SECRETS = ("TOKEN", "SECRET", "PASSWORD", "API_KEY", "ACCESS_KEY")  # how such variables end
_LEAST_TOKEN = 8  # characters; less could be any word
_LEAST_SECRET = 16  # of variables that are known by their names alone
_LEAST_CANARY = 8
_LEAST_PROMPT = 16
_MOST_TEXTS = 1_000  # of one list
_MOST_BYTES = 2**20
# Every report says them, so they are nobody's secret, and without them no report can be read.
_OUR_WORDS = {
    *Verdict,
    *CHECKS,
    "Infinity",
    *(name for names in METRICS.values() for name in names),
}
# Names that say nothing about a person, and stand in many paths of a system.
_COMMON_USERS = {"root", "runner", "user", "ubuntu", "nobody", "admin", "docker", "jovyan", "home"}


def of_environment(environ: Mapping[str, str] = os.environ) -> Scrubber:
    """What is private whatever is scanned, for messages about options that cannot be used."""
    return Scrubber(tokens=_tokens(environ), paths=_home(), user=_user(environ))


def of_settings(
    settings: Config,
    environ: Mapping[str, str] = os.environ,
    *,
    typed: Iterable[str] = (),
    shows_evidence: bool = False,
) -> Scrubber:
    """What is private in a run.

    Lists of prompts and of planted strings on this machine count up to their first 1,000 lines,
    and a mebibyte; a text of a few letters could be anybody's and is left alone.

    Args:
        settings: Name the private files and folders.
        environ: Holds tokens.
        typed: Values of options as they were typed: settings know no links.
        shows_evidence: Leave the folder of the evidence alone: the terminal names it.
    """
    return Scrubber(
        tokens=_tokens(environ),
        paths=(*_with_links(_paths(settings, shows_evidence=shows_evidence), typed), *_home()),
        texts=tuple(dict(_texts(settings)).items()),
        user=_user(environ),
    )


def _tokens(environ: Mapping[str, str]) -> tuple[str, ...]:
    found = [environ.get(name, "") for name in HUB_TOKENS]
    found += [
        value
        for name, value in environ.items()
        if name.upper().endswith(_SECRETS) and len(value.strip()) >= _LEAST_SECRET
    ]
    found += [_content(file) for file in _token_files(environ)]
    stripped = (each.strip() for each in found)
    long = (each for each in stripped if len(each) >= _LEAST_TOKEN)
    return tuple(dict.fromkeys(each for each in long if each not in _OUR_WORDS))


def _token_files(environ: Mapping[str, str]) -> Iterator[Path]:
    """Where `hf auth login` keeps its token."""
    if environ.get("HF_TOKEN_PATH"):
        yield Path(environ["HF_TOKEN_PATH"])
    cache = environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = environ.get("HF_HOME") or f"{cache}/huggingface"
    yield Path(os.path.expanduser(home)) / "token"


def _content(file: Path) -> str:
    try:
        with file.expanduser().open(encoding="utf-8") as opened:
            return opened.read(4096)
    except (OSError, ValueError, RuntimeError):
        return ""


def _paths(settings: Config, *, shows_evidence: bool) -> Iterator[PrivatePath]:
    evidence = settings.outputs.evidence
    if evidence is not None and not shows_evidence:
        yield from _with_aliases(evidence, shown_path(evidence))
    for image_source in _image_sources(settings):
        yield from _with_folders(image_source, hides_files=True)
    for source in (*_prompt_sources(settings), *_models(settings)):
        yield from _with_folders(source)
    yield from _with_aliases(settings.cache_dir, CACHE)


def _with_links(paths: Iterable[PrivatePath], typed: Iterable[str]) -> Iterator[PrivatePath]:
    """The same, and the typed ones that lead to them."""
    links: dict[str, set[str]] = {}
    for text in typed:
        path = Path(os.path.expanduser(text.removeprefix("index:")))
        if path.is_absolute():
            links.setdefault(os.path.realpath(path), set()).add(str(path))
    for each in paths:
        yield each
        for link in sorted(links.get(each.value, set()) - {each.value}):
            yield replace(each, value=link)


def _image_sources(settings: Config) -> list[Path]:
    sources = [settings.train_source, settings.holdout_source, settings.side.auxiliary]
    sources += [concept.train_source for concept in settings.concepts]
    return [each.path for each in sources if each is not None and each.path is not None]


def _prompt_sources(settings: Config) -> list[Path]:
    return [each.path for each, _ in _lists(settings) if each.path is not None]


def _lists(settings: Config) -> list[tuple[PromptSource, str]]:
    lists = [(settings.prompt_source, PROMPT), (settings.canary_source, CANARY)]
    lists += [(concept.prompt_source, PROMPT) for concept in settings.concepts]
    return [(source, shown) for source, shown in lists if source is not None]


def _models(settings: Config) -> list[Path]:
    """Checkpoints and descriptors that are given by their places."""
    names = [settings.model, settings.base, settings.side.labeller, settings.descriptor]
    for concept in settings.concepts:
        names += [concept.model, concept.base]
    found = [Path(os.path.expanduser(each)) for each in names if each is not None]
    return [each for each in found if each.is_absolute()]


def _with_folders(path: Path, *, hides_files: bool = False) -> Iterator[PrivatePath]:
    """A path, and the folders above it that hold nothing else of this run."""
    if _is_around_us(path):
        return
    yield from _with_aliases(path, shown_path(path), hides_files=hides_files)
    for folder in path.parents:
        if len(folder.parts) < 3 or _is_around_us(folder):
            return
        if not _is_below(folder, Path.cwd()):
            yield from _with_aliases(folder, "...")


def _with_aliases(path: Path, shown: str, *, hides_files: bool = False) -> Iterator[PrivatePath]:
    """A path as it was given, without links, and as it may be written below a home folder."""
    values = {str(path): None}
    try:
        values[str(path.resolve())] = None
        values[f"~/{path.relative_to(Path.home()).as_posix()}"] = None
    except (OSError, RuntimeError, ValueError):
        pass
    for value in values:
        if len(Path(value).parts) > 1 and value != shown:
            yield PrivatePath(
                value=value,
                shown=shown,
                hides_files=hides_files,
                is_short=len(Path(value).parts) < 4 or value.startswith("~"),
            )


def _is_around_us(folder: Path) -> bool:
    """Whether a folder holds what every traceback names anyway."""
    inside = [Path.cwd(), Path(sys.prefix), Path(sys.base_prefix), Path(__file__)]
    return any(_is_below(each, folder) for each in (*inside, *_home_folder()))


def _is_below(path: Path, folder: Path) -> bool:
    return path.is_relative_to(folder)


def _home_folder() -> list[Path]:
    try:
        home = Path.home()
    except RuntimeError:
        return []
    return [home] if len(home.parts) > 1 else []


def _home() -> tuple[PrivatePath, ...]:
    return tuple(PrivatePath(value=str(home), shown="~", is_short=True) for home in _home_folder())


def _user(environ: Mapping[str, str]) -> str:
    names = (environ.get(name, "") for name in ("LOGNAME", "USER", "LNAME", "USERNAME"))
    name = next(filter(None, names), "")
    return "" if name.lower() in _COMMON_USERS or len(name) < 3 else name


def _texts(settings: Config) -> Iterator[tuple[str, str]]:
    """Prompts, unless they are to be shown, and planted strings, which never are."""
    for source, shown in _lists(settings):
        if shown == PROMPT and settings.outputs.show_prompts:
            continue
        least = _LEAST_PROMPT if shown == PROMPT else _LEAST_CANARY
        for text in _first_texts(source):
            if len(text) >= least and text not in _OUR_WORDS:
                yield text, shown
    for concept in settings.concepts:
        caption = concept.caption or ""
        if len(caption) >= _LEAST_PROMPT and not settings.outputs.show_prompts:
            yield caption, PROMPT


def _first_texts(source: PromptSource) -> Sequence[str]:
    """The first lines of a list that is quickly read; nothing of one that cannot be."""
    from pytest_memscan.data.prompts import read_prompts

    if source.path is None or source.kind not in ("txt", "jsonl", "csv"):
        return ()
    try:
        if source.path.stat().st_size > _MOST_BYTES:
            return ()
        return read_prompts(source, offline=True).prompts[:_MOST_TEXTS]
    except (MemscanError, OSError):
        return ()
