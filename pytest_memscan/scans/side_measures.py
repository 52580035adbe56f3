"""What SIDE counts among images that were made alike, and what it makes of several such sets.

Matches in, results out: no files, no model.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.comparisons import ratio_of_distinct, ratio_of_proportions
from pytest_memscan.metrics import level_scores, matched_ids
from pytest_memscan.rarefaction import expected_unique
from pytest_memscan.results import (
    Estimate,
    Finding,
    Gain,
    GuidedFinding,
    GuidedImages,
    LevelScore,
    Measure,
)
from pytest_memscan.sampler import Sampler
from pytest_memscan.scans.carlini import confirm
from pytest_memscan.scans.evidence import (
    Cut,
    Matches,
    curve_sizes,
    extracted_images,
    findings_of,
)
from pytest_memscan.similarity.calibration import fit_null
from pytest_memscan.similarity.reference import NearestTrain, Reference
from pytest_memscan.statistics import proportion

PAPER_SCALES = (5.0, 9.0)  # whose results the paper averages, ends included
TOP_SHARES = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05)
ERROR = 0.05  # of a bound that allows for having picked the worst of several settings
MID = 1  # of the levels low, mid and high


class Scores(TypedDict):
    """What a variant has brought out, as `results.SideVariant` names it."""

    settings: tuple[GuidedImages, ...]
    mean_ams: dict[str, float]
    mean_ums: dict[str, float]
    best_scale: float
    gain: Gain


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Images that were made alike, and what they are nearest to.

    ``confirmed`` and the hits have an entry for each valid image.
    """

    variant: str
    scale: float
    matches: Matches = field(repr=False)
    confirmed: NDArray[np.bool_] = field(repr=False)
    findings: tuple[Finding, ...] = field(repr=False)
    mid_hits: list[list[int]] = field(repr=False)  # ids of the training images at mid level

    @property
    def copied(self) -> set[int]:
        """Ids of the training images that are confirmed as copied."""
        return set(self.matches.train_ids[self.confirmed].tolist())

    @property
    def num_images(self) -> int:
        """Valid ones."""
        return len(self.matches.sample_ids)

    def rows(self, chosen: NDArray[np.bool_]) -> Setting:
        """Some of the images, ``(num_valid,)``; findings stay those of all."""
        matches, kept = self.matches, np.flatnonzero(chosen)
        distances = matches.nearest.distances
        nearest = NearestTrain(
            dissimilarities=matches.nearest.dissimilarities[kept],
            train_ids=matches.nearest.train_ids[kept],
            distances=None if distances is None else distances[kept],
        )
        return replace(
            self,
            matches=Matches(sample_ids=matches.sample_ids[kept], nearest=nearest),
            confirmed=self.confirmed[kept],
            mid_hits=[self.mid_hits[row] for row in kept],
        )


@dataclass(frozen=True, kw_only=True)
class Judge:
    """One measure for all images of a scan.

    Attributes:
        reference: Training images, near-duplicates merged.
        cut: Where a match is a confirmed copy, calibrated for all images together.
    """

    reference: Reference = field(repr=False)
    cut: Cut = field(repr=False)

    def setting(self, variant: str, scale: float, sampler: Sampler, matches: Matches) -> Setting:
        """What is confirmed of some images; near the cut, they are made again alone."""
        confirmed, again = confirm(matches, sampler, self.reference, self.cut.dissimilarity)
        hits = matched_ids(
            matches.nearest.dissimilarities,
            matches.nearest.train_ids,
            cut=self.reference.levels[MID].cut,
        )
        return Setting(
            variant=variant,
            scale=scale,
            matches=matches,
            confirmed=confirmed,
            findings=findings_of(matches, confirmed, again, reference=self.reference),
            mid_hits=[each.tolist() for each in hits],
        )

    def levels(self, setting: Setting, *, confidence: float = 1 - ERROR) -> tuple[LevelScore, ...]:
        """AMS and UMS at low, mid and high."""
        return level_scores(
            setting.matches.nearest.dissimilarities,
            setting.matches.nearest.train_ids,
            null_probability=fit_null(self.cut.null).probability,
            levels=self.reference.levels,
            measure=self.reference.measure,
            confidence=confidence,
        )

    def images(self, setting: Setting, plain: Setting) -> GuidedImages:
        """All that is counted among them."""
        num_images, num_copies = setting.num_images, int(setting.confirmed.sum())
        closest = np.sort(setting.matches.closest)
        return GuidedImages(
            scale=setting.scale,
            num_images=num_images,
            levels=self.levels(setting),
            num_copies=num_copies,
            leak_rate=proportion(num_copies, num_images),
            num_copied=len(setting.copied),
            num_new=len(setting.copied - plain.copied),
            top={
                f"{share:g}": self.reference.measure.score(
                    float(closest[math.ceil(share * num_images) - 1])
                )
                for share in TOP_SHARES
                if share * num_images >= 1
            },
            curve=expected_unique(setting.mid_hits, curve_sizes(num_images)),
        )

    def scores(self, settings: Sequence[Setting], plain: Setting) -> Scores:
        """Of one variant, lambda by lambda, beside plain sampling."""
        made = [self.images(each, plain) for each in settings]
        best = max(range(len(made)), key=lambda row: made[row].levels[MID].ams.value)
        return {
            "settings": tuple(made),
            "mean_ams": _averaged(made, "ams"),
            "mean_ums": _averaged(made, "ums"),
            "best_scale": made[best].scale,
            "gain": _gain(settings[best], plain, confidence=1 - ERROR / len(made)),
        }

    def metrics(self, settings: Sequence[Setting], copied: Collection[int]) -> dict[str, Estimate]:
        """The worst of all settings, with bounds that hold for all of them; and all copies."""
        confidence = 1 - ERROR / len(settings)
        levels = [self.levels(each, confidence=confidence) for each in settings]
        rates = {
            f"side_{kind}_{name}": _worst([getattr(each[row], kind) for each in levels])
            for row, name in enumerate(level.name for level in levels[0])
            for kind in ("ams", "ums")
        }
        leaks = [
            proportion(int(each.confirmed.sum()), each.num_images, confidence=confidence)
            for each in settings
        ]
        expected = self.cut.calibration.expected_false_matches
        return rates | {
            "side_extracted": extracted_images(len(copied), expected),
            "side_leak_rate": _worst(leaks),
        }


def _averaged(made: Sequence[GuidedImages], kind: str) -> dict[str, float]:
    """Mean of AMS or UMS at every level over the lambdas that the paper averages."""
    low, high = PAPER_SCALES
    averaged = [each for each in made if low <= each.scale <= high] or made
    return {
        level.name: statistics.fmean(getattr(each.levels[row], kind).value for each in averaged)
        for row, level in enumerate(made[0].levels)
    }


def _gain(guided: Setting, plain: Setting, *, confidence: float) -> Gain:
    """On rows that are valid in both: distinct counts compare only among equally many images."""
    rows = np.intersect1d(guided.matches.sample_ids, plain.matches.sample_ids)
    hits, others = (
        [each.mid_hits[row] for row in np.flatnonzero(np.isin(each.matches.sample_ids, rows))]
        for each in (guided, plain)
    )
    if not len(rows):
        unknown = Estimate(value=1.0, lower=0.0, upper=math.inf, confidence=confidence)
        return Gain(ams=unknown, ums=unknown)
    num_hits, num_others = (sum(map(bool, each)) for each in (hits, others))
    return Gain(
        ams=ratio_of_proportions(num_hits, len(rows), num_others, len(rows), confidence=confidence),
        ums=ratio_of_distinct(hits, others, confidence=confidence),
    )


def _worst(estimates: Sequence[Estimate]) -> Estimate:
    """The largest of several, each with simultaneous bounds."""
    worst = max(estimates, key=lambda each: each.value)
    return Estimate(
        value=worst.value,
        lower=max(each.lower for each in estimates),
        upper=max(each.upper for each in estimates),
        confidence=1 - ERROR,
        num_trials=worst.num_trials,
    )


def findings_among(settings: Sequence[Setting], measure: Measure) -> tuple[GuidedFinding, ...]:
    """The best evidence against each training image, confirmed and closest first."""
    found = [
        GuidedFinding(finding=finding, variant=setting.variant, scale=setting.scale)
        for setting in settings
        for finding in setting.findings
    ]
    sign = -1 if measure.higher_is_closer else 1
    found.sort(key=lambda each: (not each.finding.confirmed, sign * each.finding.score))
    best: dict[int, GuidedFinding] = {}
    for each in found:
        best.setdefault(each.finding.train_id, each)
    return tuple(best.values())
