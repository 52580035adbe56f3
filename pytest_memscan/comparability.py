"""Whether two runs measured the same thing of two checkpoints, key by key.

A number that rose because more images were looked at, or other ones, is no regression. What
differs is named rather than corrected for: nothing can be said of such a pair of runs.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from pytest_memscan.results import CheckOutcome, Estimate, Verdict

ABSENT = "not recorded"

# Of the provenance everything must match that is not named here: seed, steps, eta, scheduler,
# pipeline, dtype, batch size, guidance scale, prompts, image size, training and held-out images,
# similarity, descriptor and levels, base, methods, samples, clusters, and whatever comes later.
THE_CHECKPOINT = frozenset({"checkpoint", "checkpoint commit"})  # it is what is compared
# They move the last bits of an image, not the plan: the noise is drawn on the CPU and the same.
# A copy stays a copy, and the tests hold for pairs that have nothing in common. But a reader must
# know, since a change of theirs may be behind a change of the numbers.
JITTER = frozenset({"device", "torch", "diffusers", "transformers"})
# What a number means is in the schema version, which must match; most releases change no number.
OUR_VERSION = frozenset({"pytest-memscan"})

# Shares of images or prompts: their size does not depend on how many were looked at. All other
# numbers do: a count grows with the images, and distinct ones per image become fewer.
_SIZE_FREE = re.compile(r"(steered_|prompt_|side_)?leak_rate|(side_)?ams_\w+")
_FOLLOWS = "near-duplicates searched"  # says how many training images there are
_SPENT_ALIKE = 1.25  # splitting spends a budget in whole rounds, so that numbers vary a little


def measured(check: CheckOutcome) -> dict[str, Estimate]:
    """Every number of a check that is worth comparing; nothing where it ended in an error."""
    if check.verdict in (Verdict.ERROR, Verdict.NOT_RUN, Verdict.NOT_APPLICABLE):
        return {}
    numbers = check.metrics
    if check.duplicates is not None:
        found = check.duplicates
        for name, value in (
            ("duplicate_groups", found.num_groups),
            ("duplicate_images", found.num_redundant),
        ):
            numbers[name] = Estimate(value=value, lower=value, upper=value)
    return numbers


def differences(
    before: CheckOutcome, now: CheckOutcome, metrics: Collection[str]
) -> dict[str, tuple[str, str]]:
    """What differs between two outcomes of one check that must not; then, now.

    Args:
        before: Of the earlier run.
        now: Of this run.
        metrics: Those that are to be compared.
    """
    then, here = before.provenance, now.provenance
    free = THE_CHECKPOINT | JITTER | OUR_VERSION
    differing = {
        key: (then.get(key, ABSENT), here.get(key, ABSENT))
        for key in sorted(then.keys() | here.keys())
        if _plain(key) not in free and then.get(key) != here.get(key)
    }
    if "training images" in differing:
        differing.pop(_FOLLOWS, None)
    plan, planned = dict(_plan(before)), dict(_plan(now))
    differing |= {
        key: (plan.get(key, ABSENT), planned.get(key, ABSENT))
        for key in sorted(plan.keys() | planned.keys())
        if plan.get(key) != planned.get(key)
    }
    if all(_is_size_free(metric) for metric in metrics):
        differing.pop("planned images", None)
    elif before.splitting and now.splitting:
        spent = before.splitting.coverage.planned, now.splitting.coverage.planned
        if max(spent) > _SPENT_ALIKE * min(spent):
            differing["planned images"] = (f"{spent[0]:,}", f"{spent[1]:,}")
    return differing


def jitter(before: CheckOutcome, now: CheckOutcome) -> str:
    """What differs and may, in words: ``"torch 2.13.0 then, 2.14.0 now"``; empty for nothing."""
    then, here = before.provenance, now.provenance
    return ", ".join(
        f"{key} {then[key]} then, {here[key]} now"
        for key in sorted(then.keys() & here.keys())
        if _plain(key) in JITTER | OUR_VERSION and then[key] != here[key]
    )


def _plain(key: str) -> str:
    """A key without the number of its fine-tune, in a set of them."""
    return re.sub(r"^concept \d+: ", "", key)


def _is_size_free(metric: str) -> bool:
    return _SIZE_FREE.fullmatch(metric) is not None


def _plan(check: CheckOutcome) -> Iterator[tuple[str, str]]:
    """What was planned, as far as the provenance does not say it."""
    if check.scan is not None:
        yield "planned images", f"{check.scan.coverage.planned:,}"
    if check.repeats is not None:
        yield "planned images", f"{check.repeats.images.planned:,}"
    if check.splitting is not None:
        yield "reach", f"{check.splitting.reach:,} images"
        if check.splitting.prompt_coverage is not None:
            yield "planned prompts", f"{check.splitting.prompt_coverage.num_planned:,}"
    if check.side is not None:
        variants = check.side.variants
        scales = sorted({images.scale for each in variants for images in each.settings})
        yield "SIDE variants", ", ".join(each.name for each in variants) or "none"
        yield "SIDE lambdas", ", ".join(f"{scale:g}" for scale in scales) or "none"
        yield "planned images", f"{check.side.coverage.planned:,}"
    if check.prompt_scan is not None:  # its images depend on what comes up, its plan does not
        yield "planned prompts", f"{check.prompt_scan.prompts.num_planned:,}"
        yield "images per prompt", f"up to {check.prompt_scan.rule.max_images:,}"
        yield "copy rate", f"{check.prompt_scan.rule.copy_rate:g}"
    if check.keys is not None:
        yield "images per key", f"{check.keys.images_per_key:,}"
        planted = check.keys.canaries
        yield "planted strings", f"{0 if planted is None else planted.num_planned:,}"
    if check.finetunes is not None:
        concepts = check.finetunes.concepts
        yield "fine-tunes", f"{len(concepts):,}"
        yield "planned images", ", ".join(f"{each.num_planned:,}" for each in concepts)
        yield "clustering", ", ".join(sorted({each.clustering.rule for each in concepts}))
    if check.duplicates is not None:
        yield "training images searched", f"{check.duplicates.num_searched:,}"
        yield "training images measured by", check.duplicates.measure
