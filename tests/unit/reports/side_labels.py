"""Surrogate labels, and classifiers that were trained on them."""

from __future__ import annotations

import math

from pytest_memscan.results import AccuracyAt, Estimate, SurrogateLabels, SurrogateTraining

NUM_IMAGES = 2_560
NUM_SAMPLES = 2_048


def rate(hits: float, *, of: int = NUM_IMAGES) -> Estimate:
    """A share with bounds as wide as they would be."""
    spread = 1.64 * math.sqrt(max(hits, 1.0))
    return Estimate(
        value=hits / of,
        lower=max(0.0, hits - spread) / of,
        upper=min(of, hits + spread + 1.35) / of,
        num_trials=of,
    )


def labels(
    maker: str, sentence: str, *, num_classes: int, num_clusters: int = 0
) -> SurrogateLabels:
    sizes = tuple(9 + (17 * index) % 33 for index in range(num_classes))
    return SurrogateLabels(
        maker=maker,
        sentence=sentence,
        num_samples=NUM_SAMPLES,
        num_classes=num_classes,
        sizes=sizes,
        num_rest=NUM_SAMPLES - sum(sizes) if num_clusters else 0,
        num_clusters=num_clusters,
        cohesion=tuple(0.61 + 0.22 * index / num_classes for index in range(num_classes))
        if num_clusters
        else (),
    )


def training(*, is_timed: bool = True, best: float = 0.85) -> SurrogateTraining:
    accuracies = tuple(
        AccuracyAt(
            timestep=100 * step,
            accuracy=rate(205 * max(0.04, best * (1 - (step / 9.5) ** 2)), of=205),
        )
        for step in range(10)
    )
    return SurrogateTraining(
        network="ResNet of 5 blocks, 32 to 128 channels"
        + (", with a time module" if is_timed else ""),
        is_timed=is_timed,
        num_parameters=1_234_567,
        num_samples=NUM_SAMPLES - 205,
        num_held_out=205,
        num_steps=1_500,
        batch_size=128,
        learning_rate=0.002,
        seed=0,
        chance=0.031,
        accuracies=accuracies,
    )


CLUSTERS = labels(
    "clusters",
    "K-means on pixel descriptors of the samples; clusters with a cohesion below 0.6 are dropped.",
    num_classes=61,
    num_clusters=84,
)
TRAIN_LABELS = labels(
    "training labels",
    "A classifier of the training images and their labels named the samples.",
    num_classes=10,
)
