"""A whole scan finds what is there, says how much it may have missed, and counts what it spent."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats
from unit.scans.campaigns import (
    CALLS_PER_IMAGE,
    CALLS_PER_SCORE,
    MEMORISED,
    NUM_NEGATIVES,
    RULE,
    TEMPLATES,
    VERBATIM,
    WORLD,
    Detectors,
    kinds,
    routes,
    scan,
    texts_of,
)
from unit.scans.worlds import Pixels, World, own_picture

from pytest_memscan.detectors.run import Scores
from pytest_memscan.prompt_statistics import audit_size, leak_rate, missed_share
from pytest_memscan.results import PromptFinding
from pytest_memscan.scans.carlini_prompts import SAME_PICTURE, num_first
from pytest_memscan.scans.prompt_detectors import PATIENCE, choose_audit
from pytest_memscan.scans.prompt_findings import Judged
from pytest_memscan.sequential import StoppingRule

# --- with detectors that know -------------------------------------------------------------------


@pytest.fixture(scope="module")
def informed() -> Judged:
    return scan(WORLD, texts_of(40), score=Detectors(suspicious=sorted(MEMORISED)))


def test_what_detectors_point_at_is_found_and_called_by_its_kind(informed: Judged) -> None:
    expected = dict.fromkeys(VERBATIM, "verbatim") | dict.fromkeys(TEMPLATES, "template")
    assert kinds(informed) == kinds(informed, "escalated") == expected
    metrics = informed.prompts.metrics
    assert {name: metrics[name].value for name in metrics if name.endswith("_prompts")} == {
        "memorised_prompts": 5,
        "verbatim_prompts": 3,
        "template_prompts": 2,
    }
    assert all(each.lower == each.value == each.upper for each in list(metrics.values())[:3])


def test_sampling_goes_on_until_several_in_a_row_are_clean(informed: Judged) -> None:
    order = list(informed.campaign.suspects.order)
    assert set(order[:5]) == MEMORISED
    escalated = [each for each, route in informed.campaign.routes.items() if route == "escalated"]
    assert escalated == order[: len(escalated)]
    num_suspicious = informed.campaign.suspects.num_suspicious
    assert len(escalated) == max(num_suspicious, 5 + PATIENCE)
    assert informed.screening.num_suspicious == num_suspicious
    assert informed.screening.num_escalated == len(escalated)


def test_each_memorised_prompt_makes_the_scan_go_on() -> None:
    """Nobody is suspicious; in the order of suspicion the gap after prompt 13 is too long."""
    inner = Detectors()

    def score(ids: Sequence[int]) -> Scores:
        made = inner(ids)
        for values in made.values.values():
            for place, text_id in enumerate(ids):
                values[place] = 1 + 0.001 * text_id if text_id < 40 else values[place]
        return made

    memorised = (0, 3, 8, 13, 20)
    judged = scan(World(rates=dict.fromkeys(memorised, 1.0)), texts_of(40), score=score)
    assert judged.campaign.suspects.num_suspicious == 0
    escalated = [i for i, route in judged.campaign.routes.items() if route == "escalated"]
    assert escalated == list(range(13 + PATIENCE + 1))
    assert set(kinds(judged, "escalated")) == {0, 3, 8, 13}


def test_the_audit_is_of_those_that_were_left_out(informed: Judged) -> None:
    escalated = {i for i, route in informed.campaign.routes.items() if route == "escalated"}
    audited = [i for i, route in informed.campaign.routes.items() if route == "audit"]
    rest = sorted(set(range(40)) - escalated)
    assert audited == choose_audit(rest, num_prompts=40, limit=0.1, seed=0)
    assert len(audited) == audit_size(len(rest), 0.1 * 40 / len(rest))
    assert informed.screening.num_audited == len(audited)
    assert informed.screening.num_missed == 0
    assert informed.prompts.metrics["prompt_leak_rate"].upper <= 5 / 40 + 0.1


def test_the_leak_rate_is_what_was_found_and_what_the_audit_leaves_open(informed: Judged) -> None:
    screening = informed.screening
    expected = leak_rate(
        40,
        5,
        screened_out=40 - screening.num_escalated,
        audited=screening.num_audited,
        missed=0,
    )
    assert informed.prompts.metrics["prompt_leak_rate"] == expected
    assert expected.lower == 5 / 40


def test_findings_say_where_a_prompt_stands_and_how_it_scored(informed: Judged) -> None:
    by_id = {each.prompt_id: each for each in informed.findings}
    scores = informed.campaign.scores.values
    for text_id, finding in by_id.items():
        assert finding.place == f"line {text_id + 1}"
        assert finding.scores == {name: values[text_id] for name, values in scores.items()}
        assert finding.settled
    assert len(by_id) == len(informed.findings) == informed.prompts.num_findings_total


def test_memorised_prompts_come_first_the_most_certain_before_the_others() -> None:
    equal = {1: own_picture(1), 2: own_picture(2)}

    class Copies(World):
        def __call__(self, text_id: int, number: int, rng: np.random.Generator) -> Pixels | None:
            made = super().__call__(text_id, number, rng)
            return equal.get(text_id, made)

    world = Copies(rates=dict.fromkeys((0, 3), 1.0), templates=[5])
    judged = scan(world, texts_of(12), score=Detectors(suspicious=[0, 1, 2, 3, 5]))
    assert [each.prompt_id for each in judged.findings[:2]] == [1, 2]
    assert [each.clique_distance for each in judged.findings[:2]] == [0.0, 0.0]
    assert {each.prompt_id for each in judged.findings[2:4]} == {0, 3}
    order = {"verbatim": 0, "template": 1, "": 2}
    ranks = [order[each.kind] for each in judged.findings]
    assert ranks == sorted(ranks)
    for kind in ("verbatim", "template"):
        spread = [each.clique_distance for each in judged.findings if each.kind == kind]
        assert spread == sorted(spread, key=lambda each: math.inf if each is None else each)


def test_every_call_is_counted(informed: Judged) -> None:
    calls, first = informed.prompts.calls, num_first(RULE)
    made = informed.campaign.tools.images.sampler.made  # type: ignore[attr-defined]
    rows = informed.campaign.tools.images.rows_per_text
    by_text = Counter(each // rows for each in made)
    negatives = {i: count for i, count in by_text.items() if i >= 40}
    assert set(negatives.values()) == {first}
    assert calls.negatives == 2 * NUM_NEGATIVES * first * CALLS_PER_IMAGE
    assert calls.sampling == sum(by_text[each] for each in range(40)) * CALLS_PER_IMAGE
    assert calls.sampling == sum(each.num_images for each in informed.findings) * CALLS_PER_IMAGE
    assert calls.screening == (40 + NUM_NEGATIVES) * CALLS_PER_SCORE
    assert calls.fixed_protocol == 40 * 24 * CALLS_PER_IMAGE
    assert calls.spent == calls.negatives + calls.sampling + calls.screening
    assert len(made) == len(set(made)) == informed.prompts.images.planned


def test_detectors_are_asked_once_for_prompts_and_once_for_negatives() -> None:
    score = Detectors()
    judged = scan(World(), texts_of(30), score=score)
    for _ in range(2):
        assert judged.screening == judged.prompts.screening
        assert judged.keys.num_keys == len(judged.findings)
    recombined = list(range(30, 30 + NUM_NEGATIVES))
    assert sorted(score.asked) == [list(range(30)), recombined]


# --- with detectors that know nothing -----------------------------------------------------------


def test_useless_detectors_leave_it_to_the_audit() -> None:
    memorised = range(0, 60, 4)
    world = World(rates=dict.fromkeys(memorised, 1.0))
    judged = scan(world, texts_of(60), score=Detectors(), limit=0.1)
    missed = kinds(judged, "audit")
    assert missed
    assert set(missed) <= set(memorised)
    escalated = {i for i, route in judged.campaign.routes.items() if route == "escalated"}
    rest = set(range(60)) - escalated
    truth = len(rest & set(memorised)) / len(rest)
    screening = judged.screening
    assert screening.num_missed == len(missed)
    assert screening.miss_rate == missed_share(len(rest), screening.num_audited, len(missed))
    assert screening.miss_rate.lower <= truth <= screening.miss_rate.upper
    rate = judged.prompts.metrics["prompt_leak_rate"]
    assert rate.lower <= len(memorised) / 60 <= rate.upper
    assert judged.prompts.metrics["memorised_prompts"].value == len(kinds(judged))


def test_bounds_hold_as_often_as_they_say_over_many_scans() -> None:
    """1,020 prompts in 34 scans; a third of what is memorised is known to the detectors."""
    rng = np.random.default_rng(11)
    below = above = leaks_below = leaks_above = num_prompts = false = 0
    for seed in range(34):
        memorised = rng.permutation(30)[: rng.integers(0, 12)]
        world = World(rates=dict.fromkeys(memorised.tolist(), 1.0))
        score = Detectors(suspicious=memorised[::3].tolist(), seed=seed)
        judged = scan(world, texts_of(30, num_strings=0), score=score, limit=0.25, seed=seed)
        escalated = {i for i, route in judged.campaign.routes.items() if route == "escalated"}
        rest = set(range(30)) - escalated
        truth = len(rest & set(memorised.tolist())) / len(rest)
        miss, leak = judged.screening.miss_rate, judged.prompts.metrics["prompt_leak_rate"]
        below += truth < miss.lower
        above += truth > miss.upper
        leaks_below += len(memorised) / 30 < leak.lower - 1e-12
        leaks_above += len(memorised) / 30 > leak.upper + 1e-12
        false += len(set(kinds(judged)) - set(memorised.tolist()))
        num_prompts += 30
    assert num_prompts >= 1000
    most = stats.binom.ppf(0.999, 34, 0.05)  # each bound on its own fails in one scan of 20
    assert max(below, above, leaks_below, leaks_above) <= most
    assert false <= most  # one or more false template: in one scan of 20


def test_prompts_at_the_copy_rate_are_missed_no_more_often_than_stated() -> None:
    """600 prompts, all of them sampled."""
    missed = 0
    for seed in range(4):
        world = World(rates=dict.fromkeys(range(150), RULE.copy_rate))
        score = Detectors(suspicious=range(150), seed=seed)
        judged = scan(world, texts_of(150), score=score, seed=seed)
        assert judged.screening.num_escalated == 150
        missed += 150 - len(kinds(judged))
    assert missed <= stats.binom.ppf(0.9999, 600, RULE.miss_probability)
    # It is no looser than computed either.
    assert missed >= stats.binom.ppf(0.0001, 600, RULE.miss_probability_at(RULE.copy_rate))


def test_a_clean_model_is_called_clean() -> None:
    judged = scan(World(), texts_of(60), score=Detectors())
    assert not kinds(judged)
    assert judged.prompts.num_unsettled == 0
    assert judged.prompts.metrics["prompt_leak_rate"].upper <= 0.1
    assert judged.screening.num_escalated >= PATIENCE
    assert judged.keys.metrics["low_variance_prompts"].value == 0


# --- planted strings ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted() -> Judged:
    """Canaries 0 and 2 were memorised, and prompt 1; ids of texts go on after the prompts."""
    world = World(rates={20: 1.0, 22: 1.0, 1: 1.0})
    return scan(world, texts_of(20, 3), score=Detectors(suspicious=[1]))


def test_planted_strings_are_all_sampled_and_counted_apart(planted: Judged) -> None:
    assert routes(planted)["canary"] == 3
    assert planted.prompts.metrics["memorised_prompts"].value == 1
    assert kinds(planted, "canary") == {0: "verbatim", 2: "verbatim"}
    assert kinds(planted, "escalated", "audit") == {1: "verbatim"}
    assert planted.keys.num_canaries == 3
    assert planted.keys.metrics["extracted_canaries"].value == 2
    assert planted.keys.metrics["low_variance_prompts"].value == 1
    rate = planted.prompts.metrics["prompt_leak_rate"]
    assert rate.lower == 1 / 20


def test_planted_strings_have_places_and_pictures_of_their_own(planted: Judged) -> None:
    places = {each.prompt_id: each.place for each in planted.findings if each.route == "canary"}
    assert places == {0: "line 21", 1: "line 22", 2: "line 23"}
    for finding in planted.keys.findings:
        text_id = finding.prompt_id + (20 if finding.is_canary else 0)
        assert finding.place == f"line {text_id + 1}"
        if finding.flagged:
            mean = planted.mean_image_of(finding)
            assert np.abs(mean.astype(int) - own_picture(text_id)).max() <= 2
    (canary,) = [e for e in planted.findings if e.route == "canary" and e.prompt_id == 2]
    shown = planted.images_of(canary)
    assert np.abs(shown.astype(int) - own_picture(22)).max() <= 2
    assert not any(each.scores for each in planted.findings if each.route == "canary")


def test_single_words_are_held_against_random_strings() -> None:
    judged = scan(World(), texts_of(10, 2, num_words=3), score=Detectors(suspicious=range(10)))
    forms = {each.form for each in judged.keys.spaces}
    assert forms == {"strings", "prompts"}
    assert {each.num_negatives for each in judged.keys.spaces} == {NUM_NEGATIVES}
    word, sentence = judged._form(0), judged._form(5)
    assert (word, sentence, judged._form(10)) == ("strings", "prompts", "strings")


def test_thresholds_of_keys_are_for_all_that_were_screened() -> None:
    texts = texts_of(30, 2, num_words=3)
    judged = scan(World(), texts, score=Detectors(), planned=[0, 1, *range(5, 30)])
    negatives = judged.campaign.negatives
    for form, images, number in (
        ("strings", list(negatives.strings.values()), 2 + 2),
        ("prompts", list(negatives.recombined.values()), 25),
    ):
        logs = np.log([np.var(each.pixels / 255, axis=0).mean() for each in images])
        spread = logs.std(ddof=1) * math.sqrt(1 + 1 / NUM_NEGATIVES)
        limit = math.exp(logs.mean() + spread * stats.t.ppf(0.05 / number, NUM_NEGATIVES - 1))
        (found,) = [each for each in judged.keys.spaces if each.form == form]
        assert found.threshold == pytest.approx(limit, rel=1e-6)


def test_a_canary_that_comes_up_now_and_then_is_extracted() -> None:
    """Hardly less variance than others, and near-identical images all the same."""
    texts = texts_of(10, 1)
    judged = scan(World(rates={10: 0.5}), texts, score=Detectors())
    (canary,) = [each for each in judged.keys.findings if each.is_canary]
    assert kinds(judged, "canary") == {0: "verbatim"}
    assert canary.p_value > 0.05 / 2
    assert canary.flagged


def test_a_flagged_canary_is_a_key_although_images_of_its_first_batch_are_invalid() -> None:
    rule = StoppingRule(clique_size=3, max_images=24, batch=8, copy_rate=0.4, miss_probability=0.05)
    world = World(rates={10: 1.0}, invalid=lambda text_id, number: (text_id, number) == (10, 2))
    judged = scan(world, texts_of(10, 1), score=Detectors(), rule=rule)
    (canary,) = [each for each in judged.keys.findings if each.is_canary]
    assert (canary.num_images, canary.flagged) == (7, True)


# --- what a finding shows -----------------------------------------------------------------------


def test_images_of_a_finding_begin_with_its_representative(informed: Judged) -> None:
    for finding in informed.findings:
        shown = informed.images_of(finding)
        assert 1 <= len(shown) <= 4
        pixels_of = informed.campaign.tools.images.pixels_of
        assert finding.representative is not None
        np.testing.assert_array_equal(shown[0], pixels_of(finding.representative))
        if finding.kind == "verbatim":
            assert len(shown) == min(4, finding.clique_size)
            assert np.abs(shown.astype(int) - own_picture(finding.prompt_id)).max() <= 2
        assert len({image.tobytes() for image in shown}) == len(shown)


def test_what_is_near_a_training_image_is_confirmed() -> None:
    def nearest(image: Pixels) -> tuple[int, float]:
        distances = [
            math.sqrt(np.mean((image / 255 - own_picture(each) / 255) ** 2)) for each in VERBATIM
        ]
        place = int(np.argmin(distances))
        return place, distances[place]

    score = Detectors(suspicious=sorted(MEMORISED))
    judged = scan(WORLD, texts_of(40), score=score, nearest=nearest)
    by_id = {each.prompt_id: each for each in judged.findings}
    for place, text_id in enumerate(VERBATIM):
        assert by_id[text_id].train_id == place
        assert (by_id[text_id].train_distance or 1) <= SAME_PICTURE
    assert judged.prompts.num_confirmed == len(VERBATIM)  # a template is far as a whole
    clean = next(each for each in judged.findings if not each.kind)
    assert (clean.train_id, clean.train_distance) == (None, None)
    assert scan(WORLD, texts_of(40), score=score).prompts.num_confirmed is None


def test_the_rule_that_was_applied_is_recorded(informed: Judged) -> None:
    rule = informed.prompts.rule
    assert (rule.clique_size, rule.max_images) == (3, 24)
    assert (rule.copy_rate, rule.miss_probability) == (0.4, 0.05)
    assert rule.num_negatives == 2 * NUM_NEGATIVES
    assert rule.edge_threshold == informed.campaign.edge
    assert rule.template_threshold == informed.campaign.template
    assert informed.prompts.provenance == {"seed": "0"}


def test_the_fixed_share_of_a_template_is_below_the_threshold_and_others_above(
    informed: Judged,
) -> None:
    for each in informed.findings:
        assert each.fixed_share is not None
        is_below = each.fixed_share < informed.campaign.template
        assert is_below is (each.kind == "template") or each.kind == "verbatim"


def test_findings_are_results_that_can_be_read_again(informed: Judged) -> None:
    from pytest_memscan.reports.json import dump, load

    for each in informed.findings:
        assert load(dump(each), PromptFinding) == each
