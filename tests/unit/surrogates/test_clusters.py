"""Clusters of the samples: cohesion and assignment by the definition, and what is dropped."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_memscan.errors import MemscanError, OptionError
from pytest_memscan.surrogates import clusters
from pytest_memscan.surrogates.clusters import (
    Clusters,
    cluster_labels,
    describe_clusters,
)
from pytest_memscan.surrogates.labels import MIN_SAMPLES


def unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def groups(
    sizes: tuple[int, ...], spreads: tuple[float, ...], *, dim: int = 32, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors around random directions, shuffled, and which direction each is around."""
    rng = np.random.default_rng(seed)
    middles = unit(rng.normal(size=(len(sizes), dim)))
    which = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    noise = rng.normal(size=(len(which), dim)) / np.sqrt(dim)
    return unit(middles[which] + np.array(spreads)[which, None] * noise), which


def by_definition(descriptors: np.ndarray, members: np.ndarray, cluster: int) -> float:
    """Mean cosine of the members to their centroid, one at a time."""
    mine = list(descriptors[members == cluster].astype(float))
    centroid = sum(mine) / len(mine)
    cosines = [v @ centroid / np.linalg.norm(v) / np.linalg.norm(centroid) for v in mine]
    return float(np.mean(cosines))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 6), st.integers(2, 9), st.integers(0, 999))
def test_cohesion_is_the_mean_cosine_to_the_centroid(
    num: int, num_clusters: int, dim: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    descriptors = unit(rng.normal(size=(num, dim)))
    members = rng.integers(0, num_clusters, num)
    made = describe_clusters(descriptors, members, num_clusters=num_clusters)
    assert ((made.cohesion >= 0) & (made.cohesion <= 1)).all()
    for cluster in range(num_clusters):
        size = int((members == cluster).sum())
        assert made.sizes[cluster] == size
        if size:
            expected = by_definition(descriptors, members, cluster)
            assert made.cohesion[cluster] == pytest.approx(expected, abs=1e-5)
            assert np.linalg.norm(made.centroids[cluster]) == pytest.approx(1, abs=1e-5)
        else:
            assert made.cohesion[cluster] == 0


def test_cohesion_by_hand() -> None:
    """Two perpendicular vectors lie 45 degrees from their centroid; opposite ones have none."""
    descriptors = np.array([[1, 0], [0, 1], [1, 0], [-1, 0]], dtype=np.float32)
    made = describe_clusters(descriptors, np.array([0, 0, 1, 1]), num_clusters=3)
    np.testing.assert_allclose(made.cohesion, [np.sqrt(0.5), 0, 0], atol=1e-7)
    np.testing.assert_allclose(made.centroids[0], [np.sqrt(0.5)] * 2, atol=1e-6)
    np.testing.assert_array_equal(made.centroids[1:], 0)


SIZES, SPREADS = (60, 50, 40, 50), (0.1, 0.3, 0.2, 8.0)


def test_tight_groups_are_found_and_loose_ones_become_rest() -> None:
    descriptors, which = groups(SIZES, SPREADS)
    made = cluster_labels(
        descriptors, num_clusters=8, least_cohesion=0.8, assignment="rest", seed=0
    )
    found = {frozenset(np.flatnonzero(made.classes == k).tolist()) for k in range(made.num_classes)}
    for group in range(3):
        mine = set(np.flatnonzero(which == group).tolist())
        parts = [each for each in found if each <= mine]
        assert len(set().union(*parts)) > len(mine) / 2
    assert (made.classes[which == 3] == made.num_classes).mean() > 0.9
    assert made.has_rest


@pytest.mark.parametrize("assignment", ["nearest", "rest"])
def test_classes_are_those_of_the_definition(assignment: str) -> None:
    """The partition of k-means, filtered and assigned one sample at a time."""
    descriptors, _ = groups(SIZES, SPREADS)
    made = cluster_labels(
        descriptors, num_clusters=12, least_cohesion=0.6, assignment=assignment, seed=3
    )
    members = clusters._k_means(descriptors, 12, seed=3)
    cohesion = {
        k: by_definition(descriptors, members, k)
        for k in range(12)
        if (members == k).sum() >= MIN_SAMPLES
    }
    order = sorted((k for k in cohesion if cohesion[k] >= 0.6), key=lambda k: -cohesion[k])
    assert 1 < len(order) < 12
    np.testing.assert_allclose(made.record.cohesion, [cohesion[k] for k in order], atol=1e-5)
    centroids = [unit(descriptors[members == k].mean(axis=0, keepdims=True))[0] for k in order]
    for sample, vector in enumerate(descriptors):
        if assignment == "nearest":
            expected = int(np.argmax([vector @ centroid for centroid in centroids]))
        elif members[sample] in order:
            expected = order.index(members[sample])
        else:
            expected = len(order)
        assert made.classes[sample] == expected
    assert made.has_rest == (assignment == "rest")


@settings(max_examples=40, deadline=None)
@given(
    num=st.integers(20, 120),
    num_clusters=st.integers(2, 30),
    least=st.floats(0.05, 0.7),
    assignment=st.sampled_from(["nearest", "rest"]),
    seed=st.integers(0, 99),
)
def test_whatever_survives_keeps_the_rules(
    num: int, num_clusters: int, least: float, assignment: str, seed: int
) -> None:
    descriptors, _ = groups((num // 2, num - num // 2), (0.5, 2.0), dim=8, seed=seed)
    try:
        made = cluster_labels(
            descriptors,
            num_clusters=num_clusters,
            least_cohesion=least,
            assignment=assignment,
            seed=seed,
        )
    except MemscanError as error:
        assert "so there are no two classes to tell apart" in str(error)  # noqa: PT017
        return
    record = made.record
    assert record.num_clusters == min(num_clusters, num // 10)
    assert record.num_classes <= record.num_clusters
    assert record.num_samples == num == sum(record.sizes) + record.num_rest
    assert list(record.cohesion) == sorted(record.cohesion, reverse=True)
    assert min(record.cohesion) >= least
    if assignment == "nearest":
        assert not made.has_rest
    else:
        assert min(record.sizes) >= MIN_SAMPLES


def test_a_seed_gives_the_same_labels_and_another_seed_others() -> None:
    descriptors, _ = groups((150, 150), (1.0, 1.0))

    def made(seed: int) -> str:
        return cluster_labels(
            descriptors, num_clusters=10, least_cohesion=0.2, assignment="nearest", seed=seed
        ).fingerprint

    assert made(0) == made(0)
    assert made(0) != made(1)


def test_copies_of_few_images_make_no_noise() -> None:
    """More clusters than there are different samples: some stay empty, and are dropped."""
    descriptors = np.repeat(np.eye(3, 8, dtype=np.float32), 40, axis=0)
    made = cluster_labels(
        descriptors, num_clusters=12, least_cohesion=0.9, assignment="nearest", seed=0
    )
    assert made.record.num_clusters == 12
    assert {tuple(np.unique(made.classes[i : i + 40])) for i in (0, 40, 80)} == {
        (k,) for k in range(made.num_classes)
    }


def test_a_cluster_that_loses_all_members_to_a_nearer_centroid_is_no_class() -> None:
    """Two clusters with centroids of one direction: ties go to the first of them."""
    descriptors = np.repeat(np.eye(2, 4, dtype=np.float32), [8, 4], axis=0)
    members = np.array([0] * 4 + [1] * 4 + [2] * 4)
    made = describe_clusters(descriptors, members, num_clusters=3)
    classes, kept = clusters._assign(descriptors, made, np.array([0, 1, 2]), "nearest")
    np.testing.assert_array_equal(classes, [0] * 8 + [1] * 4)
    np.testing.assert_array_equal(kept, [0, 2])
    assert isinstance(made, Clusters)


def test_too_few_samples_for_two_clusters_name_the_option() -> None:
    descriptors, _ = groups((10, 9), (0.1, 0.1))
    with pytest.raises(OptionError, match="set --memscan-side-samples to 20 or more"):
        cluster_labels(descriptors, seed=0)


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"num_clusters": 1}, "side-clusters must be 2"),
     ({"least_cohesion": -0.1}, "side-cohesion"),
     ({"least_cohesion": 1.5}, "side-cohesion"),
     ({"least_cohesion": float("nan")}, "side-cohesion")],
)  # fmt: skip
def test_options_out_of_range_are_named(options: dict[str, object], expected: str) -> None:
    descriptors, _ = groups((30, 30), (0.1, 0.1))
    with pytest.raises(OptionError, match=expected):
        cluster_labels(descriptors, seed=0, **options)


def test_samples_without_any_cohesive_cluster_are_an_error_with_a_remedy() -> None:
    descriptors, _ = groups((300,), (50.0,))
    with pytest.raises(MemscanError, match=r"none of the 5 .* lower --memscan-side-cohesion"):
        cluster_labels(descriptors, num_clusters=5, least_cohesion=0.95, seed=0)


def test_one_cluster_that_takes_all_samples_is_no_pair_of_classes() -> None:
    descriptors, _ = groups((40, 40), (0.05, 6.0))
    with pytest.raises(MemscanError, match=r"in the only one of \d clusters"):
        cluster_labels(
            descriptors, num_clusters=2, least_cohesion=0.9, assignment="nearest", seed=0
        )
    made = cluster_labels(
        descriptors, num_clusters=2, least_cohesion=0.9, assignment="rest", seed=0
    )
    assert (made.num_classes, made.has_rest) == (1, True)


def test_no_cohesion_asked_for_drops_only_small_clusters() -> None:
    descriptors, _ = groups((300,), (50.0,))
    made = cluster_labels(descriptors, num_clusters=5, least_cohesion=0, seed=0)
    assert made.num_classes == 5


def test_descriptors_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="unit vectors"):
        cluster_labels(np.ones((50, 4), dtype=np.float32), seed=0)
    with pytest.raises(ValueError, match="nearest, rest, not drop"):
        cluster_labels(groups((50,), (0.1,))[0], assignment="drop", seed=0)
