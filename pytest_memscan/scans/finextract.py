"""FineXtract (arXiv:2410.03039): how many training images come out of a fine-tune, given its base.

    generate with model guidance, the same rows directly and with classifier-free guidance, and
        some with the base alone
    describe every image
    join images that are more alike than the base's are, and take cliques: the extracted set
    AS and A-ESR: how well each training image is matched by the extracted set, and by all images

Model guidance stops early where more images cannot change the verdict; everything else makes as
many images as it did. Memory: descriptors of all images, pixels of one block, and one matrix of
similarities ``(num_train, num_images)``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.clustering import Extraction, extract
from pytest_memscan.errors import CheckpointError
from pytest_memscan.extraction_metrics import STRICT, best_matches, over_train_images
from pytest_memscan.results import (
    Clustering,
    ConceptScan,
    Control,
    Coverage,
    ExtractedImage,
    MethodScores,
    TrainMatch,
)
from pytest_memscan.scans.controls import run_controls
from pytest_memscan.scans.finetune_plan import Method, Scanned, Target, Vectors, shown_rate

BASE_IMAGES = 100  # of the base alone, which the threshold is taken from
BLOCK = 200  # images described together, about
ROUNDING = 1e-6  # of a cosine


@dataclass(kw_only=True)
class _Images:
    """The valid images of one method so far."""

    method: Method
    ids: list[int] = field(default_factory=list)
    blocks: list[Vectors] = field(default_factory=list)
    asked: int = 0
    invalid: Counter[str] = field(default_factory=Counter)

    @property
    def vectors(self) -> Vectors:
        return np.concatenate(self.blocks) if self.blocks else np.empty((0, 1), np.float32)


@dataclass(frozen=True, kw_only=True)
class _Train:
    """Distinct training images: their descriptors, their ids, and when an image copies one."""

    vectors: Vectors
    ids: NDArray[np.int64]
    cut: float

    def similarity(self, generated: Vectors) -> NDArray[np.float32]:
        """``(num_train, num_generated)``."""
        if not len(generated):
            return np.empty((len(self.ids), 0), dtype=np.float32)
        alike: NDArray[np.float32] = self.vectors @ generated.T
        return alike


def finextract(target: Target) -> Scanned:
    """Attack one fine-tune with model guidance, and score all methods alike."""
    return _Attack(target).result()


class _Attack:
    """One scan; images are made method by method."""

    def __init__(self, target: Target) -> None:
        self.target = target
        methods = (*target.guided, *target.baselines, target.base)
        self.images = [_Images(method=method) for method in methods]
        self.guided = self.images[: len(target.guided)]
        self.baselines = self.images[len(target.guided) : -1]
        self.base = self.images[-1]

    @cached_property
    def train(self) -> _Train | None:
        """None without training images."""
        reference = self.target.reference
        if reference is None:
            return None
        ids = reference.groups.representatives
        return _Train(
            vectors=np.asarray(reference.index.descriptors[ids], dtype=np.float32),
            ids=ids,
            cut=self.cut[0],
        )

    @cached_property
    def cut(self) -> tuple[float, str]:
        """Similarity above which two images are one, and why.

        As strict as A-ESR and as the descriptor's own high level, and no two different real
        images may be as alike: a style or a subject makes all its images alike.
        """
        target, reference = self.target, self.target.reference
        levels = {f"A-ESR is strict from {STRICT}": STRICT}
        if target.high_level is not None:
            levels["the descriptor has its high level there"] = target.high_level
        if reference is not None and len(reference.null):
            closest = 1.0 - float(reference.null.min())
            levels["two different training images are that alike"] = closest
        if reference is not None and target.holdout is not None:
            nearest = reference.nearest(target.holdout).dissimilarities[:, 0].min()
            levels["a held-out image is that like a training image"] = 1.0 - float(nearest)
        why, cut = max(levels.items(), key=lambda item: item[1])
        what = "the images of a group are copies" if reference is None else "an image is a copy"
        return cut, f"{what} above similarity {cut:.3f}: {why}"

    def result(self) -> Scanned:
        """Everything, in the order in which it has to be done."""
        num_images, stopped = self._attack()
        for images in self.baselines:
            self._extend(images, num_images)
        self._extend(self.base, min(num_images, BASE_IMAGES))
        if not self.base.ids:  # the threshold and a control come from them
            raise CheckpointError(_nothing_valid(self.base))
        scored = [self._scored(images) for images in (*self.baselines, *self.guided)]
        shown = max(scored[len(self.baselines) :], key=lambda each: each.rank)
        num_train = None if self.train is None else len(self.train.ids)
        copied = {train for each in scored for train in each.copied}
        extracted = tuple(self._extracted(shown))
        concept = ConceptScan(
            name=self.target.name,
            fit=self.target.fit,
            captions=self.target.captions[0],
            captions_origin=self.target.captions[1],
            captions_note=self.target.captions[2],
            prompts=self.target.prompts,
            num_train=num_train,
            methods=tuple(each.scores for each in scored if each.scores is not None),
            clustering=_clustering(shown.extraction, num_train),
            extracted=extracted,
            matches=tuple(self._matches(shown)),
            num_planned=self.target.stopping.planned,
            num_images=num_images,
            num_copied=None if num_train is None else len(copied),
            num_candidates=None
            if num_train is not None
            else sum(e.is_candidate for e in extracted),
            stopped=stopped,
            cut=self.cut[0],
            cut_sentence=self.cut[1],
            shown_rate=shown_rate(len(shown.images.ids), num_train or 1),
            wanted_rate=self.target.stopping.rate,
            controls=tuple(self._controls()),
            images=self._coverage(),
            denoiser_calls=sum(each.asked * each.method.calls_per_image for each in self.images),
        )
        best = {each.key: each.best for each in scored if each.best is not None}
        return Scanned(concept=concept, sampler=shown.images.method.sampler, best=best)

    def _attack(self) -> tuple[int, str]:
        """Images of each setting of model guidance, and why there are not more."""
        stopping, stopped, look = self.target.stopping, "", 0
        for look in stopping.looks():
            for images in self.guided:
                self._extend(images, look)
            if self.train is not None and look < stopping.planned:
                num_copied = len({each for images in self.guided for each in self._copied(images)})
                fewest = min(len(images.ids) for images in self.guided)  # invalid ones show nothing
                stopped = stopping.why(fewest, num_copied, len(self.train.ids))
            if stopped:
                break
        return look, stopped

    def _extend(self, images: _Images, count: int) -> None:
        """Make and describe images up to ``count``."""
        batch = self.target.stopping.batch
        block = max(batch, BLOCK // batch * batch)
        while images.asked < count:
            rows = self.target.order[images.asked : min(count, images.asked + block)]
            self.target.report(images.method.name, sum(each.asked for each in self.images))
            made = images.method.sampler.images(rows)
            images.asked += len(rows)
            images.invalid.update(image.invalid for image in made if image.invalid)
            valid = [image for image in made if not image.invalid]
            if valid:
                images.ids += [image.sample_id for image in valid]
                images.blocks.append(
                    self.target.describe(np.stack([image.pixels for image in valid]))
                )

    def _copied(self, images: _Images) -> set[int]:
        """Training images that some image copies."""
        if self.train is None or not images.ids:
            return set()
        best = self.train.similarity(images.vectors).max(axis=1)
        return set(self.train.ids[best > self.train.cut].tolist())

    def _scored(self, images: _Images) -> _Scored:
        if not images.ids:
            raise CheckpointError(_nothing_valid(images))
        vectors = images.vectors
        known = self.guided.index(images) if images in self.guided else 0
        extraction = extract(
            vectors,
            num_wanted=None if self.train is None else len(self.train.ids),
            null=self.base.vectors if self.base.ids else None,
            rule=self.target.rule,
        )
        key = (images.method.name, known)
        if self.train is None:
            candidates = sum(
                self._is_candidate(vectors[list(members)], extraction.minimum_support)
                for members in extraction.members
            )
            return _Scored(key=key, images=images, extraction=extraction, num_candidates=candidates)
        similarity = self.train.similarity(vectors)
        of_extracted = similarity[:, list(extraction.representatives)]
        extracted_best, _ = best_matches(of_extracted)
        best, _ = best_matches(similarity)
        clustered, everything = over_train_images(extracted_best), over_train_images(best)
        scores = MethodScores(
            method=images.method.name,
            settings=images.method.settings,
            num_images=len(images.ids),
            num_extracted=len(extraction.representatives),
            average_similarity=clustered.average_similarity,
            esr_strict=clustered.esr_strict,
            esr_loose=clustered.esr_loose,
            best_similarity=everything.average_similarity,
            best_esr_strict=everything.esr_strict,
            best_esr_loose=everything.esr_loose,
            num_copied=int((best > self.train.cut).sum()),
            num_copied_extracted=int((extracted_best > self.train.cut).sum()),
            denoiser_calls=images.asked * images.method.calls_per_image,
            scale=images.method.scale,
        )
        return _Scored(
            key=key,
            images=images,
            extraction=extraction,
            scores=scores,
            best=extracted_best,
            copied=set(self.train.ids[best > self.train.cut].tolist()),
        )

    def _is_candidate(self, group: Vectors, minimum_support: int) -> bool:
        """Whether a group is evidence on its own: enough images that copy one of them."""
        copies = (group @ group.T > self.cut[0]).sum(axis=1)
        return len(group) >= minimum_support and int(copies.max()) >= minimum_support

    def _extracted(self, shown: _Scored) -> Iterator[ExtractedImage]:
        found, vectors = shown.extraction, shown.images.vectors
        for place, members, alike in zip(
            found.representatives, found.members, found.mean_similarities, strict=True
        ):
            image = ExtractedImage(
                sample_id=shown.images.ids[place],
                support=len(members),
                mean_similarity=alike,
                is_supported=len(members) >= found.minimum_support,
                is_candidate=self._is_candidate(vectors[list(members)], found.minimum_support),
            )
            if self.train is not None:
                column = self.train.similarity(vectors[[place]])[:, 0]
                nearest = int(column.argmax())
                image = replace(
                    image,
                    train_id=int(self.train.ids[nearest]),
                    similarity=_cosine(column[nearest]),
                    is_copy=bool(column[nearest] > self.train.cut),
                )
            yield image

    def _matches(self, shown: _Scored) -> Iterator[TrainMatch]:
        if self.train is None or shown.best is None:
            return
        best, places = best_matches(self.train.similarity(shown.images.vectors))
        has_some = bool(shown.extraction.representatives)
        for row, train_id in enumerate(self.train.ids.tolist()):
            if places[row] >= 0:
                yield TrainMatch(
                    train_id=train_id,
                    extracted_similarity=float(shown.best[row]) if has_some else None,
                    best_similarity=float(best[row]),
                    best_sample_id=shown.images.ids[int(places[row])],
                    is_copied=bool(best[row] > self.train.cut),
                )

    def _controls(self) -> Iterator[Control]:
        """Altered training images must be recognised; the base cannot know them."""
        reference, train = self.target.reference, self.train
        if reference is None or train is None:
            return
        # Above the cut, and not at it, where the image lies that the cut may come from.
        below = 1.0 - train.cut - ROUNDING
        yield from run_controls(reference, confirmed_cut=below, holdout=self.target.holdout)
        if self.base.ids:
            closest = train.similarity(self.base.vectors).max(axis=0)
            yield Control(
                name="base",
                sentence="images of the base, which never saw the training images, must not be "
                "found",
                num_images=len(self.base.ids),
                num_found=int((closest > train.cut).sum()),
                minimum_found=0,
                maximum_found=0,
            )

    def _coverage(self) -> Coverage:
        invalid: Counter[str] = Counter()
        for images in self.images:
            invalid.update(images.invalid)
        asked = sum(images.asked for images in self.images)
        groups = 0 if self.train is None else len(self.train.ids)
        return replace(
            self.target.source or Coverage(planned=0, generated=0, valid=0),
            planned=asked,
            generated=asked,
            valid=asked - sum(invalid.values()),
            invalid=dict(sorted(invalid.items())),
            damaged=sum(images.method.sampler.store.damaged for images in self.images),
            train_groups=groups,
        )


@dataclass(frozen=True, kw_only=True)
class _Scored:
    """What one method came to."""

    key: tuple[str, int]
    images: _Images
    extraction: Extraction
    scores: MethodScores | None = None
    best: NDArray[np.float64] | None = None
    copied: set[int] = field(default_factory=set)
    num_candidates: int = 0  # where there is nothing to compare with

    @property
    def rank(self) -> tuple[float, float]:
        """Of several settings the one that extracts most is shown."""
        if self.scores is None:
            return self.num_candidates, self.extraction.num_supported
        return self.scores.rank


def _nothing_valid(images: _Images) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in images.invalid.items())
    method = images.method
    return (
        f"none of the {images.asked} images of {method.name} ({method.settings}) can be judged "
        f"({reasons}); try --memscan-dtype float32, or other scales with --memscan-model-guidance"
    )


def _clustering(found: Extraction, num_wanted: int | None) -> Clustering:
    return Clustering(
        rule=found.rule,
        sentence=found.sentence,
        threshold=found.threshold,
        minimum_support=found.minimum_support,
        num_supported=found.num_supported,
        num_wanted=num_wanted,
        largest=found.largest,
        is_proven=found.is_proven,
    )


def _cosine(value: float) -> float:
    return float(min(1.0, max(-1.0, value)))
