"""Extended SIDE: keys whose images hardly vary, held against negatives of the same form."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from pytest_memscan.results import KeyScan, PromptCoverage
from pytest_memscan.scans.extended_side import ALARM, MAX_FINDINGS, Form, Key, extended_side

NULL = np.exp(np.random.default_rng(0).normal(-3, 0.25, 24))
LATENT_NULL = 5 * np.exp(np.random.default_rng(1).normal(-3, 0.25, 24))


def key(
    prompt_id: int,
    variance: float,
    *,
    is_canary: bool = False,
    is_verbatim: bool = False,
    **more: object,
) -> Key:
    return Key(
        prompt_id=prompt_id,
        place=f"line {prompt_id + 1}",
        is_canary=is_canary,
        is_verbatim=is_verbatim,
        num_images=10,
        variances={"pixel": variance, "latent": 5 * variance},
        **more,  # type: ignore[arg-type]
    )


def form(name: str, keys: list[Key]) -> Form:
    return Form(name=name, keys=keys, negatives={"pixel": NULL, "latent": LATENT_NULL})


def scan(*forms: Form, canaries: PromptCoverage | None = None) -> KeyScan:
    return extended_side(forms, images_per_key=10, canaries=canaries)


def p_of(variance: float) -> float:
    """Student-t prediction on logarithms; these negatives have no outlier to set aside."""
    logs = np.log(NULL)
    spread = logs.std(ddof=1) * math.sqrt(1 + 1 / 24)
    return float(stats.t.cdf((math.log(max(variance, 1e-9)) - logs.mean()) / spread, 23))


def at(p: float) -> float:
    """The variance with that chance."""
    logs = np.log(NULL)
    spread = logs.std(ddof=1) * math.sqrt(1 + 1 / 24)
    return float(np.exp(logs.mean() + spread * stats.t.ppf(p, 23)))


def test_the_chance_of_each_key_is_a_prediction_from_its_negatives() -> None:
    variances = [at(p) for p in (0.9, 0.5, 0.1, 1e-3, 1e-6)]
    found = scan(form("prompts", [key(place, each) for place, each in enumerate(variances)]))
    assert [each.prompt_id for each in found.findings] == [4, 3, 2, 1, 0]
    for each in found.findings:
        assert each.p_value == pytest.approx(p_of(variances[each.prompt_id]), rel=1e-6)


def test_keys_are_flagged_by_holm_over_all_of_a_form() -> None:
    # Of four: 0.05/4, 0.05/3, 0.05/2; the third stands, and so does what is larger.
    chances = [0.012, 0.016, 0.026, 0.03]
    found = scan(form("prompts", [key(place, at(p)) for place, p in enumerate(chances)]))
    assert [each.flagged for each in found.findings] == [True, True, False, False]
    # The second would stand by Bonferroni.
    assert chances[1] > 0.05 / 4


def test_texts_that_keys_were_chosen_among_are_tested_too() -> None:
    chances = [0.05 / 101, 0.05 / 99.5, 0.05 / 97]
    keys = [key(place, at(p)) for place, p in enumerate(chances)]
    found = scan(replace(form("prompts", keys), num_candidates=100))
    # Against 0.05/100, 0.05/99 and 0.05/98, the third of which it breaks.
    assert [each.flagged for each in found.findings] == [True, True, False]
    assert found.spaces[0].threshold == pytest.approx(at(ALARM / 100), rel=1e-6)
    assert all(each.flagged for each in scan(form("prompts", keys)).findings)


def test_keys_chosen_for_their_low_variance_are_hardly_ever_flagged() -> None:
    """The ten lowest of 200 unmemorised texts, with negatives drawn anew."""
    rng = np.random.default_rng(6)
    alarms = 0
    for _ in range(300):
        null = np.exp(rng.normal(-3, 0.3, 24))
        lowest = np.sort(np.exp(rng.normal(-3, 0.3, 200)))[:10]
        keys = [key(place, each) for place, each in enumerate(lowest)]
        given = Form(name="prompts", keys=keys, negatives={"pixel": null}, num_candidates=200)
        alarms += scan(given).metrics["low_variance_prompts"].value > 0
    assert alarms <= stats.binom.ppf(0.999, 300, ALARM)


def test_forms_do_not_pay_for_each_other() -> None:
    strings = form("strings", [key(0, at(0.04), is_canary=True)])
    many = form("prompts", [key(place, at(0.5)) for place in range(50)])
    found = scan(strings, many)
    assert [each.is_canary for each in found.findings if each.flagged] == [True]
    mixed = scan(form("prompts", [*many.keys, *strings.keys]))
    assert not any(each.flagged for each in mixed.findings)


def test_canaries_and_prompts_with_the_same_number_are_different_keys() -> None:
    strings = form("strings", [key(0, at(1e-6), is_canary=True), key(1, at(0.5), is_canary=True)])
    prompts = form("prompts", [key(0, at(0.5)), key(1, at(1e-5)), key(2, at(1e-7))])
    found = scan(strings, prompts)
    flagged = {(each.is_canary, each.prompt_id) for each in found.findings if each.flagged}
    assert flagged == {(True, 0), (False, 1), (False, 2)}
    assert found.metrics["extracted_canaries"].value == 1
    assert found.metrics["low_variance_prompts"].value == 2
    assert (found.num_keys, found.num_canaries, found.num_findings_total) == (5, 2, 5)


def test_thresholds_are_for_all_keys_of_a_form_in_every_space() -> None:
    keys = [key(place, at(p)) for place, p in enumerate((0.5, 0.009, 1e-4, 0.3, 0.2))]
    found = scan(form("strings", []), form("prompts", keys))
    assert {(each.form, each.space) for each in found.spaces} == {
        ("prompts", "pixel"),
        ("prompts", "latent"),
    }
    pixel = next(each for each in found.spaces if each.space == "pixel")
    assert pixel.threshold == pytest.approx(at(ALARM / 5), rel=1e-6)
    assert (pixel.num_negatives, pixel.num_below) == (24, 2)
    latent = next(each for each in found.spaces if each.space == "latent")
    logs = np.log(LATENT_NULL)
    spread = logs.std(ddof=1) * math.sqrt(1 + 1 / 24)
    expected = math.exp(logs.mean() + spread * stats.t.ppf(ALARM / 5, 23))
    assert latent.threshold == pytest.approx(expected, rel=1e-6)
    assert latent.num_below == sum(each.variances["latent"] < expected for each in keys)


def test_a_space_that_one_key_lacks_is_left_out_and_pixels_decide() -> None:
    keys = [key(0, at(0.5)), replace(key(1, at(1e-6)), variances={"pixel": at(1e-6)})]
    found = scan(form("prompts", keys))
    assert [each.space for each in found.spaces] == ["pixel"]
    assert found.deciding_space == "pixel"
    assert found.metrics["low_variance_prompts"].value == 1
    assert dict(found.findings[0].variances) == {"pixel": at(1e-6)}


def test_a_key_with_near_identical_images_is_flagged_whatever_its_variance() -> None:
    keys = [key(0, at(0.9), is_verbatim=True), key(1, at(0.8)), key(2, at(1e-6), is_canary=True)]
    found = scan(form("prompts", keys))
    assert [(each.prompt_id, each.flagged) for each in found.findings] == [
        (2, True),
        (1, False),
        (0, True),
    ]
    assert {name: each.value for name, each in found.metrics.items()} == {
        "low_variance_prompts": 1,
        "extracted_canaries": 1,
    }


def test_equal_images_are_flagged() -> None:
    found = scan(form("prompts", [key(0, 0.0)]))
    assert found.findings[0].flagged
    assert 0 <= found.findings[0].p_value < 1e-10


def test_nothing_measured_is_nothing_found() -> None:
    found = scan(form("strings", []), form("prompts", []))
    assert (found.num_keys, found.findings, found.spaces) == (0, (), ())
    assert {each.upper for each in found.metrics.values()} == {0}


def test_findings_carry_what_their_key_says() -> None:
    found = scan(form("prompts", [key(6, at(0.5), nearest=(31, 0.25))]))
    (finding,) = found.findings
    assert (finding.train_id, finding.train_distance) == (31, 0.25)
    assert (finding.place, finding.num_images) == ("line 7", 10)
    (unknown,) = scan(form("prompts", [key(6, at(0.5))])).findings
    assert (unknown.train_id, unknown.train_distance) == (None, None)


def test_a_report_holds_the_keys_of_lowest_variance() -> None:
    rng = np.random.default_rng(3)
    keys = [key(place, at(p)) for place, p in enumerate(rng.random(MAX_FINDINGS + 20))]
    found = scan(form("prompts", keys))
    assert found.num_findings_total == found.num_keys == MAX_FINDINGS + 20
    shown = [each.p_value for each in found.findings]
    assert shown == sorted(shown)
    assert len(shown) == MAX_FINDINGS
    assert shown[-1] <= sorted(p_of(each.variances["pixel"]) for each in keys)[MAX_FINDINGS] + 1e-9


def test_the_list_of_canaries_is_carried() -> None:
    given = PromptCoverage(origin="keys.txt", is_probe=False, num_found=3, num_used=2)
    assert scan(form("prompts", []), canaries=given).canaries == given
    assert scan(form("prompts", [])).canaries is None


def test_unmemorised_keys_are_hardly_ever_flagged() -> None:
    """Any false key at all: in about 5 % of scans, with negatives drawn anew."""
    rng = np.random.default_rng(4)
    alarms = 0
    for _ in range(300):
        null = np.exp(rng.normal(-3, 0.3, 24))
        keys = [key(place, each) for place, each in enumerate(np.exp(rng.normal(-3, 0.3, 10)))]
        given = Form(name="prompts", keys=keys, negatives={"pixel": null})
        alarms += scan(given).metrics["low_variance_prompts"].value > 0
    assert alarms <= stats.binom.ppf(0.999, 300, ALARM)
