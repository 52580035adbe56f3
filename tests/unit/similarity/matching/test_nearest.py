"""Exact matching of vectors against a float64 brute force written from the definition."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pytest_memscan.similarity.matching import bounds, candidates, exact, quantised, search
from pytest_memscan.similarity.matching.nearest import most_similar, nearest_vectors

Vectors = NDArray[np.float32]


def unit(vectors: NDArray[Any]) -> Vectors:
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return (vectors / lengths).astype(np.float32)


def random_unit(seed: int, count: int, dimension: int = 24) -> Vectors:
    return unit(np.random.default_rng(seed).standard_normal((count, dimension)))


def reference(
    generated: Vectors,
    train: Vectors,
    k: int,
    *,
    metric: str = "cosine",
    exclude: NDArray[np.int64] | None = None,
) -> tuple[list[list[int]], list[list[float]]]:
    """Ids and similarities (distances), one pair at a time in float64."""
    all_ids, all_values = [], []
    for row, vector in enumerate(generated.astype(np.float64)):
        pairs = []
        for train_id, other in enumerate(train.astype(np.float64)):
            if exclude is not None and exclude[row] == train_id:
                continue
            if metric == "cosine":
                pairs.append((-float((vector * other).sum()), train_id))
            else:
                pairs.append((float(np.square(vector - other).sum()), train_id))
        pairs = sorted(pairs)[:k]
        all_ids.append([train_id for _, train_id in pairs])
        value = (lambda key: min(1.0, -key)) if metric == "cosine" else math.sqrt
        all_values.append([value(key) for key, _ in pairs])
    return all_ids, all_values


def assert_agrees(
    generated: Vectors,
    train: Vectors,
    k: int,
    *,
    metric: str = "cosine",
    exclude: NDArray[np.int64] | None = None,
) -> None:
    ids, values = reference(generated, train, k, metric=metric, exclude=exclude)
    if metric == "cosine":
        similar = most_similar(generated, train, k=k, exclude=exclude)
        found, found_ids = similar.similarities, similar.train_ids
    else:
        near = nearest_vectors(generated, train, k=k, exclude=exclude)
        found, found_ids = near.distances, near.train_ids
    np.testing.assert_array_equal(found_ids, ids)
    np.testing.assert_array_equal(found, values)


@pytest.fixture(params=[0.0, 2.0], ids=["whole tiles", "opened blocks"])
def small_tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """So small that every test sees many tiles, partial ones, and several blocks of rows."""
    monkeypatch.setattr(candidates, "OPENED_SHARE", request.param)
    monkeypatch.setattr(candidates, "TILE_GENERATED", 5)
    monkeypatch.setattr(candidates, "TILE_TRAIN", 48)
    monkeypatch.setattr(search, "TILE_TRAIN", 48)
    monkeypatch.setattr(candidates, "BLOCK", 8)
    monkeypatch.setattr(candidates, "GENERATED_AT_ONCE", 2)
    monkeypatch.setattr(quantised, "_CODED_AT_ONCE", 64)
    monkeypatch.setattr(exact, "_PAIR_VALUES", 100)
    monkeypatch.setattr(exact, "_ROWS_AT_ONCE", 4)
    monkeypatch.setattr(exact, "_TILE_VALUES", 200)


@pytest.fixture
def few_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few that most rows cannot be proven at first."""
    monkeypatch.setattr(search, "CANDIDATES_PER_NEIGHBOUR", 1)
    monkeypatch.setattr(search, "SPARE_CANDIDATES", 1)


METRICS = pytest.mark.parametrize("metric", ["cosine", "l2"])


@METRICS
@pytest.mark.parametrize(("num_train", "k"), [(1, 1), (7, 50), (60, 3), (90, 1), (130, 40)])
def test_the_answer_is_that_of_the_definition(metric: str, num_train: int, k: int) -> None:
    assert_agrees(random_unit(0, 11), random_unit(1, num_train), k, metric=metric)


@METRICS
@pytest.mark.parametrize("dimension", [1, 2, 3, 31, 700])
def test_any_dimension_will_do(metric: str, dimension: int) -> None:
    assert_agrees(random_unit(0, 9, dimension), random_unit(1, 50, dimension), 3, metric=metric)


@METRICS
@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("num_train", [47, 48, 49, 200])
def test_tiles_do_not_change_the_answer(metric: str, num_train: int) -> None:
    rows = np.arange(23)
    assert_agrees(random_unit(2, 23), random_unit(3, num_train), 4, metric=metric, exclude=rows)


@METRICS
@pytest.mark.usefixtures("small_tiles", "few_candidates")
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_near_duplicates_ties_and_copies_are_told_apart_exactly(
    metric: str, data: st.DataObject
) -> None:
    """Training vectors from a small pool, each as it is, one ulp away, or rounded coarsely."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    pool = unit(np.round(rng.standard_normal((6, 12)), data.draw(st.integers(0, 3))) + 1e-3)
    train = pool[rng.integers(0, len(pool), data.draw(st.integers(2, 130)))]
    nudged = rng.random(train.shape) < data.draw(st.sampled_from([0.0, 0.02, 0.5]))
    train = np.where(nudged, np.nextafter(train, np.float32(2)), train)
    generated = np.concatenate([pool, train[:5], random_unit(1, 3, 12)])
    exclude = None
    if data.draw(st.booleans()):
        exclude = rng.integers(0, len(train), len(generated))
    assert_agrees(generated, train, data.draw(st.integers(1, 140)), metric=metric, exclude=exclude)


@METRICS
@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**16), exponent=st.integers(-40, 36))
def test_vectors_of_any_size_and_place_are_compared_exactly(
    metric: str, seed: int, exponent: int
) -> None:
    """L2: huge, tiny and denormal values, far from zero; cosine: a few directions dominate."""
    rng = np.random.default_rng(seed)
    scales = np.exp(rng.normal(0, 3, 10))
    both = rng.normal(0, 1, (60, 10)) * scales + rng.normal(0, 30, 10)
    vectors = unit(both) if metric == "cosine" else (both * 10.0**exponent / 1e3).astype(np.float32)
    assert_agrees(vectors[:8], vectors[8:], 5, metric=metric)


@METRICS
@pytest.mark.usefixtures("few_candidates")
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**16))
def test_another_order_of_training_vectors_permutes_the_ids_only(metric: str, seed: int) -> None:
    generated, train = random_unit(seed, 5), random_unit(seed + 1, 80)
    order = np.random.default_rng(seed).permutation(len(train))
    if metric == "cosine":
        one, other = (most_similar(generated, each, k=7) for each in (train, train[order]))
        np.testing.assert_array_equal(one.similarities, other.similarities)
    else:
        one, other = (nearest_vectors(generated, each, k=7) for each in (train, train[order]))
        np.testing.assert_array_equal(one.distances, other.distances)
    np.testing.assert_array_equal(one.train_ids, order[other.train_ids])


def test_every_bound_holds_for_every_pair() -> None:
    """The proof, on data: |v - s t I| stays within the margin, with v from float64."""
    rng = np.random.default_rng(5)
    for metric in ("cosine", "l2"):
        for scales in (np.ones(40), np.exp(rng.normal(0, 2, 40))):
            vectors = rng.normal(0, 1, (90, 40)) * scales + scales
            if metric == "cosine":
                vectors = unit(vectors)
            generated, train = vectors[:20].astype(np.float32), vectors[20:].astype(np.float32)
            grid = quantised.survey(train, metric=metric, tile_rows=32)  # type: ignore[arg-type]
            left = quantised.code_generated(generated, grid, device="cpu")
            right = quantised.code_train(train, grid, device="cpu")
            ((_, products),) = candidates.product_tiles(left, right)
            margins = left.margins(residual=right.residual, length=right.length)
            estimates = products[:, : len(train)].numpy() * left.units[:, None]
            for row, vector in enumerate(generated.astype(np.float64)):
                scores = train @ vector
                if metric == "l2":
                    scores = -np.square(train - vector).sum(axis=1)
                values = np.array([left.values(np.full(20, score))[row] for score in scores])
                assert (np.abs(values - estimates[row]) <= margins[row]).all()
                assert np.abs(values - estimates[row]).max() > margins[row] / 1000


@METRICS
def test_a_thousand_copies_of_one_vector_are_listed_by_id(metric: str) -> None:
    vector = random_unit(6, 1, 64)
    train = np.repeat(vector, 3000, axis=0)
    train[1234] = random_unit(7, 1, 64)
    exclude = np.full(40, 2)
    search_ = most_similar if metric == "cosine" else nearest_vectors
    found = search_(np.repeat(vector, 40, axis=0), train, k=5, exclude=exclude)
    assert found.train_ids.tolist() == [[0, 1, 3, 4, 5]] * 40
    assert found.num_exhaustive == 40


def test_an_ordinary_search_is_proven_at_once() -> None:
    found = most_similar(random_unit(8, 200, 256), random_unit(9, 5000, 256), k=10)
    assert found.num_exhaustive == 0


def test_vectors_that_differ_in_the_last_bit_are_settled_by_float64() -> None:
    train = np.repeat(random_unit(10, 1, 64), 2000, axis=0)
    train[np.arange(2000), np.arange(2000) % 64] *= 1 + np.arange(2000, dtype=np.float32) * 2e-8
    generated = np.repeat(train[:1], 4, axis=0)
    train = np.concatenate([train, random_unit(11, 50, 64)])
    assert_agrees(generated, train, 6)
    assert most_similar(generated, train, k=6).num_exhaustive == 4


def test_a_few_huge_coordinates_do_not_loosen_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    scales = np.ones(256)
    scales[[5, 99]] = 40
    vectors = unit(np.random.default_rng(17).standard_normal((3000, 256)) * scales + scales)
    assert_agrees(vectors[:20], vectors[20:], 10)
    margins = []
    for peaked in (quantised._PEAKED, np.inf):
        monkeypatch.setattr(quantised, "_PEAKED", peaked)
        grid = quantised.survey(vectors, metric="cosine", tile_rows=4096)
        left = quantised.code_generated(vectors[:20], grid, device="cpu")
        right = quantised.code_train(vectors, grid, device="cpu")
        margins.append(left.margins(residual=right.residual, length=right.length).mean())
    assert margins[0] < margins[1] / 3


@METRICS
@pytest.mark.usefixtures("small_tiles", "few_candidates")
def test_a_less_exact_float32_is_not_relied_on(metric: str) -> None:
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert_agrees(random_unit(18, 30, 40), random_unit(19, 400, 40), 9, metric=metric)
    finally:
        torch.set_float32_matmul_precision(before)
    assert bounds._product_type() == torch.float32


def test_a_vector_and_itself_have_similarity_one_at_most() -> None:
    train = random_unit(12, 300, 512)
    similarities = most_similar(train, train, k=1).similarities[:, 0]
    assert similarities.max() == 1.0
    assert similarities.min() > 1 - 1e-6


def test_a_memory_map_is_read_like_an_array(tmp_path: Path) -> None:
    generated, train = random_unit(13, 6), random_unit(14, 400)
    np.save(tmp_path / "train.npy", train)
    mapped = np.load(tmp_path / "train.npy", mmap_mode="r")
    found = most_similar(generated, mapped, k=3)
    np.testing.assert_array_equal(found.train_ids, most_similar(generated, train, k=3).train_ids)


@pytest.mark.parametrize("side", ["generated", "train"])
@pytest.mark.parametrize(
    ("value", "words"), [(np.nan, "is not finite"), (np.inf, "is not finite"), (0.9, "has length")]
)
def test_a_vector_that_is_none_is_named(side: str, value: float, words: str) -> None:
    sides = {"generated": random_unit(0, 30), "train": random_unit(1, 30)}
    sides[side][17, 3] = value
    sides[side][20, 3] = value
    with pytest.raises(ValueError, match=f"{side} vector 17 {words}"):
        most_similar(**sides, k=1)
    if value == 0.9:
        nearest_vectors(**sides, k=1)
    else:
        with pytest.raises(ValueError, match=f"{side} vector 17 {words}"):
            nearest_vectors(**sides, k=1)


@pytest.mark.parametrize(
    ("generated", "train", "k", "words"),
    [
        (random_unit(0, 0), random_unit(0, 3), 1, "0 generated"),
        (random_unit(0, 3), random_unit(0, 0), 1, "0 train"),
        (random_unit(0, 3), random_unit(0, 3, 8), 1, "24 values, train vectors 8"),
        (random_unit(0, 3).astype(np.float64), random_unit(0, 3), 1, "float64"),
        (random_unit(0, 3), random_unit(0, 3), 0, "k, or what is left, is 0"),
        (np.empty((1, 0), np.float32), np.empty((1, 0), np.float32), 1, "vectors of 0 values"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    generated: Vectors, train: Vectors, k: int, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        most_similar(generated, train, k=k)


def test_one_vector_has_no_others_to_be_compared_with() -> None:
    with pytest.raises(ValueError, match="what is left"):
        most_similar(random_unit(0, 1), random_unit(0, 1), k=1, exclude=np.array([0]))


@pytest.mark.gpu
def test_cuda_gives_the_same_answer_to_the_last_bit() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    generated, train = random_unit(15, 300, 100), random_unit(16, 9000, 100)
    train[4000:8000] = train[0]
    generated[0] = train[0]
    cpu, cuda = (most_similar(generated, train, k=9, device=each) for each in ("cpu", "cuda"))
    np.testing.assert_array_equal(cpu.train_ids, cuda.train_ids)
    np.testing.assert_array_equal(cpu.similarities, cuda.similarities)
    assert cuda.num_exhaustive == 1
    near, near_cuda = (nearest_vectors(generated, train, k=9, device=d) for d in ("cpu", "cuda"))
    np.testing.assert_array_equal(near.train_ids, near_cuda.train_ids)
