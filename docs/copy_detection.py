"""Copy detection on photographs: the built-in copy descriptor, pixel L2, PDQ and pHash.

    pip install pdqhash ImageHash
    python docs/copy_detection.py cifar10_10k.npz dreambooth/

The first argument holds ``images`` (n, 32, 32, 3) uint8, the second folders of photographs, one
folder a subject. Prints the tables of docs/copy-detection.md. A query is an edited copy of one
reference or of none; every pair of a query and a reference gets a score (higher = more alike).
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

Edit = Callable[[Image.Image, np.random.Generator], Image.Image]
Scores = NDArray[np.float64]
TARGET_PRECISION = 0.9  # as SSCD reports it
DEVELOPMENT = 3_000  # photographs looked at while the descriptor was made; not used here


def crop(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Keep 60 to 90 % of each side, at the old size."""
    side = rng.uniform(0.6, 0.9, size=2) * image.size
    left, top = rng.uniform(0, 1, size=2) * (image.size - side)
    box = (left, top, left + side[0], top + side[1])
    return image.resize(image.size, Image.Resampling.BICUBIC, box=box)


def jpeg(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Quality 10 to 40."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(rng.integers(10, 41)))
    return Image.open(buffer).convert("RGB")


def blur(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Gaussian, deviation 2 to 5 % of the width."""
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(0.02, 0.05) * image.width))


def colour(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Brightness, contrast and saturation between a half and one and a half of what they were."""
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(rng.uniform(0.5, 1.5))
    return image


def rotation(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """5 to 30 degrees either way, black corners."""
    return image.rotate(rng.uniform(5, 30) * rng.choice([-1, 1]), Image.Resampling.BICUBIC)


def overlay(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A box of one colour, or of noise, over 10 to 30 % of the picture."""
    share, stretch = rng.uniform(0.1, 0.3), np.exp(rng.uniform(-0.4, 0.4))
    width = min(image.width, round(image.width * np.sqrt(share) * stretch))
    height = min(image.height, round(image.height * np.sqrt(share) / stretch))
    grid = rng.integers(0, 256, size=(*rng.choice([(1, 1), (6, 6)]), 3), dtype=np.uint8)
    patch = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)
    left, top = rng.integers(image.width - width + 1), rng.integers(image.height - height + 1)
    covered = image.copy()
    covered.paste(patch, (int(left), int(top)))
    return covered


def mirror(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Left and right swapped."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def two_edits(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Two different ones of `EDITS`, one after the other."""
    for number in rng.choice(len(EDITS), size=2, replace=False):
        image = EDITS[number](image, rng)
    return image


EDITS: tuple[Edit, ...] = (crop, jpeg, blur, colour, rotation, overlay)
ALL: tuple[Edit, ...] = (*EDITS, mirror, two_edits)
NAMES = tuple(edit.__name__.replace("_", " ") for edit in ALL)


def micro_average_precision(scores: Scores, is_copy: NDArray[np.bool_]) -> float:
    """Area under precision over recall of all pairs in one ranking, over all queries (micro-AP).

    Args:
        scores: Any shape, one for each pair of a query and a reference.
        is_copy: Same shape; at least one True.

    Returns:
        In [0, 1]. Pairs of one score enter together, so their order does not matter.

    References:
        Douze et al. 2021, arXiv:2106.09672, section 3.3, the main figure of the DISC benchmark.

    Example:
        >>> micro_average_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]))
        0.8333333333333333
    """
    precision, recall = precision_and_recall(scores, is_copy)
    return float((precision * np.diff(recall, prepend=0.0)).sum())


def recall_at_precision(
    scores: Scores, is_copy: NDArray[np.bool_], *, precision: float = TARGET_PRECISION
) -> float:
    """Largest share of the copies found by any one cut of at least that precision; 0 if none.

    Args:
        scores: As for `micro_average_precision`.
        is_copy: As for `micro_average_precision`.
        precision: In (0, 1].

    Example:
        >>> recall_at_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]))
        0.5
    """
    found, recall = precision_and_recall(scores, is_copy)
    return float(recall[found >= precision].max(initial=0.0))


def precision_and_recall(scores: Scores, is_copy: NDArray[np.bool_]) -> tuple[Scores, Scores]:
    """Precision and recall of the pairs at or above each distinct score, highest first."""
    scores, is_copy = scores.ravel(), is_copy.ravel()
    order = np.argsort(-scores, kind="stable")
    last_of_its_score = np.append(np.diff(scores[order]) != 0, True)
    found = np.cumsum(is_copy[order])[last_of_its_score]
    taken = np.flatnonzero(last_of_its_score) + 1
    return found / taken, found / is_copy.sum()


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Photographs of one size: `originals` are edited, `strangers` are queries without a match.

    The references are `originals` and `distractors`. Each list holds RGB pictures.
    """

    name: str
    originals: Sequence[Image.Image]
    distractors: Sequence[Image.Image]
    strangers: Sequence[Image.Image]

    @property
    def references(self) -> list[Image.Image]:
        """Originals first."""
        return [*self.originals, *self.distractors]

    def queries(self, edit: Edit, *, seed: int) -> list[Image.Image]:
        """The edited originals in their order, then the edited strangers."""
        rng = np.random.default_rng(seed)
        return [edit(picture, rng) for picture in (*self.originals, *self.strangers)]

    def truth(self) -> NDArray[np.bool_]:
        """``(num_queries, num_references)``: query i copies reference i, if it is an original."""
        num_queries = len(self.originals) + len(self.strangers)
        truth = np.eye(num_queries, len(self.references), dtype=bool)
        truth[len(self.originals) :] = False
        return truth


def pixels(pictures: Sequence[Image.Image]) -> NDArray[np.uint8]:
    return np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])


def copy_descriptor_scores(
    queries: Sequence[Image.Image], references: Sequence[Image.Image]
) -> Scores:
    """Cosine of the built-in copy descriptor."""
    from pytest_memscan.similarity.descriptors.copy_descriptor import load_copy_descriptor

    descriptor = load_copy_descriptor()
    described = [descriptor.describe(pixels(side)) for side in (queries, references)]
    return (described[0] @ described[1].T).astype(np.float64)


def pixel_scores(queries: Sequence[Image.Image], references: Sequence[Image.Image]) -> Scores:
    """Minus the squared distance of what the descriptor's network is shown."""
    from pytest_memscan.similarity.descriptors.copy_descriptor import PREPROCESSING

    a, b = (
        PREPROCESSING(pixels(side)).flatten(1).double().numpy() for side in (queries, references)
    )
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None, :]
    return 2 * a @ b.T - squares


def _hamming(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> Scores:
    """Minus the number of bits that differ."""
    ones = [np.where(bits, 1.0, -1.0) for bits in (a, b)]
    return (ones[0] @ ones[1].T - a.shape[1]) / 2


def pdq_scores(queries: Sequence[Image.Image], references: Sequence[Image.Image]) -> Scores:
    """PDQ, 256 bits."""
    import pdqhash

    a, b = (
        np.stack([pdqhash.compute(each)[0] for each in pixels(side)]).astype(bool)
        for side in (queries, references)
    )
    return _hamming(a, b)


def phash_scores(queries: Sequence[Image.Image], references: Sequence[Image.Image]) -> Scores:
    """PHash, 64 bits."""
    import imagehash

    a, b = (
        np.stack([imagehash.phash(picture).hash.ravel() for picture in side])
        for side in (queries, references)
    )
    return _hamming(a, b)


METHODS = {
    "built-in copy descriptor": copy_descriptor_scores,
    "pixel L2": pixel_scores,
    "PDQ": pdq_scores,
    "pHash": phash_scores,
}


def small_photographs(images: NDArray[np.uint8], size: int) -> Benchmark:
    """500 originals, 4,500 distractors and 500 strangers of CIFAR-10, made `size` wide."""
    order = np.random.default_rng(0).permutation(len(images))[DEVELOPMENT:]
    box = Image.Resampling.BOX
    chosen = [Image.fromarray(images[row]).resize((size, size), box) for row in order[:5_500]]
    return Benchmark(
        name=f"CIFAR-10, {size}x{size}",
        originals=chosen[:500],
        distractors=chosen[1_000:],
        strangers=chosen[500:1_000],
    )


def subjects(folder: Path) -> list[list[Image.Image]]:
    """The photographs of each subject."""
    folders = [each for each in sorted(folder.iterdir()) if each.is_dir()]
    return [
        [Image.open(path).convert("RGB") for path in sorted(each.glob("*.jpg"))] for each in folders
    ]


def among_others(folder: Path, images: NDArray[np.uint8]) -> Benchmark:
    """One original of each subject; distractors and strangers are CIFAR-10's, made as large."""
    order = np.random.default_rng(0).permutation(len(images))[DEVELOPMENT:]
    enlarged = [Image.fromarray(images[row]).resize((256, 256)) for row in order[:2_200]]
    return Benchmark(
        name="DreamBooth, 256x256, among photographs of other things",
        originals=[photographs[0] for photographs in subjects(folder)],
        distractors=enlarged[200:],
        strangers=enlarged[:200],
    )


def among_their_like(folder: Path) -> Benchmark:
    """Two originals of each subject, one stranger, and the others of the subject as distractors."""
    loaded = subjects(folder)
    return Benchmark(
        name="DreamBooth, 256x256, among photographs of the same things",
        originals=[picture for subject in loaded for picture in subject[:2]],
        distractors=[picture for subject in loaded for picture in subject[3:]],
        strangers=[picture for subject in loaded for picture in subject[2:3]],
    )


def scores_by_edit(benchmark: Benchmark) -> dict[str, list[Scores]]:
    """Scores of each method, a matrix ``(num_queries, num_references)`` for each edit."""
    references = benchmark.references
    queries = [each for n, edit in enumerate(ALL) for each in benchmark.queries(edit, seed=n)]
    return {name: np.split(score(queries, references), len(ALL)) for name, score in METHODS.items()}


def detection_table(truth: NDArray[np.bool_], scored: dict[str, list[Scores]]) -> list[str]:
    """Rows of Markdown: one an edit, then all of `EDITS` in one ranking."""
    rows = [f"| edit | {' | '.join(METHODS)} |", "|---" * (len(METHODS) + 1) + "|"]
    for number, name in enumerate(NAMES):
        cells = [_cell(scores[number], truth) for scores in scored.values()]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    together = [
        _cell(np.concatenate(scores[: len(EDITS)]), np.concatenate([truth] * len(EDITS)))
        for scores in scored.values()
    ]
    return [*rows, f"| **the first {len(EDITS)} in one ranking** | {' | '.join(together)} |"]


def _cell(scores: Scores, truth: NDArray[np.bool_]) -> str:
    return f"{micro_average_precision(scores, truth):.3f}, {recall_at_precision(scores, truth):.0%}"


def levels_table(num_originals: int, scores: list[Scores]) -> list[str]:
    """Rows of Markdown: what share of copies, and of queries without a match, reach each level."""
    from pytest_memscan.similarity.descriptors.copy_descriptor import load_copy_descriptor

    levels = load_copy_descriptor().levels or ()
    names = [f"{level.name} ({1 - level.cut:.2f})" for level in levels]

    def reached(similarity: Scores) -> str:
        return " | ".join(f"{(1 - similarity <= level.cut).mean():.1%}" for level in levels)

    rows = [f"| reach the level | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for name, made in zip(NAMES, scores, strict=True):
        rows.append(f"| {name} | {reached(np.diagonal(made)[:num_originals])} |")
    best = np.concatenate([made[num_originals:].max(axis=1) for made in scores])
    return [*rows, f"| **best match of a query that copies nothing** | {reached(best)} |"]


def report(benchmark: Benchmark) -> str:
    """Both tables of a benchmark under its name."""
    scored = scores_by_edit(benchmark)
    count = len(benchmark.originals)
    head = (
        f"### {benchmark.name}\n\n{count} copies and {len(benchmark.strangers)} queries without a "
        f"match for each edit, {len(benchmark.references):,} references.\n"
    )
    found = detection_table(benchmark.truth(), scored)
    return "\n".join([head, *found, "", *levels_table(count, scored["built-in copy descriptor"])])


if __name__ == "__main__":
    cifar, dreambooth = np.load(sys.argv[1])["images"], Path(sys.argv[2])
    for made in (
        small_photographs(cifar, 32),
        small_photographs(cifar, 16),
        among_others(dreambooth, cifar),
        among_their_like(dreambooth),
    ):
        print(report(made) + "\n", flush=True)
