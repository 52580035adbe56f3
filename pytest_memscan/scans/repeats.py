"""Images that a model makes again and again, where there are no training images to compare with.

    generate many images
    look for groups of near-identical ones: as far from everything else as chance does not explain

A memorised image comes up again and again (Carlini et al. 2023 flag a prompt by such groups); of
images that are made up anew no two are alike. So a repeated group is evidence of memorisation,
found without any training image. It says neither which training image it is nor that it is one, and
no group is no proof of the contrary: a memorised image may come up too rarely to be seen thrice.

The more images, the more likely is a half-way copy that bridges the gap around a group. So the
first half, quarter, ... of the images is searched likewise, and what is reported is where most
groups were found: more images never hide what fewer would have shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pytest_memscan.errors import CheckpointError, DescriptorError
from pytest_memscan.reports.text import percent
from pytest_memscan.results import Coverage, Estimate, Repeats
from pytest_memscan.sampler import Sampler
from pytest_memscan.similarity.descriptors.descriptor import Descriptor
from pytest_memscan.similarity.matching.nearest import nearest_vectors
from pytest_memscan.similarity.matching.pixels import nearest_neighbours
from pytest_memscan.similarity.repeats import (
    ISOLATION,
    IsolatedGroup,
    counting_sizes,
    expected_by_chance,
    isolated_groups,
    local_dimensions,
)
from pytest_memscan.statistics import proportion

MIN_GROUP = 3  # two of a kind may be two near-identical training images, each come up once
FALSE_GROUPS = 0.05  # expected in a whole scan of a model that repeats nothing
NEARLY_ALL = 0.95  # of the images, around which a group of the stated size counts
MIN_IMAGES = 250  # smallest share of the images that is searched on its own
MAX_LISTED = 50  # groups named in a report
_NUM_CLOUDS = 16
_CLOUD_GRID = 3  # colours along each side
Kind = TypeVar("Kind", bound=np.generic)


def repeats(
    sampler: Sampler,
    *,
    descriptor: Descriptor | None = None,
    provenance: Mapping[str, str],
) -> Repeats:
    """Look for images that a checkpoint makes again and again.

    Args:
        sampler: Generated images.
        descriptor: What they are compared by; None compares their pixels.
        provenance: Recorded as it is.

    Raises:
        CheckpointError: None of the generated images is valid.
        DescriptorError: The descriptor cannot describe them.

    Cost: every generated image with every other. Memory: the generated images, or with a descriptor
    their descriptors and one block of images; besides, what `matching` needs for its tiles, and 51
    distances and ids for each image (800 bytes).
    """
    invalid: Counter[str] = Counter()
    space = _described(sampler, descriptor, invalid) if descriptor else _pixels(sampler, invalid)
    num_images = len(space.sample_ids)
    counts = _counts(num_images)
    # of equally many groups those among more images
    levels = [_search(space, count, false_groups=FALSE_GROUPS / len(counts)) for count in counts]
    level = max(levels, key=lambda each: len(each.groups))
    largest = [space.sample_ids[list(group.members)] for group in level.groups[:MAX_LISTED]]
    coverage = Coverage(
        planned=sampler.num_images,
        generated=num_images + sum(invalid.values()),
        valid=num_images,
        invalid=dict(sorted(invalid.items())),
        damaged=sampler.store.damaged,
    )
    result = Repeats(
        num_images=num_images,
        num_searched=level.num_images,
        num_groups=len(level.groups),
        num_repeating=sum(len(group.members) for group in level.groups),
        largest=tuple(tuple(sample_ids.tolist()) for sample_ids in largest),
        group_size=level.group_size,
        threshold=ISOLATION,
        measure=f"{space.measure} relative to the nearest image outside the group",
        rule=_rule(space, counts, level),
        images=coverage,
        denoiser_calls=sampler.num_images * sampler.steps,
        provenance={**provenance, **space.record},
        metrics={"repeated_groups": _count(len(level.groups))},
        widest=max((group.diameter for group in level.groups), default=None),
        dimension=level.dimension,
        expected_by_chance=_total(each.expected for each in levels),
        shown_rate=_shown_rate(level.group_size, level.num_images),
    )
    return replace(result, sentence=_sentence(result))


@dataclass(frozen=True, kw_only=True)
class _Space:
    """Valid generated images as points.

    ``nearest``: positions, k and a number of images -> distances and positions of the k nearest
    others among the first so many; ``reach`` ``(num_images,)``: distance to a picture that the
    model did not make.
    """

    sample_ids: NDArray[np.int64] = field(repr=False)
    nearest: Callable[[NDArray[np.int64], int, int], tuple[NDArray[np.float64], NDArray[np.int64]]]
    reach: NDArray[np.float64] = field(repr=False)
    measure: str
    blank: str
    record: Mapping[str, str]


def _pixels(sampler: Sampler, invalid: Counter[str]) -> _Space:
    sample_ids, images = _joined(sampler, invalid, lambda pixels: pixels)

    def nearest(
        rows: NDArray[np.int64], k: int, count: int
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        near = nearest_neighbours(images[rows], images[:count], k=k, exclude=rows)
        return near.distances, near.train_ids

    return _Space(
        sample_ids=sample_ids,
        nearest=nearest,
        reach=np.array([_contrast(image) for image in images]),
        measure="normalised L2 of pixels",
        blank="a picture of one colour",
        record={"similarity": "normalised L2, 8-bit pixels"},
    )


def _described(sampler: Sampler, descriptor: Descriptor, invalid: Counter[str]) -> _Space:
    def describe(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        try:
            return descriptor.describe(pixels)
        except ValueError as error:
            raise DescriptorError(f"{error}; choose another with --memscan-descriptor") from None

    sample_ids, vectors = _joined(sampler, invalid, describe)
    clouds = describe(_clouds(sampler.pixels_of(int(sample_ids[0])).shape))

    def nearest(
        rows: NDArray[np.int64], k: int, count: int
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        near = nearest_vectors(
            vectors[rows], vectors[:count], k=k, exclude=rows, device=descriptor.device
        )
        return near.distances, near.train_ids

    return _Space(
        sample_ids=sample_ids,
        nearest=nearest,
        reach=nearest_vectors(vectors, clouds, k=1, device=descriptor.device).distances[:, 0],
        measure=f"L2 distance of {descriptor.name} descriptors",
        blank=f"{_NUM_CLOUDS} made-up pictures",
        record={
            "similarity": f"L2 distance of {descriptor.name} descriptors",
            **{f"descriptor {name}": value for name, value in descriptor.record.items()},
        },
    )


def _joined(
    sampler: Sampler,
    invalid: Counter[str],
    turn: Callable[[NDArray[np.uint8]], NDArray[Kind]],
) -> tuple[NDArray[np.int64], NDArray[Kind]]:
    """Sample ids of the valid images, and what each block of them is turned into."""
    blocks = [(sample_ids, turn(pixels)) for sample_ids, pixels in sampler.blocks(invalid)]
    if not blocks:
        raise CheckpointError(
            f"none of the {sampler.num_images} generated images is valid "
            f"({', '.join(f'{count} {why}' for why, count in invalid.items())}); the checkpoint "
            "makes no pictures with this sampler, so there is nothing to judge"
        )
    return np.concatenate([ids for ids, _ in blocks]), np.concatenate([each for _, each in blocks])


def _contrast(image: NDArray[np.uint8]) -> float:
    """Normalised L2 distance of an image to the nearest picture of one colour."""
    return float(np.sqrt(image.var(axis=(0, 1), dtype=np.float64).mean())) / 255.0


def _clouds(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Pictures that no model made, ``(num_clouds, *shape)``: colours that run into each other.

    Not of one colour: what a network makes of nothing at all may be far from any picture.
    """
    height, width, channels = shape
    grids = np.random.default_rng(0).integers(
        0, 256, (_NUM_CLOUDS, _CLOUD_GRID, _CLOUD_GRID, 3), dtype=np.uint8
    )
    clouds = [
        np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC))
        for grid in grids
    ]
    return np.stack(clouds)[..., :channels]


@dataclass(frozen=True, kw_only=True)
class _Level:
    """What was found among the first ``num_images``.

    ``group_size`` counts around nearly all of them; ``expected``: groups made by chance;
    ``dimension``: median. The last two are None where no dimension could be measured.
    """

    num_images: int
    groups: list[IsolatedGroup] = field(repr=False)
    group_size: int
    expected: float | None
    dimension: float | None


def _counts(num_images: int) -> list[int]:
    """All images, and the first half, quarter, ... of them."""
    counts = [num_images]
    while counts[-1] // 2 >= MIN_IMAGES:
        counts.append(counts[-1] // 2)
    return counts


def _search(space: _Space, count: int, *, false_groups: float) -> _Level:
    def search(rows: NDArray[np.int64], k: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        return space.nearest(rows, k, count)

    groups = isolated_groups(search, space.reach[:count])
    dimensions = local_dimensions(search, count, groups)
    sizes, expected, dimension = np.full(count, MIN_GROUP), None, None
    if len(dimensions):
        sizes = counting_sizes(
            dimensions, num_images=count, smallest=MIN_GROUP, expected=false_groups
        )
        expected = float(expected_by_chance(dimensions, sizes, num_images=count).mean())
        dimension = float(np.median(dimensions))
    group_size = int(np.quantile(sizes, NEARLY_ALL, method="higher"))
    return _Level(
        num_images=count,
        groups=[
            group
            for group in groups
            if len(group.members) >= max(group_size, sizes[group.members[0]])
        ],
        group_size=group_size,
        expected=expected,
        dimension=dimension,
    )


def _total(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _rule(space: _Space, counts: Sequence[int], level: _Level) -> str:
    among = " or ".join(f"{count:,}" for count in counts[::-1])
    by_chance = (
        f"more where images have few free numbers, so that chance makes at most {FALSE_GROUPS:g} "
        "groups in a whole scan"
        if level.dimension is not None
        else "there being too few different images to say how many such groups chance makes"
    )
    return (
        f"a repeated group is {level.group_size} or more of the first {among} generated images "
        f"whose distances from each other are at most {ISOLATION:g} of the distance from any of "
        f"them to another of these images or to {space.blank} ({space.measure}); {by_chance}"
    )


def _count(groups: int) -> Estimate:
    return Estimate(value=groups, lower=groups, upper=groups)


def _shown_rate(group_size: int, num_images: int) -> float:
    """Share of the output above which an image comes up ``group_size`` times in 95 % of scans."""
    if num_images < group_size:
        return 1.0
    return proportion(group_size - 1, num_images).upper


def _sentence(result: Repeats) -> str:
    if result.num_groups:
        groups = "1 group" if result.num_groups == 1 else f"{result.num_groups:,} groups"
        return (
            f"{groups} of {result.group_size} or more near-identical images, "
            f"{result.num_repeating:,} of {result.num_searched:,} generated images in all: a sign "
            "of memorised images, or of a model that can make only a few"
        )
    return (
        f"no {result.group_size} of {result.num_images:,} generated images are near-identical; one "
        f"that makes up {percent(result.shown_rate)} of what the model makes would have come up "
        f"{result.group_size} times, at 95 % confidence. Without training images a scan can find "
        "leaks but cannot show that there are none"
    )
