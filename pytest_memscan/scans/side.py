"""SIDE (arXiv:2410.02467): extraction from unconditional models by conditions they never had.

    generate images, and label them: by clusters of their own, or by a labeller
    train a classifier on them, noised as the model noises: p_t(y | x)
    for each lambda: generate images, image i guided towards class y_i by
        eps - lambda * sqrt(1 - alpha_bar_t) * gradient of log p_t(y_i | x)
    count what comes close to training images (AMS, UMS), beside lambda = 0 with the same seeds

Labels and classifiers come from `surrogates`, the guidance from `guidance.classifier`. Here the
images are compared, lambda by lambda, with the cuts and controls of `carlini`. What is ours: one
calibration for all images of the scan, an interval for every gain, and bounds that allow for the
worst of many settings having been picked.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.comparisons import ratio_of_distinct, ratio_of_proportions
from pytest_memscan.errors import TrainDataError
from pytest_memscan.metrics import level_scores, matched_ids
from pytest_memscan.rarefaction import expected_unique
from pytest_memscan.results import (
    Coverage,
    Estimate,
    Finding,
    Gain,
    GuidedFinding,
    GuidedImages,
    LevelScore,
    Measure,
    SideScan,
    SideVariant,
    SurrogateLabels,
    SurrogateTraining,
)
from pytest_memscan.sampler import Sampler
from pytest_memscan.scans.carlini import MAX_FINDINGS, confirm, match
from pytest_memscan.scans.controls import run_controls
from pytest_memscan.scans.evidence import (
    Cut,
    Matches,
    calibrate_on_real_images,
    curve_sizes,
    extracted_images,
    findings_of,
)
from pytest_memscan.similarity.calibration import fit_null
from pytest_memscan.similarity.reference import NearestTrain, Reference
from pytest_memscan.statistics import proportion

NAME = "side"
TITLE = "SIDE: surrogate conditions"
PLAIN = "plain"
PAPER_SCALES = (5.0, 9.0)  # whose results the paper averages, ends included
TOP_SHARES = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05)
ERROR = 0.05  # of a bound that allows for having picked the worst of several settings
MID = 1  # of the levels low, mid and high


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A variant that is ready to generate.

    Attributes:
        name: ``side_c``.
        title: For people.
        labels: What images are asked for.
        training: Of the classifier.
        samplers: By lambda; each plans the rows of plain sampling, from row 0 on.
        is_control: Whether it is expected to bring out no more than plain sampling.
        has_classifier: Whether one answers beside the denoiser, at every step.
    """

    name: str
    title: str
    labels: SurrogateLabels
    training: SurrogateTraining
    samplers: tuple[tuple[float, Sampler], ...] = field(repr=False)
    is_control: bool = False
    has_classifier: bool = True


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


@dataclass(frozen=True, kw_only=True)
class Side:
    """The scan of one checkpoint.

    Attributes:
        plain: Rows of plain sampling, and after them those of the samples.
        num_images: Of plain sampling and of every lambda.
        variants: Ready to generate.
        left_out: Variant -> why it was not run.
        reference: Training images, near-duplicates merged.
        holdout: ``(num_holdout, height, width, channels)`` uint8, real images not trained on.
        forwards: Variant and lambda -> forwards of the denoiser for one image in one step, where
            these are more than one.
    """

    plain: Sampler = field(repr=False)
    num_images: int
    variants: Sequence[Prepared] = field(repr=False)
    left_out: dict[str, str] = field(default_factory=dict)
    reference: Reference = field(repr=False)
    holdout: NDArray[np.uint8] | None = field(repr=False, default=None)
    forwards: Mapping[tuple[str, float], int] = field(default_factory=dict)

    def scan(self, *, coverage: Coverage, provenance: dict[str, str]) -> SideScan:
        """Generate, compare and count.

        Args:
            coverage: What is known about the training data; the generated side is filled in here.
            provenance: Recorded as it is.

        Raises:
            TrainDataError: As `carlini`.
        """
        invalid: Counter[str] = Counter()
        samplers = [(PLAIN, 0.0, self.plain)]
        samplers += [
            (variant.name, scale, sampler)
            for variant in self.variants
            for scale, sampler in variant.samplers
        ]
        matched = [match(sampler, self.reference, invalid) for *_, sampler in samplers]
        num_valid = sum(len(each.sample_ids) for each in matched)
        cut = calibrate_on_real_images(self.reference, self.holdout, num_generated=num_valid)
        unguided, *guided = (
            self._setting(*made, matches, cut)
            for made, matches in zip(samplers, matched, strict=True)
        )
        plain, samples = self._split(unguided)
        settings = [plain, *guided]
        images = {(each.variant, each.scale): self._images(each, plain, cut) for each in settings}
        copied = unguided.copied.union(*(each.copied for each in guided))
        findings = _findings([unguided, *guided], self.reference.measure)
        planned = sum(sampler.num_images for *_, sampler in samplers)
        return SideScan(
            name=NAME,
            title=f"{TITLE}, {self.reference.measure.name}",
            measure=self.reference.measure,
            metrics=self._metrics(settings, cut, len(copied)),
            plain=images[PLAIN, 0.0],
            variants=tuple(
                self._variant(
                    each, [one for one in guided if one.variant == each.name], plain, images
                )
                for each in self.variants
            ),
            left_out=dict(self.left_out),
            findings=findings[:MAX_FINDINGS],
            num_findings_total=len(findings),
            num_samples=samples.num_images,
            num_samples_copied=len(samples.copied),
            calibration=cut.calibration,
            controls=run_controls(
                self.reference, confirmed_cut=cut.dissimilarity, holdout=self.holdout
            ),
            coverage=replace(
                coverage,
                planned=planned,
                generated=num_valid + sum(invalid.values()),
                valid=num_valid,
                invalid=dict(sorted(invalid.items())),
                damaged=sum(sampler.store.damaged for *_, sampler in samplers),
                train_groups=len(self.reference.groups.representatives),
            ),
            denoiser_calls=sum(
                self.forwards.get((name, scale), 1) * sampler.num_images * sampler.steps
                for name, scale, sampler in samplers
            ),
            classifier_calls=sum(
                sampler.num_images * sampler.steps
                for variant in self.variants
                for _, sampler in variant.samplers
                if variant.has_classifier
            ),
            provenance=provenance | dict(self.reference.record),
        )

    def _setting(
        self, variant: str, scale: float, sampler: Sampler, matches: Matches, cut: Cut
    ) -> Setting:
        confirmed, again = confirm(matches, sampler, self.reference, cut.dissimilarity)
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

    def _split(self, unguided: Setting) -> tuple[Setting, Setting]:
        """Plain sampling, which the guided images share their seeds with, and the samples."""
        is_plain = unguided.matches.sample_ids < self.num_images
        if not is_plain.any():
            raise TrainDataError(
                f"none of the first {self.num_images} generated images is valid, so there is "
                "nothing to compare guided images with"
            )
        return _rows(unguided, is_plain), _rows(unguided, ~is_plain)

    def _levels(
        self, setting: Setting, cut: Cut, *, confidence: float = 1 - ERROR
    ) -> tuple[LevelScore, ...]:
        return level_scores(
            setting.matches.nearest.dissimilarities,
            setting.matches.nearest.train_ids,
            null_probability=fit_null(cut.null).probability,
            levels=self.reference.levels,
            measure=self.reference.measure,
            confidence=confidence,
        )

    def _images(self, setting: Setting, plain: Setting, cut: Cut) -> GuidedImages:
        num_images, num_copies = setting.num_images, int(setting.confirmed.sum())
        closest = np.sort(setting.matches.closest)
        return GuidedImages(
            scale=setting.scale,
            num_images=num_images,
            levels=self._levels(setting, cut),
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

    def _variant(
        self,
        prepared: Prepared,
        settings: Sequence[Setting],
        plain: Setting,
        images: Mapping[tuple[str, float], GuidedImages],
    ) -> SideVariant:
        made = [images[each.variant, each.scale] for each in settings]
        best = max(range(len(made)), key=lambda row: made[row].levels[MID].ams.value)
        return SideVariant(
            name=prepared.name,
            title=prepared.title,
            labels=prepared.labels,
            training=prepared.training,
            settings=tuple(made),
            mean_ams=_averaged(made, "ams"),
            mean_ums=_averaged(made, "ums"),
            best_scale=made[best].scale,
            gain=_gain(settings[best], plain, confidence=1 - ERROR / len(made)),
            is_control=prepared.is_control,
        )

    def _metrics(
        self, settings: Sequence[Setting], cut: Cut, num_copied: int
    ) -> dict[str, Estimate]:
        """The worst of all settings; together the bounds of all of them hold."""
        confidence = 1 - ERROR / len(settings)
        levels = [self._levels(each, cut, confidence=confidence) for each in settings]
        rates = {
            f"side_{kind}_{name}": _worst([getattr(each[row], kind) for each in levels])
            for row, name in enumerate(level.name for level in levels[0])
            for kind in ("ams", "ums")
        }
        leaks = [
            proportion(int(each.confirmed.sum()), each.num_images, confidence=confidence)
            for each in settings
        ]
        expected = cut.calibration.expected_false_matches
        return rates | {
            "side_extracted": extracted_images(num_copied, expected),
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
    matched, others = (sum(map(bool, each.mid_hits)) for each in (guided, plain))
    return Gain(
        ams=ratio_of_proportions(
            matched, guided.num_images, others, plain.num_images, confidence=confidence
        ),
        ums=ratio_of_distinct(guided.mid_hits, plain.mid_hits, confidence=confidence),
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


def _rows(setting: Setting, rows: NDArray[np.bool_]) -> Setting:
    matches, kept = setting.matches, np.flatnonzero(rows)
    distances = matches.nearest.distances
    nearest = NearestTrain(
        dissimilarities=matches.nearest.dissimilarities[kept],
        train_ids=matches.nearest.train_ids[kept],
        distances=None if distances is None else distances[kept],
    )
    return replace(
        setting,
        matches=Matches(sample_ids=matches.sample_ids[kept], nearest=nearest),
        confirmed=setting.confirmed[kept],
        mid_hits=[setting.mid_hits[row] for row in kept],
    )


def _findings(settings: Sequence[Setting], measure: Measure) -> tuple[GuidedFinding, ...]:
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
