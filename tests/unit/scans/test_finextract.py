"""FineXtract on stored images: what is counted as copied, extracted and left out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from unit.scans.finetune_worlds import (
    BASE,
    CFG,
    DIRECT,
    DISTINCT,
    GUIDED,
    INVALID,
    NUM_PLANNED,
    OTHERS,
    TRAIN,
    Pixels,
    Worlds,
    between,
    copies,
    cosines,
)

from pytest_memscan.errors import CheckpointError
from pytest_memscan.results import MethodScores
from pytest_memscan.scans.finetune_plan import Scanned, Stopping, shown_rate
from pytest_memscan.scans.finextract import finextract


@pytest.fixture
def worlds(tmp_path: Path) -> Iterator[Worlds]:
    worlds = Worlds(folder=tmp_path)
    with worlds.opened:
        yield worlds


@pytest.fixture(scope="module")
def leaking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scanned]:
    """All three methods on everything that is planned."""
    worlds = Worlds(folder=tmp_path_factory.mktemp("leaking"))
    with worlds.opened:
        yield finextract(
            worlds.target(
                TRAIN,
                NUM_PLANNED,
                guided=(worlds.method("finextract", GUIDED, settings="w' 3", calls=20),),
                baselines=(
                    worlds.method("direct", DIRECT, calls=10),
                    worlds.method("cfg", CFG, calls=20),
                ),
                base=worlds.method("base", BASE, calls=10),
            )
        )


def test_copies_are_counted_as_they_were_made_near_duplicates_once(leaking: Scanned) -> None:
    concept = leaking.concept
    assert concept.num_train == len(DISTINCT)
    assert concept.num_copied == 4  # by any method: 0, 2, 6 and 4
    by_name = {each.method: each for each in concept.methods}
    assert {name: each.num_copied for name, each in by_name.items()} == {
        "direct": 1, "cfg": 2, "finextract": 3,
    }  # fmt: skip
    # Picture 6 came up once: no group, so not extracted.
    assert by_name["finextract"].num_copied_extracted == 2
    assert by_name["cfg"].num_copied_extracted == 2
    assert by_name["direct"].num_copied_extracted == 0
    assert {each.train_id for each in concept.matches if each.is_copied} == {0, 2, 6}
    supported = [each for each in concept.extracted if each.is_supported]
    assert [(each.train_id, each.support, each.is_copy) for each in supported] == [
        (0, 9, True),
        (2, 4, True),
    ]
    assert all(control.passed for control in concept.controls)
    assert not concept.stopped


@pytest.mark.parametrize(
    ("name", "images"), [("direct", DIRECT), ("cfg", CFG), ("finextract", GUIDED)]
)
def test_the_ceiling_is_the_mean_best_match_over_all_images(
    leaking: Scanned, name: str, images: list[Pixels]
) -> None:
    scores = next(each for each in leaking.concept.methods if each.method == name)
    best = cosines(TRAIN[DISTINCT], images).max(axis=1)
    assert scores.best_similarity.value == pytest.approx(best.mean(), abs=1e-6)
    assert scores.best_esr_strict.value == (best > 0.7).mean()
    assert scores.best_esr_loose.value == (best > 0.6).mean()
    assert scores.num_images == len(images)


def test_as_and_esr_are_those_of_the_extracted_set(leaking: Scanned) -> None:
    concept = leaking.concept
    scores = concept.methods[-1]
    shown = [GUIDED[each.sample_id] for each in concept.extracted]
    assert scores.num_extracted == len(shown) <= len(DISTINCT)
    best = cosines(TRAIN[DISTINCT], shown).max(axis=1)
    assert scores.average_similarity.value == pytest.approx(best.mean(), abs=1e-6)
    assert scores.esr_strict.value == (best > 0.7).mean()
    assert scores.esr_loose.value == (best > 0.6).mean()
    np.testing.assert_allclose(leaking.best["finextract", 0], best, atol=1e-6)
    assert set(leaking.best) == {("direct", 0), ("cfg", 0), ("finextract", 0)}
    assert [each.train_id for each in concept.matches] == DISTINCT
    of_all = cosines(TRAIN[DISTINCT], GUIDED)
    for row, match in enumerate(concept.matches):
        assert match.extracted_similarity == pytest.approx(best[row], abs=1e-6)
        assert match.best_similarity == pytest.approx(of_all[row].max(), abs=1e-6)
        assert match.best_sample_id == int(of_all[row].argmax())


def test_every_image_and_every_call_is_accounted_for(leaking: Scanned) -> None:
    concept = leaking.concept
    assert (concept.images.planned, concept.images.valid) == (4 * NUM_PLANNED, 4 * NUM_PLANNED)
    assert concept.images.train_groups == len(DISTINCT)
    assert [each.denoiser_calls for each in concept.methods] == [300, 600, 600]
    assert concept.denoiser_calls == 300 + 600 + 600 + 300


def test_sample_ids_are_those_of_the_plan_whatever_the_order(worlds: Worlds) -> None:
    order = list(range(100, 130))[::-1]
    scanned = finextract(
        worlds.target(
            TRAIN,
            NUM_PLANNED,
            guided=(worlds.method("finextract", GUIDED, order=order),),
            baselines=(),
            base=worlds.method("base", BASE, order=order),
            order=order,
        )
    )
    first = scanned.concept.extracted[0]
    assert first.sample_id in order[:9]
    assert first.train_id == 0
    pixels = scanned.sampler.pixels_of(first.sample_id)
    np.testing.assert_array_equal(pixels, GUIDED[order.index(first.sample_id)])
    assert scanned.concept.matches[5].best_sample_id == order[13]  # the only copy of image 6


def test_invalid_images_are_counted_and_left_out(worlds: Worlds) -> None:
    images = list(GUIDED)
    for place in (0, 13, 20):  # one of nine copies of 0, the only copy of 6, and another
        images[place] = INVALID
    scanned = finextract(
        worlds.target(
            TRAIN,
            NUM_PLANNED,
            guided=(worlds.method("finextract", images),),
            baselines=(),
            base=worlds.method("base", [INVALID, INVALID, *BASE[2:NUM_PLANNED]]),
        )
    )
    concept = scanned.concept
    assert concept.images.planned == concept.images.generated == 2 * NUM_PLANNED
    assert sum(concept.images.invalid.values()) == 3 + 2
    assert concept.images.valid == 2 * NUM_PLANNED - 5
    assert (concept.methods[0].num_images, concept.num_copied) == (NUM_PLANNED - 3, 2)
    assert concept.shown_rate == shown_rate(NUM_PLANNED - 3, 7)
    (control,) = (each for each in concept.controls if each.name == "base")
    assert control.num_images == NUM_PLANNED - 2


@pytest.mark.parametrize("name", ["finextract", "direct", "base"])
def test_a_method_without_a_single_valid_image_is_an_error(worlds: Worlds, name: str) -> None:
    images = {"finextract": GUIDED, "direct": OTHERS, "base": BASE} | {name: [INVALID] * 3}
    guided, direct, base = (worlds.method(each, list(images[each])[:3]) for each in images)
    target = worlds.target(TRAIN, 3, guided=(guided,), baselines=(direct,), base=base)
    with pytest.raises(CheckpointError, match=rf"none of the 3 images of {name} .*not a number"):
        finextract(target)


def test_fewer_images_than_training_images_are_no_trouble(worlds: Worlds) -> None:
    scanned = finextract(
        worlds.target(
            TRAIN,
            3,
            guided=(worlds.method("finextract", copies(TRAIN, [1, 1, 1])),),
            baselines=(worlds.method("direct", OTHERS[:3]),),
            base=worlds.method("base", BASE[:3]),
        )
    )
    scores = scanned.concept.methods[-1]
    assert (scanned.concept.num_copied, scores.num_extracted) == (1, 1)
    best = cosines(TRAIN[DISTINCT], copies(TRAIN, [1])).max(axis=1)
    assert scores.average_similarity.value == pytest.approx(best.mean(), abs=0.01)
    nothing = scanned.concept.methods[0]
    assert (nothing.num_extracted, nothing.average_similarity.value) == (0, 0.0)


# --- several settings, no training images -------------------------------------------------------


def test_of_several_settings_the_one_that_extracts_most_is_shown(worlds: Worlds) -> None:
    strong = copies(TRAIN, [1] * 4 + [3] * 4 + [7] * 4) + OTHERS[:18]
    scanned = finextract(
        worlds.target(
            TRAIN,
            NUM_PLANNED,
            guided=(
                worlds.method("finextract", GUIDED, settings="w' 2"),
                worlds.method("finextract", strong, settings="w' 3"),
            ),
            baselines=(),
            base=worlds.method("base", BASE),
        )
    )
    concept = scanned.concept
    assert [each.settings for each in concept.methods] == ["w' 2", "w' 3"]
    assert {each.train_id for each in concept.extracted if each.is_copy} == {1, 3, 7}
    assert concept.num_copied == 6  # 0, 2, 6 and 1, 3, 7
    assert concept.methods[1].num_copied_extracted == 3
    assert set(scanned.best) == {("finextract", 0), ("finextract", 1)}
    np.testing.assert_array_equal(scanned.sampler.pixels_of(0), strong[0])


def test_without_training_images_there_are_candidates_and_no_scores(worlds: Worlds) -> None:
    scanned = finextract(
        worlds.target(
            None,
            NUM_PLANNED,
            guided=(worlds.method("finextract", GUIDED),),
            baselines=(worlds.method("direct", DIRECT),),
            base=worlds.method("base", BASE),
            stopping=Stopping(planned=NUM_PLANNED, limit=0, rate=0.9),  # nothing to stop for
        )
    )
    concept = scanned.concept
    assert (concept.num_train, concept.num_copied) == (None, None)
    assert concept.methods == concept.matches == concept.controls == ()
    assert scanned.best == {}
    assert concept.clustering.num_supported == 2
    assert [each.support for each in concept.extracted] == [9, 4]
    assert all(each.train_id is None and not each.is_copy for each in concept.extracted)
    assert concept.num_candidates == 2
    assert concept.cut == pytest.approx(0.95)
    assert concept.num_images == NUM_PLANNED
    assert concept.images.train_groups == 0


def test_a_setting_with_candidates_is_shown_before_one_with_more_groups_that_are_none(
    worlds: Worlds,
) -> None:
    """Groups of one style are no copies, however many there are."""
    styles = [
        between(TRAIN[style], other, 0.86, 0.9)
        for style in (1, 3)
        for other in OTHERS[6 * style : 6 * style + 6]
    ]
    scanned = finextract(
        worlds.target(
            None,
            NUM_PLANNED,
            guided=(
                worlds.method("finextract", styles + OTHERS[60:78]),
                worlds.method("finextract", copies(TRAIN, [0] * 5) + OTHERS[60:85]),
            ),
            baselines=(),
            base=worlds.method("base", BASE),
        )
    )
    concept = scanned.concept
    assert (concept.num_candidates, concept.clustering.num_supported) == (1, 1)
    assert [each.is_candidate for each in concept.extracted] == [True]


def test_scores_name_their_method_once(leaking: Scanned) -> None:
    assert all(isinstance(each, MethodScores) for each in leaking.concept.methods)
    assert [each.method for each in leaking.concept.methods] == ["direct", "cfg", "finextract"]
