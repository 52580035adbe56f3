"""What an HTML report says of the whole run: its parts, what is missing, and what it cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from pytest_memscan.reports.leaks import UNKNOWN, leaks_of
from pytest_memscan.reports.text import check_name, percent
from pytest_memscan.results import (
    CheckOutcome,
    Coverage,
    KeyScan,
    PromptCoverage,
    PromptScan,
    Regression,
    RunResult,
    Verdict,
)

HOW_TO_WAIVE = (
    "To accept a finding for a time, copy its id into a waiver: [[suppress]] with id, reason and "
    "expires, in memscan.toml."
)
NOT_DONE = (Verdict.NOT_APPLICABLE, Verdict.NOT_RUN)


class Contents:
    """The table of contents, filled while the parts are rendered."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, str]] = []  # id of a heading, its words

    def add(self, heading: str, title: str) -> str:
        """``title``, which the heading with this id prints."""
        self.entries.append((heading, title))
        return title


@dataclass(frozen=True, kw_only=True)
class Mark:
    """How a finding is named in a waiver, and whether one names it."""

    id: str  # "train#00013@1f2e3d4c"
    is_waived: bool


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Something that was not looked at."""

    checks: str
    what: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a check, or another step, took."""

    name: str
    num_images: int | None
    denoiser_calls: int | None
    seconds: float | None

    @property
    def images_per_second(self) -> float | None:
        """Where there are both."""
        return self.num_images / self.seconds if self.num_images and self.seconds else None


def marks(result: RunResult) -> dict[str, dict[str, Mark]]:
    """Findings that a waiver can name, by the name of their check and by their own."""
    waived = {each for check in result.checks for line in check.thresholds for each in line.waived}
    found: dict[str, dict[str, Mark]] = {}
    for check in result.checks:
        own = found.setdefault(check.name, {})
        for leak in leaks_of(check):
            if not leak.id.endswith(f"@{UNKNOWN}"):
                own.setdefault(leak.name, Mark(id=leak.id, is_waived=leak.id in waived))
    return found


def regressions(result: RunResult) -> list[Regression]:
    """Comparisons with an earlier run; at most one."""
    return [check.regression for check in result.checks if check.regression is not None]


def gaps(result: RunResult) -> list[Gap]:
    """Everything that was not scanned, said once for all checks that it holds for."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, why in result.not_scanned.items():
        found.setdefault(("the whole check", why), []).append(check_name(name))
    for check in result.checks:
        for gap in _gaps_of(check):
            found.setdefault(gap, []).append(check_name(check.name))
    return [
        Gap(checks=", ".join(dict.fromkeys(checks)), what=what, why=why)
        for (what, why), checks in found.items()
    ]


def _gaps_of(check: CheckOutcome) -> Iterator[tuple[str, str]]:
    if check.verdict in NOT_DONE:
        yield "the whole check", check.sentence
    for coverage in coverages(check):
        yield from _image_gaps(coverage)
    if check.prompt_scan is not None:
        yield from _prompt_gaps(check.prompt_scan.prompts)
    if check.splitting is not None and check.splitting.prompt_coverage is not None:
        yield from _prompt_gaps(check.splitting.prompt_coverage)
    if check.keys is not None and check.keys.canaries is not None:
        yield from _prompt_gaps(check.keys.canaries)
    if check.side is not None:
        for name, why in check.side.left_out.items():
            yield f"variant {name}", why
    for concept in () if check.finetunes is None else check.finetunes.concepts:
        if concept.stopped:
            yield f"the rest of {concept.num_planned:,} images of each method", concept.stopped
    found = check.duplicates
    if found is not None and found.num_searched < found.num_images:
        rest = found.num_images - found.num_searched
        yield f"duplicates of {rest:,} training images", "they were not searched for any"


def coverages(check: CheckOutcome) -> list[Coverage]:
    """Of the generated images of a check; of each fine-tune where there are several."""
    if check.finetunes is not None:
        return [concept.images for concept in check.finetunes.concepts]
    return [] if check.coverage is None else [check.coverage]


def _image_gaps(coverage: Coverage) -> Iterator[tuple[str, str]]:
    missing = coverage.planned - coverage.generated
    if missing > 0:
        yield _counted(missing, "planned image"), "not generated"
    for why, number in sorted(coverage.invalid.items()):
        yield _counted(number, "generated image"), f"invalid: {why}"
    for why, names in sorted(coverage.train_unusable.items()):
        yield _counted(len(names), "training image"), f"unusable: {why}"


def _prompt_gaps(prompts: PromptCoverage) -> Iterator[tuple[str, str]]:
    for why, places in sorted(prompts.unusable.items()):
        yield _counted(len(places), "prompt"), f"unusable: {why}"
    beyond = prompts.num_used - prompts.num_planned
    if beyond > 0:
        share = percent(prompts.num_planned / prompts.num_used)
        yield _counted(beyond, "prompt"), f"the budget reaches {share} of them"
    if prompts.num_truncated:
        yield (
            f"the end of {_counted(prompts.num_truncated, 'prompt')}",
            "longer than the tokenizer reads",
        )


def _counted(number: int, one: str) -> str:
    return f"{number:,} {one}" + ("" if number == 1 else "s")


def costs(result: RunResult) -> list[Cost]:
    """Every check that cost something, then the other steps that were timed."""
    rest = dict(result.timings)
    rows = [
        Cost(
            name=check_name(check.name),
            num_images=_total(each.generated for each in coverages(check)),
            denoiser_calls=_total(_denoiser_calls(check)),
            seconds=_seconds(rest, check.name),
        )
        for check in result.checks
    ]
    rows = [row for row in rows if (row.num_images, row.denoiser_calls, row.seconds) != (None,) * 3]
    others = (
        Cost(name=name, num_images=None, denoiser_calls=None, seconds=seconds)
        for name, seconds in rest.items()
    )
    return [*rows, *others]


def _seconds(rest: dict[str, float], name: str) -> float | None:
    """Of a check, by either of its names; taken out, so that nothing is shown twice."""
    key = name if name in rest else check_name(name)
    return rest.pop(key, None)


def _denoiser_calls(check: CheckOutcome) -> Iterator[int]:
    for scan in check.scans:
        if isinstance(scan, PromptScan):
            yield scan.calls.spent
        elif not isinstance(scan, KeyScan):
            yield scan.denoiser_calls


def _total(numbers: Iterable[int]) -> int | None:
    found = list(numbers)
    return sum(found) if found else None


def provenances(result: RunResult) -> list[tuple[str, Mapping[str, str]]]:
    """What must be the same before two results are compared, with the name of each check."""
    found = ((check_name(check.name), check.provenance) for check in result.checks)
    return [(name, provenance) for name, provenance in found if provenance]
