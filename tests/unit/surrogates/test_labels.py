"""Labels cannot be built wrong; random ones say nothing; the fingerprint tells them apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_memscan.errors import MemscanError
from pytest_memscan.surrogates.labels import REST, Labels, numbered, random_labels


def labels(classes: list[int] | None = None, **changes: str) -> Labels:
    kept = np.array([0, 1, 1, REST, 2, 0] if classes is None else classes, dtype=np.int64)
    return numbered(kept, maker="clusters", sentence="by hand", depends_on=changes)


def test_samples_of_no_class_are_the_last_class() -> None:
    made = labels()
    np.testing.assert_array_equal(made.classes, [0, 1, 1, 3, 2, 0])
    assert (made.num_classes, made.has_rest, made.num_outputs) == (3, True, 4)
    assert made.record.sizes == (2, 2, 1)
    assert made.record.num_rest == 1
    assert "array" not in repr(made)


def test_without_such_samples_there_is_no_such_class() -> None:
    made = labels([1, 0, 1])
    assert (made.num_classes, made.has_rest, made.num_outputs) == (2, False, 2)
    assert made.record.num_rest == 0


@pytest.mark.parametrize(
    ("change", "expected"),
    [({"classes": np.array([0, 1, 1, 3, 2, 0], dtype=np.int32)}, "int64"),
     ({"classes": np.array([[0, 1, 1, 3, 2, 0]])}, "num_samples"),
     ({"classes": np.array([0, 1, 1, 4, 2, 0])}, "no other"),
     ({"classes": np.array([0, 1, 1, 3, 0, 0])}, "needs a sample"),
     ({"classes": np.array([0, 1, 1, -1, 2, 0])}, "every sample"),
     ({"classes": np.array([], dtype=np.int64)}, "there must be samples"),
     ({"classes": np.array([1, 1, 1, 3, 2, 0])}, "does not describe"),
     ({"has_rest": False}, "no other"),
     ({"num_classes": 0}, "a class to ask for")],
)  # fmt: skip
def test_labels_that_contradict_themselves_cannot_be_made(
    change: dict[str, object], expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        replace(labels(), **change)


def test_a_record_of_other_labels_is_refused() -> None:
    made = labels()
    with pytest.raises(ValueError, match="counts other samples"):
        replace(made, record=replace(made.record, num_rest=2))


def test_the_fingerprint_follows_the_classes_and_what_they_depend_on() -> None:
    alike = [labels().fingerprint, labels().fingerprint]
    others = [
        labels([0, 1, 1, REST, 0, 2]).fingerprint,
        labels([0, 1, 1, 3, 2, 0]).fingerprint,  # the same numbers, but all can be asked for
        labels(seed="1").fingerprint,
    ]
    assert len(set(alike)) == 1
    assert len({*alike, *others}) == 4


@given(st.integers(2, 12), st.integers(0, 60), st.integers(0, 5))
def test_random_classes_are_equally_large_and_repeatable(
    num_classes: int, more: int, seed: int
) -> None:
    made = random_labels(num_classes + more, num_classes, seed=seed)
    assert max(made.record.sizes) - min(made.record.sizes) <= 1
    assert sum(made.record.sizes) == num_classes + more
    assert not made.has_rest
    again = random_labels(num_classes + more, num_classes, seed=seed)
    np.testing.assert_array_equal(made.classes, again.classes)


def test_random_classes_are_independent_of_the_order_of_samples() -> None:
    made = random_labels(20_000, 2, seed=0).classes
    later = np.corrcoef(made[:-1], made[1:])[0, 1]
    assert abs(later) < 4 / np.sqrt(20_000)
    assert (made != random_labels(20_000, 2, seed=1).classes).mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("num_samples", "num_classes"), [(5, 1), (5, 0), (3, 4)])
def test_random_classes_need_two_classes_and_a_sample_for_each(
    num_samples: int, num_classes: int
) -> None:
    with pytest.raises(MemscanError, match=f"{num_samples} samples cannot have {num_classes}"):
        random_labels(num_samples, num_classes, seed=0)
