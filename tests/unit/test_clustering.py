"""The extracted set against slow transcriptions of each rule, and what it promises."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pytest_memscan.clustering import FLOOR, Extraction, default_support, extract

networkx = pytest.importorskip("networkx")

Vectors = NDArray[np.float64]


def unit(vectors: NDArray[Any]) -> Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float64)


def groups_of(sizes: list[int], *, spread: float, seed: int = 0, dimension: int = 24) -> Vectors:
    """Images around one centre for each size, shuffled."""
    rng = np.random.default_rng(seed)
    centres = unit(rng.standard_normal((len(sizes), dimension)))
    noise = unit(rng.standard_normal((sum(sizes), dimension)))
    images = unit(np.repeat(centres, sizes, axis=0) + spread * noise)
    return images[rng.permutation(len(images))]


def unrelated(count: int, *, seed: int = 99, dimension: int = 24) -> Vectors:
    return unit(np.random.default_rng(seed).standard_normal((count, dimension)))


def slow_partition(similar: Vectors, threshold: float, vectors: Vectors) -> list[Any]:
    """(members, representative), ranked: the greedy loop with networkx, single images last."""
    graph = networkx.from_numpy_array(similar >= threshold)
    graph.remove_edges_from(list(networkx.selfloop_edges(graph)))
    made = []
    while graph:
        cliques = [tuple(sorted(clique)) for clique in networkx.find_cliques(graph)]
        members = min(cliques, key=lambda clique: (-len(clique), clique))
        graph.remove_nodes_from(members)
        pairs = [similar[pair] for pair in combinations(members, 2)]
        mean = round(sum(pairs) / len(pairs), 6) if pairs else 0.0
        middle = sum(vectors[each] for each in members) / len(members)
        nearest = max(members, key=lambda each: (round(float(vectors[each] @ middle), 6), -each))
        made.append((-len(members), -mean, members, nearest))
    return [(members, nearest) for *_, members, nearest in sorted(made)]


def similarities(vectors: Vectors) -> Vectors:
    rounded: Vectors = np.round(vectors @ vectors.T, 6)
    return rounded


def slow_pictures(similar: Vectors, threshold: float, vectors: Vectors) -> list[Any]:
    kept: list[Any] = []
    for members, nearest in slow_partition(similar, threshold, vectors):
        same = any(similar[nearest, other] >= threshold for _, other in kept)
        if len(members) > 1 and not same:
            kept.append((members, nearest))
    return kept


def slow_plateau(vectors: Vectors, wanted: int | None, support: int) -> tuple[float, list[Any]]:
    """The sentence of the rule, from all thresholds at once; no null."""
    similar = similarities(vectors)
    median = np.median([similar[pair] for pair in combinations(range(len(vectors)), 2)])
    floor = min(max(FLOOR, int(np.ceil(100 * median))), 99)
    found = {t: slow_pictures(similar, t / 100, vectors) for t in range(floor, 100)}
    counts = {t: sum(len(each) >= support for each, _ in found[t]) for t in found}
    most = max(counts.values())
    if not most:
        return floor / 100, found[floor][:wanted] if wanted else []
    if wanted is None:
        given_by = {n: list(counts.values()).count(n) for n in range(1, most + 1)}
        enough = max(given_by, key=lambda n: (given_by[n], n))
    else:
        enough = min(wanted, most)
    runs = [
        (high - low, high, low)
        for low in counts
        for high in counts
        if high >= low and all(counts[t] >= enough for t in range(low, high + 1))
    ]
    _, high, low = max(runs)
    threshold = high - (high - low) // 2
    kept = wanted if wanted else counts[threshold]
    return threshold / 100, found[threshold][:kept]


clustered = st.builds(
    groups_of,
    st.lists(st.integers(1, 5), min_size=2, max_size=4),
    spread=st.sampled_from([0.2, 0.5, 0.8]),
    seed=st.integers(0, 10**6),
    dimension=st.sampled_from([3, 12]),
)


@settings(deadline=None, max_examples=15)
@given(clustered, st.sampled_from([None, 1, 2, 4]))
def test_the_plateau_is_that_of_a_slow_search(vectors: Vectors, wanted: int | None) -> None:
    threshold, expected = slow_plateau(vectors, wanted, support=3)
    found = extract(vectors, num_wanted=wanted, minimum_support=3)
    assert found.threshold == threshold, found.sentence
    assert found.members == tuple(members for members, _ in expected)
    assert found.representatives == tuple(nearest for _, nearest in expected)
    assert found.is_proven


@settings(deadline=None, max_examples=15)
@given(clustered, st.integers(1, 12))
def test_compat_is_the_authors_loop(vectors: Vectors, wanted: int) -> None:
    similar = similarities(vectors)
    pairs = [similar[pair] for pair in combinations(range(len(vectors)), 2)]
    threshold = min(int(np.floor(100 * np.quantile(pairs, 0.25) + 1e-9)), 99) if pairs else 99
    while len(slow_partition(similar, threshold / 100, vectors)) < wanted and threshold < 99:
        threshold += 1
    expected = slow_partition(similar, threshold / 100, vectors)[:wanted]
    found = extract(vectors, num_wanted=wanted, rule="finextract_compat")
    assert found.threshold == threshold / 100
    assert found.members == tuple(members for members, _ in expected)
    assert found.representatives == tuple(nearest for _, nearest in expected)


@settings(deadline=None, max_examples=25)
@given(clustered, st.sampled_from([None, 1, 3, 20]))
def test_an_extracted_set_keeps_its_promises(vectors: Vectors, wanted: int | None) -> None:
    found = extract(vectors, num_wanted=wanted, null=unrelated(10, dimension=vectors.shape[1]))
    similar = similarities(vectors)
    everyone = [each for members in found.members for each in members]
    assert len(set(everyone)) == len(everyone)
    assert len(found.members) == len(found.representatives) == len(found.mean_similarities)
    assert len(found.members) <= (wanted or found.num_supported)
    sizes = [len(members) for members in found.members]
    assert sizes == sorted(sizes, reverse=True)
    assert all(size >= 2 for size in sizes)  # a single image is never evidence
    assert found.largest == max(sizes, default=0) or wanted is None
    assert sum(size >= found.minimum_support for size in sizes) <= found.num_supported
    for members, representative, mean in zip(
        found.members, found.representatives, found.mean_similarities, strict=True
    ):
        assert representative in members
        within = [similar[pair] for pair in combinations(members, 2)]
        assert min(within) >= found.threshold
        assert mean == pytest.approx(np.mean(within), abs=2e-6)
    for one, other in combinations(found.representatives, 2):
        assert similar[one, other] < found.threshold  # no picture twice


@settings(deadline=None, max_examples=8)
@given(clustered)
def test_more_support_is_never_easier_to_have(vectors: Vectors) -> None:
    def counted(support: int) -> int:
        options: Any = {"rule": "finextract_compat", "minimum_support": support}
        return extract(vectors, num_wanted=3, **options).num_supported

    counts = [counted(support) for support in (3, 4, 5, 6)]
    assert counts == sorted(counts, reverse=True)


@pytest.mark.parametrize("wanted", [5, None])
def test_the_numbering_of_images_makes_no_difference(wanted: int | None) -> None:
    vectors = np.concatenate([groups_of([9, 8, 7, 6, 5], spread=0.4), unrelated(15)])
    order = np.random.default_rng(3).permutation(len(vectors))
    first, second = (extract(each, num_wanted=wanted) for each in (vectors, vectors[order]))
    assert first.sentence == second.sentence
    assert first.num_supported == second.num_supported == 5
    renumbered = tuple(tuple(sorted(order[list(members)].tolist())) for members in second.members)
    assert renumbered == first.members
    assert tuple(order[list(second.representatives)].tolist()) == first.representatives


def test_rounding_errors_make_no_difference() -> None:
    vectors = groups_of([9, 8, 7, 2], spread=0.5)
    noise = 1e-9 * np.random.default_rng(1).standard_normal(vectors.shape)
    assert extract(vectors, num_wanted=4) == extract(unit(vectors + noise), num_wanted=4)
    assert extract(vectors.astype(np.float32), num_wanted=4) == extract(vectors, num_wanted=4)


def test_single_images_are_left_out_and_pairs_only_fill_up() -> None:
    vectors = np.repeat(np.eye(6), [5, 2, 4, 1, 1, 1], axis=0)
    found = extract(vectors, num_wanted=5)
    assert found.members == ((0, 1, 2, 3, 4), (7, 8, 9, 10), (5, 6))
    assert found.representatives == (0, 7, 5)  # equally near: the first
    assert found.mean_similarities == (1.0, 1.0, 1.0)
    assert (found.num_supported, found.minimum_support, found.largest) == (2, 3, 5)
    assert extract(vectors, num_wanted=1).members == ((0, 1, 2, 3, 4),)
    assert extract(vectors, num_wanted=1).num_supported == 2
    assert extract(vectors, num_wanted=None).members == found.members[:2]
    authors = extract(vectors, num_wanted=5, rule="finextract_compat")
    assert [len(members) for members in authors.members] == [5, 4, 2, 1, 1]
    assert authors.mean_similarities[-1] is None


def test_a_picture_that_falls_apart_is_extracted_once() -> None:
    """Turned by up to 0.43 two images are joined: one clique, and another beside it."""
    angles = np.array([0.0, 0.1, 0.2, 0.2, 0.3, 0.4, 0.5, 0.55, 0.6, 0.6, 0.6])
    arc = np.stack([np.cos(angles), np.sin(angles), np.zeros_like(angles)], axis=1)
    other = np.tile([0.0, 0.0, 1.0], (4, 1))
    null = np.array([[1.0, 0.0, 0.0], [0.9, np.sqrt(1 - 0.9**2), 0.0]])
    options: Any = {"null": null, "rule": "null", "minimum_support": 3}
    found = extract(np.concatenate([arc, other]), num_wanted=3, **options)
    assert found.threshold == 0.91
    assert found.members == ((2, 3, 4, 5, 6, 7, 8, 9, 10), (11, 12, 13, 14))
    assert found.num_supported == 2


def test_an_unknown_number_of_pictures_is_estimated() -> None:
    vectors = np.concatenate(
        [groups_of([12] * 7, spread=0.6, dimension=64), unrelated(30, dimension=64)]
    )
    found = extract(vectors, num_wanted=None, null=unrelated(100, seed=5, dimension=64))
    assert found.num_supported == len(found.members) == 7


def test_a_fine_tune_on_one_picture_gives_one() -> None:
    vectors = groups_of([40], spread=0.2)
    for wanted in (1, None):
        found = extract(vectors, num_wanted=wanted, null=unrelated(40))
        assert found.num_supported == len(found.members) == 1


def test_what_the_base_does_too_is_no_evidence() -> None:
    """The base has a group of six images as alike as 0.8; so must ours be more alike than that."""
    vectors = groups_of([8, 8], spread=0.75, seed=2)
    quiet = extract(vectors, num_wanted=2, null=unrelated(16), rule="null")
    assert quiet.num_supported == 2
    copied = groups_of([8, 8], spread=0.3, seed=7)
    loud = extract(vectors, num_wanted=2, null=copied, rule="null")
    assert loud.threshold > quiet.threshold
    assert loud.num_supported == 0
    for rule in ("null", "plateau"):
        same = extract(np.ones((9, 1)), num_wanted=1, null=np.ones((9, 1)), rule=rule)
        assert (same.members, same.num_supported, same.largest) == ((), 0, 0)


def test_the_null_is_the_lowest_threshold_without_a_group() -> None:
    null = groups_of([5, 4, 3, 1, 1], spread=0.7, seed=4)
    vectors = groups_of([5, 5, 4], spread=0.3)
    found = extract(vectors, num_wanted=3, null=null, rule="null", minimum_support=4)
    graphs = {
        t: networkx.from_numpy_array(
            (similarities(null) >= t / 100) & ~np.eye(len(null), dtype=bool)
        )
        for t in range(101)
    }
    largest = {t: max(len(c) for c in networkx.find_cliques(graph)) for t, graph in graphs.items()}
    assert found.threshold == min(t for t in largest if largest[t] < 4) / 100
    # of half as many images, groups of half the size
    few = extract(
        np.repeat(vectors, 2, axis=0), num_wanted=3, null=null, rule="null", minimum_support=6
    )
    assert few.threshold == min(t for t in largest if largest[t] < 3) / 100


def test_a_search_cut_short_says_so_and_gives_the_same_every_time() -> None:
    vectors = unit(np.random.default_rng(0).standard_normal((120, 6)))
    options: Any = {"num_wanted": 3, "rule": "finextract_compat"}
    short = extract(vectors, node_budget=1, **options)
    assert not short.is_proven
    assert short == extract(vectors, node_budget=1, **options)
    assert extract(vectors, node_budget=10**6, **options).is_proven


@pytest.mark.parametrize("count", [1, 2])
def test_hardly_any_images_give_nothing(count: int) -> None:
    found = extract(unrelated(count), num_wanted=10)
    assert isinstance(found, Extraction)
    assert found.members == ()
    assert extract(unrelated(count), num_wanted=10, rule="finextract_compat").num_supported == 0


def test_default_support_is_a_fifth_of_an_equal_share() -> None:
    assert [default_support(n, 10) for n in (10, 150, 151, 500)] == [3, 3, 4, 10]
    assert default_support(500, None) == 10
    assert default_support(50, 1) == 10


@pytest.mark.parametrize(
    ("vectors", "options", "match"),
    [
        (np.eye(3), {"num_wanted": 0}, "num_wanted"),
        (np.eye(3), {"num_wanted": 3, "rule": "best"}, "plateau, null"),
        (np.eye(3), {"num_wanted": None, "rule": "finextract_compat"}, "number of training"),
        (np.eye(3), {"num_wanted": 3, "rule": "null"}, "base model"),
        (np.eye(3), {"num_wanted": 3, "minimum_support": 2}, "no evidence"),
        (2 * np.eye(3), {"num_wanted": 3}, "unit vectors"),
        (np.full((3, 2), np.nan), {"num_wanted": 3}, "unit vectors"),
        (np.empty((0, 3)), {"num_wanted": 3}, "num_images"),
    ],
)
def test_what_cannot_be_is_refused(vectors: Vectors, options: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        extract(vectors, **options)
