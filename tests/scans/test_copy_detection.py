"""The built-in copy descriptor finds edited copies that simpler comparisons miss."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("PHOTOGRAPHS_FOR_TESTS", ROOT.parent / "shared" / "data"))
Scores = NDArray[np.float64]
Score = Callable[[list[Image.Image], list[Image.Image]], Scores]


@cache
def module(path: str) -> ModuleType:
    """A script outside the package."""
    name = "copy_detection_" + Path(path).stem
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded  # dataclasses look their module up
    spec.loader.exec_module(loaded)
    return loaded


detection = module("docs/copy_detection.py")


def unseen_drawings(count: int) -> list[Image.Image]:
    """Pictures by the generator of the training pictures, from seeds it never used."""
    drawings = module("fixtures/copy_descriptor/drawings.py")
    pictures = drawings.draw_pictures(40_000_000, -(-count // drawings.CHUNK))
    order = np.random.default_rng(0).permutation(len(pictures))[:count]
    return [Image.fromarray(pictures[row].permute(1, 2, 0).numpy()) for row in order]


def cosine_hash_scores(queries: list[Image.Image], references: list[Image.Image]) -> Scores:
    """Signs of the 64 lowest frequencies, compared bit by bit: what perceptual hashes do."""

    def bits(picture: Image.Image) -> NDArray[np.float64]:
        grey = np.asarray(picture.convert("L").resize((32, 32)), dtype=float)
        low = dctn(grey, norm="ortho")[:8, :8].ravel()[1:]
        return np.where(low > np.median(low), 1.0, -1.0)

    a, b = (np.stack([bits(picture) for picture in side]) for side in (queries, references))
    return a @ b.T


def all_edits_in_one_ranking(benchmark: object, *scores: Score) -> list[tuple[float, float]]:
    """Micro-AP and recall at 90 % precision of each method over the six families of edits."""
    queries, truth = [], []
    for number, edit in enumerate(detection.EDITS):
        queries += benchmark.queries(edit, seed=number)  # type: ignore[attr-defined]
        truth.append(benchmark.truth())  # type: ignore[attr-defined]
    is_copy = np.concatenate(truth)
    made = [score(queries, benchmark.references) for score in scores]  # type: ignore[attr-defined]
    return [
        (
            detection.micro_average_precision(each, is_copy),
            detection.recall_at_precision(each, is_copy),
        )
        for each in made
    ]


def assert_best(benchmark: object, others: list[Score]) -> None:
    methods = [detection.copy_descriptor_scores, *others]
    (ap, recall), *rest = all_edits_in_one_ranking(benchmark, *methods)
    for other, (other_ap, other_recall) in zip(others, rest, strict=True):
        assert ap > other_ap, other.__name__
        assert recall > other_recall, other.__name__


def hashes_installed() -> list[Score]:
    """PDQ and pHash, which only the evaluation needs."""
    needs = {"pdqhash": detection.pdq_scores, "imagehash": detection.phash_scores}
    return [score for name, score in needs.items() if importlib.util.find_spec(name)]


def test_edited_copies_of_unseen_drawings_are_found_better_than_by_pixels_and_hashes() -> None:
    pictures = unseen_drawings(200)
    benchmark = detection.Benchmark(
        name="drawings",
        originals=pictures[:50],
        distractors=pictures[100:],
        strangers=pictures[50:100],
    )
    assert_best(benchmark, [detection.pixel_scores, cosine_hash_scores])


def photographs() -> NDArray[np.uint8]:
    file = DATA / "cifar10_10k.npz"
    if not file.is_file():
        pytest.skip("CIFAR-10 photographs are absent; set PHOTOGRAPHS_FOR_TESTS")
    images: NDArray[np.uint8] = np.load(file)["images"]
    return images


def dreambooth() -> Path:
    if not (DATA / "dreambooth").is_dir():
        pytest.skip("DreamBooth photographs are absent; set PHOTOGRAPHS_FOR_TESTS")
    return DATA / "dreambooth"


@pytest.mark.parametrize("size", [32, 16])
def test_edited_copies_of_small_photographs_are_found_best(size: int) -> None:
    full = detection.small_photographs(photographs(), size)
    benchmark = replace(
        full,
        originals=full.originals[:80],
        distractors=full.distractors[:400],
        strangers=full.strangers[:80],
    )
    assert_best(benchmark, [detection.pixel_scores, cosine_hash_scores, *hashes_installed()])


@pytest.mark.parametrize("company", ["other things", "the same things"])
def test_edited_copies_of_large_photographs_are_ranked_best(company: str) -> None:
    """Among photographs of the same things PDQ's recall is better, as the docs say."""
    if company == "other things":
        benchmark = detection.among_others(dreambooth(), photographs())
        benchmark = replace(
            benchmark,
            distractors=benchmark.distractors[:200],
            strangers=benchmark.strangers[:30],
        )
    else:
        benchmark = detection.among_their_like(dreambooth())
    methods = [detection.copy_descriptor_scores, detection.pixel_scores, *hashes_installed()]
    (ap, recall), *rest = all_edits_in_one_ranking(benchmark, *methods)
    for other, (other_ap, other_recall) in zip(methods[1:], rest, strict=True):
        assert ap > other_ap, other.__name__
        if other is not detection.pdq_scores or company == "other things":
            assert recall > other_recall, other.__name__


def test_hand_example_with_a_tie() -> None:
    scores = np.array([[0.9, 0.5, 0.1], [0.5, 0.4, 0.2]])
    is_copy = np.array([[True, False, False], [True, False, True]])
    # 1 of 1; then two pairs of one score enter together: 2 of 3; the last copy is the 5th of 6.
    expected = (1 / 1 + 2 / 3 + 3 / 5) / 3
    assert detection.micro_average_precision(scores, is_copy) == pytest.approx(expected)
    assert detection.recall_at_precision(scores, is_copy) == pytest.approx(1 / 3)
    assert detection.recall_at_precision(scores, is_copy, precision=0.6) == pytest.approx(1.0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=25))
def test_both_scores_equal_their_definition_by_brute_force(pairs: list[tuple[int, bool]]) -> None:
    pairs = [*pairs, (3, True)]
    scores = np.array([score for score, _ in pairs], dtype=float)
    is_copy = np.array([copy for _, copy in pairs])
    area, last_recall, best = 0.0, 0.0, 0.0
    for cut in sorted({score for score, _ in pairs}, reverse=True):
        taken = [copy for score, copy in pairs if score >= cut]
        precision, recall = sum(taken) / len(taken), sum(taken) / is_copy.sum()
        area += (recall - last_recall) * precision
        last_recall = recall
        best = max(best, recall if precision >= 0.9 else 0.0)
    assert detection.micro_average_precision(scores, is_copy) == pytest.approx(area)
    assert detection.recall_at_precision(scores, is_copy) == pytest.approx(best)


@pytest.mark.parametrize("edit", detection.ALL)
def test_edits_change_the_picture_keep_its_size_and_follow_their_seed(
    edit: Callable[[Image.Image, np.random.Generator], Image.Image],
) -> None:
    picture = unseen_drawings(1)[0]
    one, same = (edit(picture, np.random.default_rng(5)) for _ in range(2))
    assert one.size == picture.size
    assert one.tobytes() == same.tobytes() != picture.tobytes()


def test_queries_without_a_match_match_nothing() -> None:
    blank = [Image.new("RGB", (8, 8))] * 4
    benchmark = detection.Benchmark(
        name="x", originals=blank[:2], distractors=blank[:1], strangers=blank[:2]
    )
    expected = [[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]]
    np.testing.assert_array_equal(benchmark.truth(), expected)
