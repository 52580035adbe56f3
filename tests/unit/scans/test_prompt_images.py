"""Images by text and number: the right rows, counted as they are asked for."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.scans.worlds import SIDE, Painter, World, images_of

from pytest_memscan.generation import NON_FINITE
from pytest_memscan.results import Coverage
from pytest_memscan.scans.prompt_images import PromptImages, Texts


@given(sizes=st.tuples(*[st.integers(0, 4)] * 4))
def test_every_text_has_one_id_which_is_its_place(sizes: tuple[int, int, int, int]) -> None:
    names = ("prompts", "canaries", "recombined", "strings")
    lists = {
        name: tuple(f"{name} {number}" for number in range(size))
        for name, size in zip(names, sizes, strict=True)
    }
    texts = Texts(**lists)
    ids = [texts.prompt_ids, texts.canary_ids, texts.recombined_ids, texts.string_ids]
    assert [each for form in ids for each in form] == list(range(sum(sizes)))
    for form, name in zip(ids, names, strict=True):
        assert tuple(texts.everything[each] for each in form) == lists[name]
    assert texts.prompt_ids.start == 0


def test_texts_are_not_shown_where_objects_are() -> None:
    texts = Texts(prompts=("secret",), canaries=("secret",), recombined=("secret",))
    assert "secret" not in repr(texts)


def test_the_images_of_a_text_are_its_rows_of_the_plan() -> None:
    images = images_of(World(), rows_per_text=20)
    taken = images.take(3, 5, 4)
    assert taken.sample_ids.tolist() == [65, 66, 67, 68]
    assert taken.pixels.shape == (4, SIDE, SIDE, 3)
    for sample_id, pixels in zip(taken.sample_ids, taken.pixels, strict=True):
        np.testing.assert_array_equal(images.pixels_of(int(sample_id)), pixels)


def test_parts_put_together_are_the_whole() -> None:
    images = images_of(World(), rows_per_text=20)
    both = images.take(1, 0, 4).and_then(images.take(1, 4, 3))
    whole = images.take(1, 0, 7)
    np.testing.assert_array_equal(both.sample_ids, whole.sample_ids)
    np.testing.assert_array_equal(both.pixels, whole.pixels)
    np.testing.assert_array_equal(whole.first(4).pixels, whole.pixels[:4])
    assert len(whole.first(4)) == 4
    assert len(whole.first(100)) == 7


def test_invalid_images_are_left_out_and_counted() -> None:
    images = images_of(World(invalid=lambda _, number: number % 3 == 0), rows_per_text=20)
    assert images.take(0, 0, 7).sample_ids.tolist() == [1, 2, 4, 5]
    assert images.invalid == Counter({NON_FINITE: 3})
    assert images.coverage() == Coverage(planned=7, generated=7, valid=4, invalid={NON_FINITE: 3})


def test_without_a_valid_image_the_shape_stays() -> None:
    taken = images_of(World(invalid=lambda *_: True)).take(0, 0, 4)
    assert len(taken) == 0
    assert taken.pixels.shape == (0, SIDE, SIDE, 3)
    assert taken.pixels.dtype == np.uint8


@pytest.mark.parametrize(("most", "affords"), [(None, True), (10, True), (9, False), (0, False)])
def test_a_budget_is_for_all_texts_together(most: int | None, affords: bool) -> None:
    images = images_of(World())
    images.take(0, 0, 4)
    images.take(7, 0, 4)
    images.most = most
    assert images.can_afford(2) is affords


def test_coverage_keeps_what_is_known_of_training_images_and_of_damage() -> None:
    painter = Painter(paint=World(), rows_per_text=20)
    painter.store.damaged = 2
    images = PromptImages(sampler=painter, rows_per_text=20)  # type: ignore[arg-type]
    images.take(0, 0, 3)
    train = Coverage(planned=9, generated=9, valid=9, train_found=5, train_used=4)
    covered = images.coverage(train)
    assert covered == Coverage(
        planned=3, generated=3, valid=3, damaged=2, train_found=5, train_used=4
    )
