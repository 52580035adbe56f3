"""SIDE-C: clusters of the checkpoint's own samples as surrogate labels.

Source: arXiv:2410.02467, where samples are described by SSCD and clustered by k-means into 100;
its version 7 drops clusters whose members' mean cosine to the centroid is below 0.5 and reassigns
every sample to the nearest centroid that is left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans

from pytest_memscan.errors import MemscanError, OptionError
from pytest_memscan.surrogates.labels import (
    ASSIGNMENTS,
    MIN_SAMPLES,
    REST,
    Assignment,
    Labels,
    numbered,
)

NUM_CLUSTERS = 100
LEAST_COHESION = 0.5
SAMPLES_PER_CLUSTER = 10  # on average, at least: fewer clusters are made where samples are few
BATCH_SIZE = 2048
NUM_STARTS = 3  # of k-means; the tightest is kept


class NoClustersError(MemscanError):
    """The samples have no two clusters that are tight enough: no image comes again and again."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Clusters:
    """A partition of unit vectors.

    Attributes:
        members: ``(num_samples,)``: cluster of each sample, 0 to ``num_clusters - 1``.
        centroids: ``(num_clusters, dim)`` float32, unit length; zero where there is no direction.
        cohesion: ``(num_clusters,)`` mean cosine of the members to the centroid, 0 to 1; 0 for a
            cluster without members.
        sizes: ``(num_clusters,)``.
    """

    members: NDArray[np.int64]
    centroids: NDArray[np.float32]
    cohesion: NDArray[np.float64]
    sizes: NDArray[np.int64]


def cluster_labels(
    descriptors: NDArray[np.float32],
    *,
    num_clusters: int = NUM_CLUSTERS,
    least_cohesion: float = LEAST_COHESION,
    assignment: Assignment = "nearest",
    seed: int,
) -> Labels:
    """Classes of samples that look alike, the most cohesive first.

    There are `num_clusters`, or as many as leave `SAMPLES_PER_CLUSTER` samples to each on average.
    Clusters of less cohesion, or of fewer than `MIN_SAMPLES` samples, are dropped.

    Args:
        descriptors: ``(num_samples, dim)``, unit length.
        num_clusters: At most; 2 or more.
        least_cohesion: 0 to 1. The recorded cohesion is the one that was compared with
            it: of the clusters as k-means made them.
        assignment: "nearest": every sample goes to the nearest centroid that is left, as in the
            paper. "rest": samples of dropped clusters become the class "rest".
        seed: Of k-means.

    Raises:
        OptionError: Too few samples for two clusters, or an option out of range.
        NoClustersError: Fewer than two classes are left.
        ValueError: Descriptors that are not unit vectors, or an assignment that is neither.
    """
    _check_options(num_clusters, least_cohesion, assignment)
    lengths = np.linalg.norm(descriptors, axis=1) if descriptors.ndim == 2 else np.zeros(1)
    if not (np.abs(lengths - 1) < 1e-3).all():
        raise ValueError("descriptors must be unit vectors (num_samples, dim)")
    num_made = min(num_clusters, _supported(len(descriptors)))
    made = describe_clusters(
        descriptors, _k_means(descriptors, num_made, seed=seed), num_clusters=num_made
    )
    survives = (made.cohesion >= least_cohesion) & (made.sizes >= MIN_SAMPLES)
    kept = np.flatnonzero(survives)
    kept = kept[np.argsort(-made.cohesion[kept], kind="stable")]
    classes, kept = _assign(descriptors, made, kept, assignment)
    if not len(kept) or len(np.unique(classes)) < 2:
        raise NoClustersError(_nothing_left(made, len(kept), least_cohesion))
    return numbered(
        classes,
        maker="clusters",
        sentence=_sentence(num_made, num_clusters, len(kept), least_cohesion, assignment),
        num_clusters=num_made,
        cohesion=tuple(made.cohesion[kept].tolist()),
        depends_on={
            "num_clusters": str(num_clusters),
            "least_cohesion": str(least_cohesion),
            "assignment": assignment,
            "seed": str(seed),
        },
    )


def describe_clusters(
    descriptors: NDArray[np.float32], members: NDArray[np.int64], *, num_clusters: int
) -> Clusters:
    """Centroid, cohesion and size of every cluster of a partition.

    The mean cosine of unit vectors to the direction of their mean is the length of their mean.

    Args:
        descriptors: ``(num_samples, dim)``, unit length.
        members: ``(num_samples,)``, 0 to ``num_clusters - 1``.
        num_clusters: Some may have no members.
    """
    sizes = np.bincount(members, minlength=num_clusters)
    sums = np.zeros((num_clusters, descriptors.shape[1]))
    np.add.at(sums, members, descriptors)
    means = sums / np.maximum(sizes, 1)[:, None]
    lengths = np.linalg.norm(means, axis=1)
    centroids = means / np.where(lengths > 0, lengths, 1)[:, None]
    return Clusters(
        members=members,
        centroids=centroids.astype(np.float32),
        cohesion=np.minimum(lengths, 1.0),
        sizes=sizes.astype(np.int64),
    )


def _check_options(num_clusters: int, least_cohesion: float, assignment: str) -> None:
    if num_clusters < 2:
        raise OptionError(f"--memscan-side-clusters must be 2 or more, not {num_clusters}")
    if not 0 <= least_cohesion <= 1:
        raise OptionError(f"--memscan-side-cohesion must be in 0 ... 1, not {least_cohesion}")
    if assignment not in ASSIGNMENTS:
        raise ValueError(f"assignment must be one of {', '.join(ASSIGNMENTS)}, not {assignment}")


def _supported(num_samples: int) -> int:
    """Clusters that so many samples are enough for."""
    supported = num_samples // SAMPLES_PER_CLUSTER
    if supported < 2:
        raise OptionError(
            f"{num_samples} samples are too few for two clusters of {SAMPLES_PER_CLUSTER}: set "
            f"--memscan-side-samples to {2 * SAMPLES_PER_CLUSTER} or more"
        )
    return supported


def _k_means(
    descriptors: NDArray[np.float32], num_clusters: int, *, seed: int
) -> NDArray[np.int64]:
    """Cluster of every descriptor."""
    fitted = MiniBatchKMeans(
        num_clusters, random_state=seed, n_init=NUM_STARTS, batch_size=BATCH_SIZE
    ).fit(descriptors)
    members: NDArray[np.int64] = fitted.labels_.astype(np.int64)
    return members


def _assign(
    descriptors: NDArray[np.float32],
    made: Clusters,
    kept: NDArray[np.int64],
    assignment: Assignment,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Class of every sample or `REST`, and the kept clusters that have any."""
    if not len(kept):
        return np.full(len(descriptors), REST, dtype=np.int64), kept
    if assignment == "rest":
        new = np.full(len(made.sizes), REST, dtype=np.int64)
        new[kept] = np.arange(len(kept))
        return new[made.members], kept
    nearest = (descriptors @ made.centroids[kept].T).argmax(axis=1).astype(np.int64)
    # Members may all be nearer to another centroid: k-means compares centroids of any length.
    has_members = np.bincount(nearest, minlength=len(kept)) > 0
    return (np.cumsum(has_members) - 1)[nearest].astype(np.int64), kept[has_members]


def _sentence(
    num_made: int, num_asked: int, num_kept: int, least_cohesion: float, assignment: Assignment
) -> str:
    capped = f" ({num_asked} would need more samples)" if num_made < num_asked else ""
    others = {
        "nearest": "every sample belongs to the nearest of them",
        "rest": "samples of the others are a class that is not asked for",
    }[assignment]
    return (
        f"k-means clusters of the checkpoint's own images: {num_made}{capped}, of which {num_kept} "
        f"have at least {MIN_SAMPLES} members and cohesion {least_cohesion:g} or more; {others}"
    )


def _nothing_left(made: Clusters, num_kept: int, least_cohesion: float) -> str:
    num_made, best = len(made.sizes), made.cohesion[made.sizes >= MIN_SAMPLES].max(initial=0)
    found = (
        f"none of the {num_made} clusters of the samples has"
        if not num_kept
        else f"all samples are in the only one of {num_made} clusters that has"
    )
    return (
        f"{found} cohesion {least_cohesion:g} and {MIN_SAMPLES} members (the best has {best:.2f}), "
        "so there are no two classes to tell apart; lower --memscan-side-cohesion, or raise "
        "--memscan-side-clusters or --memscan-side-samples"
    )
