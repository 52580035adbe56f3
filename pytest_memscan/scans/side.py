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

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.errors import TrainDataError
from pytest_memscan.results import (
    Coverage,
    SideScan,
    SideVariant,
    SurrogateLabels,
    SurrogateTraining,
)
from pytest_memscan.sampler import Sampler
from pytest_memscan.scans.carlini import MAX_FINDINGS, match
from pytest_memscan.scans.controls import run_controls
from pytest_memscan.scans.evidence import Matches, calibrate_on_real_images
from pytest_memscan.scans.side_measures import Judge, Setting, findings_among
from pytest_memscan.similarity.reference import Reference

NAME = "side"
TITLE = "SIDE: surrogate conditions"
PLAIN = "plain"


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
        matched = [self._matched(*made, invalid) for made in samplers]
        num_valid = sum(len(each.sample_ids) for each in matched)
        judge = Judge(
            reference=self.reference,
            cut=calibrate_on_real_images(self.reference, self.holdout, num_generated=num_valid),
        )
        unguided, *guided = (
            judge.setting(*made, matches) for made, matches in zip(samplers, matched, strict=True)
        )
        plain, samples = self._split(unguided)
        findings = findings_among([unguided, *guided], self.reference.measure)
        planned = sum(sampler.num_images for *_, sampler in samplers)
        return SideScan(
            name=NAME,
            title=f"{TITLE}, {self.reference.measure.name}",
            measure=self.reference.measure,
            metrics=judge.metrics(
                [plain, *guided], unguided.copied.union(*(each.copied for each in guided))
            ),
            plain=judge.images(plain, plain),
            variants=tuple(
                SideVariant(
                    name=each.name,
                    title=each.title,
                    labels=each.labels,
                    training=each.training,
                    is_control=each.is_control,
                    **judge.scores([one for one in guided if one.variant == each.name], plain),
                )
                for each in self.variants
            ),
            left_out=dict(self.left_out),
            findings=findings[:MAX_FINDINGS],
            num_findings_total=len(findings),
            num_samples=samples.num_images,
            num_samples_copied=len(samples.copied),
            calibration=judge.cut.calibration,
            controls=run_controls(
                self.reference, confirmed_cut=judge.cut.dissimilarity, holdout=self.holdout
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

    def _matched(
        self, variant: str, scale: float, sampler: Sampler, invalid: Counter[str]
    ) -> Matches:
        try:
            return match(sampler, self.reference, invalid)
        except TrainDataError as error:
            if variant == PLAIN:
                raise
            raise TrainDataError(
                f"{variant} at lambda {scale:g}: {error} (guided as strongly; leave this lambda "
                "out with --memscan-side-scales)"
            ) from None

    def _split(self, unguided: Setting) -> tuple[Setting, Setting]:
        """Plain sampling, which the guided images share their seeds with, and the samples."""
        is_plain = unguided.matches.sample_ids < self.num_images
        if not is_plain.any():
            raise TrainDataError(
                f"none of the first {self.num_images} generated images is valid, so there is "
                "nothing to compare guided images with"
            )
        return unguided.rows(is_plain), unguided.rows(~is_plain)
