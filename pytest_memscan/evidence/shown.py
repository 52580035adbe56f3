"""What the HTML report draws, with all that is known of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.evidence.names import Names
from pytest_memscan.reports.leaks import PROMPT_LIST, TRAINING_IMAGES, leak_id
from pytest_memscan.reports.picture_files import Pictures
from pytest_memscan.reports.prompt_text import is_canary, prompt_name
from pytest_memscan.reports.text import generated_name, train_name
from pytest_memscan.results import CheckOutcome, KeyFinding, RunResult

Pixels = NDArray[np.uint8]
_STEERED = "split from trajectories of several seeds: no single seed makes it again"


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One picture of the folder.

    Attributes:
        check: That found what it shows.
        id: Of the finding, as reports, waivers and SARIF name it.
        pictures: Generated ones first, then the training image, where there is one.
        record: What the manifest says of it besides.
    """

    check: str
    id: str
    pictures: tuple[Pixels, ...] = field(repr=False)
    record: Mapping[str, Any] = field(repr=False)


def seed_of(sample_id: int, provenance: Mapping[str, str]) -> int | None:
    """Seed of a generated image: that of the plan's first row, and one more for every row.

    Example:
        >>> seed_of(7, {"seed": "4294967295"})
        6
    """
    first = provenance.get("seed", "")
    return (int(first) + sample_id) % 2**32 if first.isdigit() else None


def everything_drawn(result: RunResult, pictures: Pictures, names: Names) -> Iterator[Shown]:
    """One for each finding that the HTML report draws, in the order of the checks."""
    for check in result.checks:
        if check.scan is not None:
            yield from _of_pairs(check, pictures, names)
        if check.duplicates is not None:
            yield from _of_groups(check, pictures, names)
        if check.splitting is not None:
            yield from _of_splitting(check, pictures, names)
        if check.side is not None:
            yield from _of_side(check, pictures, names)
        if check.prompt_scan is not None:
            yield from _of_prompts(check, pictures, names)
        if check.keys is not None:
            yield from _of_keys(check, pictures, names)
        if check.repeats is not None:
            yield from _of_repeats(check, pictures)
        if check.finetunes is not None:
            yield from _of_finetunes(check, pictures, names)


def _of_pairs(check: CheckOutcome, pictures: Pictures, names: Names) -> Iterator[Shown]:
    for each in pictures.pairs:
        finding = each.finding
        yield Shown(
            check=check.name,
            id=_train_id(finding.train_id, check.provenance),
            pictures=(each.generated, each.train),
            record=_generated(finding.sample_id, check.provenance)
            | _train(finding.train_id, names)
            | {"confirmed": finding.confirmed},
        )


def _of_groups(check: CheckOutcome, pictures: Pictures, names: Names) -> Iterator[Shown]:
    for each in pictures.groups:
        first = each.train_ids[0]
        yield Shown(
            check=check.name,
            id=train_name(first),
            pictures=tuple(each.images),
            record={
                "training_images": [_train(train_id, names) for train_id in each.train_ids],
                "size_of_group": each.size,
            },
        )


def _of_splitting(check: CheckOutcome, pictures: Pictures, names: Names) -> Iterator[Shown]:
    copies = () if check.splitting is None else check.splitting.copies
    prompts = {copy.finding: copy.prompt_id for copy in copies}
    for each in pictures.splitting:
        finding, prompt_id = each.finding, prompts.get(each.finding)
        prompt = {} if prompt_id is None else _prompt(f"prompt#{prompt_id:05d}", names)
        yield Shown(
            check=check.name,
            id=_train_id(finding.train_id, check.provenance),
            pictures=(each.steered, each.train),
            record={"generated": f"steered#{finding.sample_id:05d}", "seed": None}
            | {"seed_note": _STEERED, "confirmed": finding.confirmed}
            | _train(finding.train_id, names)
            | prompt,
        )


def _of_side(check: CheckOutcome, pictures: Pictures, names: Names) -> Iterator[Shown]:
    for each in pictures.side:
        finding = each.found.finding
        yield Shown(
            check=check.name,
            id=_train_id(finding.train_id, check.provenance),
            pictures=(each.generated, each.train),
            record=_generated(finding.sample_id, check.provenance)
            | _train(finding.train_id, names)
            | {"variant": each.found.variant, "lambda": each.found.scale}
            | {"confirmed": finding.confirmed},
        )


def _of_prompts(check: CheckOutcome, pictures: Pictures, names: Names) -> Iterator[Shown]:
    for each in pictures.prompts:
        finding, name = each.finding, prompt_name(each.finding)
        first = finding.representative
        yield Shown(
            check=check.name,
            id=leak_id(name, check.provenance, PROMPT_LIST),
            pictures=(*each.images, *_if_known(each.train)),
            record=({} if first is None else _generated(first, check.provenance))
            | _prompt(name, names, is_planted=is_canary(finding))
            | _train(finding.train_id, names),
        )


def _of_keys(check: CheckOutcome, pictures: Pictures, names: Names) -> Iterator[Shown]:
    for each in pictures.keys:
        finding, name = each.finding, prompt_name(each.finding)
        yield Shown(
            check=check.name,
            id=leak_id(name, check.provenance, PROMPT_LIST),
            pictures=(each.mean_image, *_if_known(each.train)),
            record={"generated": f"mean of {finding.num_images} images"}
            | {"first_seed": _first_seed(finding, check.provenance, names)}
            | _prompt(name, names, is_planted=is_canary(finding))
            | _train(finding.train_id, names),
        )


def _of_repeats(check: CheckOutcome, pictures: Pictures) -> Iterator[Shown]:
    for each in pictures.repeats:
        yield Shown(
            check=check.name,
            id=generated_name(each.sample_ids[0]),
            pictures=tuple(each.images),
            record={
                "generated": [generated_name(sample_id) for sample_id in each.sample_ids],
                "seeds": [seed_of(sample_id, check.provenance) for sample_id in each.sample_ids],
                "size_of_group": each.size,
            },
        )


def _of_finetunes(check: CheckOutcome, pictures: Pictures, names: Names) -> Iterator[Shown]:
    concepts = () if check.finetunes is None else check.finetunes.concepts
    for each in pictures.finetunes:
        number = each.concept + 1
        prefix = f"concept {number}: "
        own = {
            name.removeprefix(prefix): value
            for name, value in check.provenance.items()
            if name.startswith(prefix)
        }
        provenance = {**check.provenance, **own}
        found = (
            generated_name(each.sample_id)
            if each.train_id is None
            else _train_id(each.train_id, provenance)
        )
        yield Shown(
            check=check.name,
            id=f"concept{number}/{found}" if len(concepts) > 1 else found,
            pictures=(each.generated, *_if_known(each.train)),
            record=_generated(each.sample_id, provenance)
            | _train(each.train_id, names, concept=each.concept),
        )


def _train_id(train_id: int, provenance: Mapping[str, str]) -> str:
    return leak_id(train_name(train_id), provenance, TRAINING_IMAGES)


def _generated(sample_id: int, provenance: Mapping[str, str]) -> dict[str, Any]:
    return {"generated": generated_name(sample_id), "seed": seed_of(sample_id, provenance)}


def _train(train_id: int | None, names: Names, *, concept: int = 0) -> dict[str, Any]:
    if train_id is None:
        return {}
    return {"train": train_name(train_id), "train_file": names.train_name(train_id, concept)}


def _prompt(name: str, names: Names, *, is_planted: bool = False) -> dict[str, Any]:
    return {"prompt": name, "text": names.texts.get(name), "is_planted": is_planted}


def _first_seed(finding: KeyFinding, provenance: Mapping[str, str], names: Names) -> int | None:
    """Of the first image of a key; each of the following has one more."""
    rows = provenance.get("rows per prompt", "")
    num_prompts = sum(name.startswith("prompt#") for name in names.texts)
    if not rows.isdigit() or not num_prompts:
        return None
    before = num_prompts if finding.is_canary else 0  # rows of planted strings follow
    return seed_of((before + finding.prompt_id) * int(rows), provenance)


def _if_known(picture: Pixels | None) -> tuple[Pixels, ...]:
    return () if picture is None else (picture,)
