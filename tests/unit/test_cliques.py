"""Largest cliques against brute force over all subsets, and the promises about ties and budgets."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pytest_memscan.cliques import (
    Clique,
    find_clique,
    greedy_cliques,
    largest_clique,
    mean_distance,
    medoid,
)

Adjacency = NDArray[np.bool_]


def random_graph(size: int, density: float, seed: int) -> Adjacency:
    upper = np.triu(np.random.default_rng(seed).random((size, size)) < density, 1)
    return upper | upper.T


def planted(size: int, clique: int, density: float, seed: int) -> tuple[Adjacency, tuple[int, ...]]:
    graph = random_graph(size, density, seed)
    members = np.sort(np.random.default_rng(seed + 1).permutation(size)[:clique])
    graph[np.ix_(members, members)] = True
    np.fill_diagonal(graph, False)
    return graph, tuple(members.tolist())


def is_clique(graph: Adjacency, members: tuple[int, ...]) -> bool:
    return all(graph[one, other] for one, other in combinations(members, 2))


def cliques_in_order(graph: Adjacency) -> Iterator[tuple[int, ...]]:
    """Every clique, each before those that come after it in lexicographic order."""
    stack: list[tuple[tuple[int, ...], list[int]]] = [((), list(range(len(graph))))]
    while stack:
        members, candidates = stack.pop()
        yield members
        for position, vertex in reversed(list(enumerate(candidates))):
            later = [other for other in candidates[position + 1 :] if graph[vertex, other]]
            stack.append(((*members, vertex), later))


def first_of_size(graph: Adjacency, size: int) -> tuple[int, ...] | None:
    return next((clique for clique in cliques_in_order(graph) if len(clique) == size), None)


def first_largest(graph: Adjacency) -> tuple[int, ...]:
    return max(cliques_in_order(graph), key=len)


graphs = st.builds(
    random_graph, st.integers(0, 15), st.sampled_from([0.1, 0.3, 0.6, 0.8]), st.integers(0, 10**6)
)


@settings(deadline=None)
@given(graphs)
def test_the_largest_clique_is_that_of_brute_force_ties_included(graph: Adjacency) -> None:
    assert largest_clique(graph) == Clique(members=first_largest(graph), proven=True)


@settings(deadline=None)
@given(graphs, st.integers(1, 12))
def test_enough_and_find_are_those_of_brute_force(graph: Adjacency, size: int) -> None:
    largest = first_largest(graph)
    wanted = first_of_size(graph, size)
    assert find_clique(graph, size) == Clique(members=wanted or (), proven=True)
    expected = wanted if wanted else largest
    assert largest_clique(graph, enough=size) == Clique(members=expected, proven=True)


@settings(deadline=None)
@given(graphs, st.integers(1, 4))
def test_greedy_cliques_take_the_largest_and_repeat(graph: Adjacency, minimum_size: int) -> None:
    left = list(range(len(graph)))
    expected = []
    while len(found := first_largest(graph[np.ix_(left, left)])) >= minimum_size:
        expected.append(tuple(left[position] for position in found))
        left = [vertex for vertex in left if vertex not in expected[-1]]
    partition = greedy_cliques(graph, minimum_size=minimum_size)
    assert [clique.members for clique in partition.cliques] == expected
    assert partition.proven


@settings(deadline=None, max_examples=40)
@given(st.integers(20, 60), st.floats(0.05, 0.7), st.integers(0, 10**6))
def test_the_size_does_not_depend_on_the_numbering(size: int, density: float, seed: int) -> None:
    graph = random_graph(size, density, seed)
    order = np.random.default_rng(seed).permutation(size)
    found = largest_clique(graph)
    assert is_clique(graph, found.members)
    assert len(largest_clique(graph[np.ix_(order, order)])) == len(found)
    assert find_clique(graph, len(found)) == found
    assert find_clique(graph, len(found) + 1) == Clique(members=(), proven=True)


@pytest.mark.parametrize(("size", "density"), [(120, 0.02), (120, 0.2), (40, 0.6), (24, 0.85)])
def test_the_largest_clique_is_that_of_networkx(size: int, density: float) -> None:
    """On graphs where growing a clique greedily often stops short of the largest."""
    networkx = pytest.importorskip("networkx")
    for seed in range(40):
        graph = random_graph(size, density, seed)
        cliques = list(networkx.find_cliques(networkx.from_numpy_array(graph)))
        largest = max(len(clique) for clique in cliques)
        first = min(tuple(sorted(clique)) for clique in cliques if len(clique) == largest)
        assert largest_clique(graph) == Clique(members=first, proven=True)


@pytest.mark.parametrize("density", [0.0, 0.01, 0.1, 0.3])
@pytest.mark.parametrize("size", [15, 300])
def test_planted_cliques_are_found_among_500(size: int, density: float) -> None:
    graph, members = planted(500, size, density, 0)
    assert largest_clique(graph) == Clique(members=members, proven=True)


@pytest.mark.parametrize("density", [0.01, 0.1, 0.2])
def test_500_vertices_joined_at_random_are_settled_within_the_budget(density: float) -> None:
    graph = random_graph(500, density, 1)
    found = largest_clique(graph)
    assert found.proven
    assert is_clique(graph, found.members)
    assert find_clique(graph, len(found) + 1) == Clique(members=(), proven=True)


def test_complete_empty_and_paired_graphs() -> None:
    assert largest_clique(~np.eye(500, dtype=bool)).members == tuple(range(500))
    assert largest_clique(np.zeros((500, 500), dtype=bool)).members == (0,)
    assert largest_clique(np.zeros((0, 0), dtype=bool)).members == ()
    strangers = np.kron(np.eye(40, dtype=bool), np.ones((2, 2), dtype=bool))
    assert largest_clique(~strangers).members == tuple(range(0, 80, 2))  # one of 2 ** 40


def test_a_growing_set_of_images_is_looked_at_every_ten() -> None:
    """As the sequential rule does; a count of nodes, not of seconds, keeps it affordable."""
    graph, members = planted(500, 25, 0.02, 5)
    for num_images in range(10, 501, 10):
        among = sum(member < num_images for member in members)
        found = largest_clique(graph[:num_images, :num_images], enough=10, node_budget=2_000)
        assert found.proven
        assert min(among, 10) <= len(found) <= max(min(among, 10), 4)


def test_the_budget_ends_a_search_without_claiming_a_proof() -> None:
    graph = random_graph(200, 0.8, 0)
    short = largest_clique(graph, node_budget=50)
    assert not short.proven
    assert is_clique(graph, short.members)
    assert short == largest_clique(graph, node_budget=50)
    assert find_clique(graph, 60, node_budget=50) == Clique(members=(), proven=False)
    partition = greedy_cliques(graph, minimum_size=5, node_budget=50)
    assert not partition.proven
    assert all(is_clique(graph, clique.members) for clique in partition.cliques)
    members = [vertex for clique in partition.cliques for vertex in clique.members]
    assert len(members) == len(set(members))


def test_an_unproven_search_that_finds_no_more_makes_the_partition_unproven() -> None:
    graph = random_graph(200, 0.8, 0)
    partition = greedy_cliques(graph, minimum_size=60, node_budget=50)
    assert partition.cliques == ()
    assert not partition.proven


def test_the_diagonal_is_not_read() -> None:
    graph = random_graph(30, 0.3, 2)
    assert largest_clique(graph | np.eye(30, dtype=bool)) == largest_clique(graph)


@pytest.mark.parametrize(
    "adjacency",
    [
        np.zeros((2, 3), dtype=bool),
        np.zeros(4, dtype=bool),
        np.zeros((3, 3)),
        np.triu(np.ones((3, 3), dtype=bool)),
    ],
)
def test_what_is_no_graph_is_refused(adjacency: Adjacency) -> None:
    with pytest.raises(ValueError, match="square, symmetric array of bool"):
        largest_clique(adjacency)


def test_sizes_and_budgets_below_one_are_refused() -> None:
    graph = np.zeros((3, 3), dtype=bool)
    for call in (
        lambda: largest_clique(graph, enough=0),
        lambda: largest_clique(graph, node_budget=0),
        lambda: find_clique(graph, 0),
        lambda: greedy_cliques(graph, minimum_size=0),
    ):
        with pytest.raises(ValueError, match="at least 1"):
            call()


@given(st.integers(1, 12), st.integers(0, 10**6), st.data())
def test_medoid_and_mean_distance_are_those_of_the_definition(
    size: int, seed: int, data: st.DataObject
) -> None:
    points = np.random.default_rng(seed).integers(0, 4, size=(size, 2)).astype(float)
    distances = np.abs(points[:, None] - points[None]).sum(axis=-1)
    members = data.draw(st.lists(st.integers(0, size - 1), min_size=1, unique=True))
    pairs = [distances[one, other] for one, other in combinations(members, 2)]
    assert mean_distance(distances, members) == pytest.approx(np.mean(pairs) if pairs else 0.0)
    sums = {one: sum(distances[one, other] for other in members) for one in sorted(members)}
    assert medoid(distances, members) == min(sums, key=lambda member: (sums[member], member))


def test_no_members_have_no_medoid() -> None:
    for call in (medoid, mean_distance):
        with pytest.raises(ValueError, match="at least one member"):
            call(np.zeros((2, 2)), ())
