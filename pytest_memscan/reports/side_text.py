"""The words for what surrogate labels brought out of a checkpoint, beside plain sampling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum

from pytest_memscan.reports.estimates import share_text, value_text
from pytest_memscan.reports.text import generated_name
from pytest_memscan.results import (
    Estimate,
    Finding,
    GuidedFinding,
    GuidedImages,
    LevelScore,
    SideScan,
    SideVariant,
)

PLAIN_SAMPLING = "plain sampling"
HOW_TO_READ = (
    "SIDE added something where the bounds of a ratio lie above 1, and nothing certain where they "
    "include 1."
)
SUSPICIOUS_CONTROL = (
    "A control that adds something means that guidance made the difference, not what the labels say"
)

_PLAIN = "plain"  # variant of an image that was made without guidance
_MID = "mid"  # level of the gain, and of everything that is told at one level


class Standing(Enum):
    """A ratio to plain sampling, by its bounds."""

    MORE = "more"
    UNCLEAR = "no clear difference"
    LESS = "less"


_Judged = tuple[SideVariant, Standing]


def standing(ratio: Estimate) -> Standing:
    """More where the bounds lie above 1, less where they lie below."""
    if ratio.lower > 1:
        return Standing.MORE
    return Standing.LESS if ratio.upper < 1 else Standing.UNCLEAR


def short_title(variant: SideVariant) -> str:
    """``"SIDE-C"`` of ``"SIDE-C: clusters of its own images"``."""
    return variant.title.partition(":")[0].strip() or variant.name


def variant_label(variant: SideVariant) -> str:
    """Its short title, and whether it is a control."""
    return short_title(variant) + (" (control)" if variant.is_control else "")


def guidance_text(found: GuidedFinding, scan: SideScan) -> str:
    """``"SIDE-C, lambda 7"``, or ``"plain sampling"``."""
    if is_plain(found):
        return PLAIN_SAMPLING
    titles = {each.name: short_title(each) for each in scan.variants}
    return f"{titles.get(found.variant, found.variant)}, lambda {found.scale:g}"


def is_plain(found: GuidedFinding) -> bool:
    """Whether the image was made without guidance, as were the samples."""
    return found.variant == _PLAIN


def image_name(found: GuidedFinding) -> str:
    """``"guided#00012"``; ``"generated#00012"`` without guidance."""
    sample_id = found.finding.sample_id
    return generated_name(sample_id) if is_plain(found) else f"guided#{sample_id:05d}"


def level_of(images: GuidedImages, name: str) -> LevelScore:
    """Its scores at a level.

    Raises:
        ValueError: There is no such level.
    """
    for level in images.levels:
        if level.name == name:
            return level
    raise ValueError(f"no level is called {name!r}")


def mid(images: GuidedImages) -> LevelScore:
    """Its scores at mid level."""
    return level_of(images, _MID)


def best_images(variant: SideVariant) -> GuidedImages:
    """The images of its best lambda."""
    return next(each for each in variant.settings if each.scale == variant.best_scale)


def ratio_value(ratio: Estimate) -> str:
    """``"4.20"``, ``"38"``, ``"infinite"``."""
    return _times(ratio.value, "infinite")


def ratio_bounds(ratio: Estimate) -> str:
    """``"[2.10, 9.30]"``, ``"[1.80, no limit]"``."""
    return f"[{_times(ratio.lower, 'no limit')}, {_times(ratio.upper, 'no limit')}]"


def _times(number: float, infinite: str) -> str:
    if math.isinf(number):
        return infinite
    if number < 0.005:
        return "< 0.01" if number else "0"
    return f"{number:.2f}" if number < 10 else f"{number:,.0f}"


def added_text(scan: SideScan) -> str:
    """When SIDE added something over plain sampling, and when it did not, in one sentence each."""
    return ". ".join([headline(scan), *details(scan)])


def headline(scan: SideScan) -> str:
    """Whether any variant but the controls added something, in AMS or in UMS."""
    if not scan.variants:
        return "no variant of SIDE was run"
    ways = {way for each in _standings(scan) for variant, way in each if not variant.is_control}
    if Standing.MORE in ways:
        return "SIDE added something over plain sampling at mid level"
    if ways == {Standing.LESS}:
        return "SIDE brought out less than plain sampling at mid level"
    if not ways:
        return "only controls were run"
    return "SIDE added nothing certain over plain sampling at mid level"


def details(scan: SideScan) -> list[str]:
    """Which variants did so in AMS, and which in UMS; what a control that did so means."""
    if not scan.variants:
        return []
    ams, ums = _standings(scan)
    told = [f"AMS: {_grouped(ams)}", f"UMS: {_grouped(ums)}"]
    suspicious = any(each.is_control and way is Standing.MORE for each, way in [*ams, *ums])
    return [*told, SUSPICIOUS_CONTROL] if suspicious else told


def _standings(scan: SideScan) -> tuple[list[_Judged], list[_Judged]]:
    """Every variant by its AMS, and by its UMS."""
    return (
        [(each, standing(each.gain.ams)) for each in scan.variants],
        [(each, standing(each.gain.ums)) for each in scan.variants],
    )


def _grouped(judged: Sequence[_Judged]) -> str:
    """``"more with SIDE-C; no clear difference with SIDE-A, OL-TI (control)"``."""
    groups = []
    for way in Standing:
        labels = [variant_label(variant) for variant, each in judged if each is way]
        if labels:
            groups.append(f"{way.value} with {', '.join(labels)}")
    return "; ".join(groups)


def gain_text(variant: SideVariant, scan: SideScan) -> str:
    """What one variant added over plain sampling: its two ratios, and what they say."""
    ams, ums = variant.gain.ams, variant.gain.ums
    told = (
        f"{_gain_words(standing(ams), standing(ums))} at lambda {variant.best_scale:g}: the ratio "
        f"is {ratio_value(ams)} {ratio_bounds(ams)} in AMS and "
        f"{ratio_value(ums)} {ratio_bounds(ums)} in UMS at mid level"
    )
    if not mid(scan.plain).num_matched:
        told += f"; {PLAIN_SAMPLING} brought out nothing at this level"
    if variant.is_control:
        expected = Standing.MORE not in (standing(ams), standing(ums))
        told += "; " + ("as expected of a control" if expected else "a control should not do so")
    return told


def _gain_words(ams: Standing, ums: Standing) -> str:
    words = {
        Standing.MORE: "added something over",
        Standing.UNCLEAR: "cannot be told from",
        Standing.LESS: "brought out less than",
    }
    if ams is ums:
        return f"{words[ams]} {PLAIN_SAMPLING}"
    return f"{words[ams]} {PLAIN_SAMPLING} in AMS and {words[ums]} it in UMS"


def copied_text(scan: SideScan) -> str:
    """``"12 confirmed; 31 within a published level"``, plain sampling and the samples included."""
    number = confirmed_text(scan)
    told = f"{'none' if number == '0' else number} confirmed"
    if scan.num_findings_total:
        told += f"; {scan.num_findings_total:,} within a published level"
    return told


def confirmed_text(scan: SideScan) -> str:
    """How many distinct training images are confirmed as copied."""
    extracted = scan.metrics.get("side_extracted")
    if extracted is not None:
        return value_text(extracted)
    # Second choice: `findings` may have been cut to what a report can hold.
    return f"{sum(each.finding.confirmed for each in scan.findings):,}"


def origin_text(scan: SideScan) -> str:
    """How many training images each kind of image copied: plain, samples, each variant's best."""
    told = [f"{scan.plain.num_copied:,} by {PLAIN_SAMPLING}"]
    told += [
        f"{best.num_copied:,} by {short_title(each)} at lambda {best.scale:g}, "
        f"{best.num_new:,} of them not by {PLAIN_SAMPLING}"
        for each, best in ((each, best_images(each)) for each in scan.variants)
    ]
    return "; ".join([*told, f"{scan.num_samples_copied:,} by the {scan.num_samples:,} samples"])


def score_text(finding: Finding) -> str:
    """``"0.12"``, and the score of the image made again alone where there is one."""
    again = finding.regenerated_score
    return f"{finding.score:.2f}" + ("" if again is None else f", {again:.2f} in float32")


def means_text(variant: SideVariant) -> str:
    """``"AMS 2.9 %, UMS 1.1 % at mid level"``, averaged over lambda as the paper does."""
    rates = [
        f"{name} {share_text(means[_MID])}"
        for name, means in (("AMS", variant.mean_ams), ("UMS", variant.mean_ums))
        if _MID in means
    ]
    return f"{', '.join(rates)} at mid level" if rates else ""


def top_shares(images: Sequence[GuidedImages]) -> list[str]:
    """The shares whose score is known for all of them, smallest first."""
    shared = set.intersection(*(set(each.top) for each in images)) if images else set()
    return sorted(shared, key=float)


def top_label(share: str) -> str:
    """``"closest 1 %"``."""
    return f"closest {100 * float(share):g} %"


def calls_text(scan: SideScan) -> str:
    """``"102,400 of the denoiser, 51,200 of classifiers with their gradient"``."""
    return (
        f"{scan.denoiser_calls:,} of the denoiser, {scan.classifier_calls:,} of classifiers with "
        "their gradient, for one image each"
    )
