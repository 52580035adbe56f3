"""Accepted findings: what they take out of the numbers, and all that they leave as it is."""

from __future__ import annotations

import datetime
import math
from collections.abc import Collection, Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.gate.splitting_scans import copied, count, rate, splitting_scan
from unit.reports import finetune_scans, prompt_scans, scans, side_scans

from pytest_memscan.gate import (
    judge_finetunes,
    judge_keys,
    judge_prompt_scan,
    judge_scan,
    judge_side,
    judge_splitting,
)
from pytest_memscan.gate.verdicts import worst
from pytest_memscan.gate.waivers import judge_with_waivers, waived_ids
from pytest_memscan.policy import Threshold, parse_threshold
from pytest_memscan.reports.leaks import leaks_of
from pytest_memscan.results import CheckOutcome, ScanResult, SplittingScan, Verdict
from pytest_memscan.scans.evidence import extracted_images
from pytest_memscan.statistics import distinct_count, proportion
from pytest_memscan.waivers import WaiverLine

TODAY = datetime.date(2026, 11, 23)
TRAIN = {"training images": "1f2e3d4c5b6a"}
PROMPTS = {"prompt list": "0a1b2c3d4e5f"}
NUM_IMAGES = 320
PASS, FAIL, INCONCLUSIVE, ERROR = (
    Verdict.PASS,
    Verdict.FAIL,
    Verdict.INCONCLUSIVE,
    Verdict.ERROR,
)


def waiver(name: str, *, fingerprint: str = "1f2e3d4c", expires: str = "2027-01-31") -> WaiverLine:
    return WaiverLine(
        id=f"{name}@{fingerprint}",
        reason="cleared",
        expires=datetime.date.fromisoformat(expires),
        source="memscan.toml",
    )


def waivers(train_ids: Collection[int]) -> list[WaiverLine]:
    return [waiver(f"train#{each:05d}") for each in train_ids]


def lines(*texts: str) -> list[Threshold]:
    return [parse_threshold(text) for text in texts]


def scan_of(
    copies: Mapping[int, int], *, by_chance: float = 0.04, listed: int | None = None
) -> ScanResult:
    """A scan whose generated images copy each training image so many times."""
    num_copies = sum(copies.values())
    findings = tuple(
        replace(scans.finding(0), train_id=train_id, sample_id=row, num_copies=number)
        for row, (train_id, number) in enumerate(copies.items())
    )
    return replace(
        scans.clean_scan(),
        metrics={
            "extracted": extracted_images(len(copies), by_chance),
            "leak_rate": proportion(num_copies, NUM_IMAGES),
            "ums_confirmed": distinct_count(len(copies), NUM_IMAGES),
        },
        findings=findings[:listed],
        num_findings_total=len(findings),
        num_confirmed_images=num_copies,
        calibration=replace(scans.CALIBRATION, expected_false_matches=by_chance),
        unseen_hit_rate=sum(number == 1 for number in copies.values()) / NUM_IMAGES,
        provenance=TRAIN,
    )


COPIES = st.dictionaries(st.integers(0, 40), st.integers(1, 12), max_size=15)
POLICY = st.lists(
    st.sampled_from(
        [
            "extracted <= 0",
            "extracted <= 1",
            "extracted < 4",
            "extracted <= 9",
            "leak_rate <= 0.01",
            "leak_rate <= 0.05",
            "leak_rate < 0.2",
            "ums_confirmed <= 0.02",
        ]
    ),
    min_size=1,
    max_size=5,
    unique=True,
)


@settings(deadline=None, max_examples=100)
@given(
    copies=COPIES,
    policy=POLICY,
    by_chance=st.sampled_from([0.04, 0.5, 2.0]),
    listed=st.sampled_from([None, 0, 1, 4]),
    data=st.data(),
)
def test_only_lines_that_fail_change_and_only_by_what_was_waived(
    copies: dict[int, int],
    policy: list[str],
    by_chance: float,
    listed: int | None,
    data: st.DataObject,
) -> None:
    scan = scan_of(copies, by_chance=by_chance, listed=listed)
    chosen = data.draw(st.sets(st.sampled_from(sorted(copies) or [0]) | st.integers(0, 60)))
    measured = judge_scan(scan, lines(*policy))
    outcome = judge_with_waivers(judge_scan, scan, lines(*policy), waivers(chosen), today=TODAY)
    gone = chosen & {each.train_id for each in scan.findings}
    # From the definition: the same images, had those training images never been copied.
    rest = {train_id: number for train_id, number in copies.items() if train_id not in gone}
    left = scan_of(rest, by_chance=by_chance)
    lower = max(0, scan.metrics["extracted"].lower - len(gone))
    left.metrics["extracted"] = replace(left.metrics["extracted"], lower=lower)
    for line, before, after in zip(
        lines(*policy), measured.thresholds, outcome.thresholds, strict=True
    ):
        if before.verdict is not FAIL or not gone:
            assert after == before
            continue
        expected = judge_scan(left, [line]).thresholds[0]
        is_doubtful = line.metric != "extracted" and not line.holds(scan.unseen_hit_rate)
        if expected.verdict is PASS and is_doubtful:
            assert after.verdict is INCONCLUSIVE
        else:
            assert after.verdict is expected.verdict
            assert after.sentence == f"{expected.sentence} ({len(gone)} waived)"
        assert len(set(after.waived)) == len(after.waived) == len(gone)
        assert after.estimate == before.estimate
    assert outcome.scan is scan
    assert outcome.verdict is worst(each.verdict for each in outcome.thresholds)
    if measured.verdict is not FAIL or not gone:
        assert outcome == measured


@settings(deadline=None, max_examples=100)
@given(copies=COPIES, policy=POLICY, data=st.data())
def test_one_more_waiver_never_makes_a_line_worse_nor_an_open_one_pass(
    copies: dict[int, int], policy: list[str], data: st.DataObject
) -> None:
    scan, order = scan_of(copies), [PASS, INCONCLUSIVE, FAIL]
    some = data.draw(st.sets(st.sampled_from(sorted(copies) or [0])))
    more = some | data.draw(st.sets(st.sampled_from(sorted(copies) or [0])))
    few, many = (
        judge_with_waivers(judge_scan, scan, lines(*policy), waivers(each), today=TODAY)
        for each in (some, more)
    )
    for before, after in zip(few.thresholds, many.thresholds, strict=True):
        assert order.index(after.verdict) <= order.index(before.verdict)
    measured = judge_scan(scan, lines(*policy))
    for before, after in zip(measured.thresholds, many.thresholds, strict=True):
        assert after.verdict is before.verdict or before.verdict is FAIL


@pytest.mark.parametrize(
    "useless",
    [
        [],
        [waiver("train#00007", expires="2026-11-22")],
        [waiver("train#00007", fingerprint="ffffffff")],
        [waiver("train#00008"), waiver("prompt#00007"), waiver("concept1/train#00007")],
    ],
    ids=["none", "expired", "another training set", "other findings"],
)
def test_without_a_waiver_that_applies_nothing_changes(useless: list[WaiverLine]) -> None:
    scan, policy = scan_of({7: 30}), lines("extracted <= 0", "leak_rate <= 0.01")
    measured = judge_scan(scan, policy)
    assert judge_with_waivers(judge_scan, scan, policy, useless, today=TODAY) == measured
    assert waived_ids(measured, useless, TODAY) == frozenset()


def test_a_waiver_holds_on_its_last_day() -> None:
    line = waiver("train#00007", expires="2026-11-23")
    scan, policy = scan_of({7: 30}), lines("extracted <= 0", "leak_rate <= 0.01")
    outcome = judge_with_waivers(judge_scan, scan, policy, [line], today=TODAY)
    assert outcome.verdict is PASS
    assert [each.waived for each in outcome.thresholds] == [(line.id,), (line.id,)]
    assert outcome.thresholds[0].sentence == "extracted is 0, within the limit of 0 (1 waived)"
    assert outcome.thresholds[1].sentence == (
        "leak_rate is 0 % [0 %, 0.93 %] of 320 images, within the limit of 1 % (1 waived)"
    )
    assert outcome.sentence.count("(1 waived)") == 1
    tomorrow = TODAY + datetime.timedelta(days=1)
    assert judge_with_waivers(judge_scan, scan, policy, [line], today=tomorrow).verdict is FAIL


def test_an_open_line_beside_a_waived_one_stays_open_and_decides() -> None:
    """By the lowered numbers alone the rate would pass, and with it the scan."""
    scan, policy = scan_of({7: 2}), lines("extracted <= 0", "leak_rate <= 0.01")
    outcome = judge_with_waivers(judge_scan, scan, policy, waivers([7]), today=TODAY)
    assert [each.verdict for each in outcome.thresholds] == [PASS, INCONCLUSIVE]
    assert outcome.verdict is INCONCLUSIVE
    assert outcome.sentence.startswith("leak_rate is 0.62 %")
    assert outcome.thresholds[1].waived == ()


def test_what_chance_may_explain_of_the_rest_is_open() -> None:
    scan = scan_of({1: 3, 2: 3, 3: 3, 4: 3}, by_chance=0.5)
    assert scan.metrics["extracted"].lower == 2
    policy = lines("extracted <= 0")
    (line,) = judge_with_waivers(
        judge_scan, scan, policy, waivers([1, 2, 3]), today=TODAY
    ).thresholds
    assert (line.verdict, len(line.waived)) == (INCONCLUSIVE, 3)
    assert line.sentence == (
        "extracted is 1, but chance alone explains that many (0.5 expected) (3 waived)"
    )


def test_waiving_everything_that_came_up_once_does_not_show_that_a_rate_is_kept() -> None:
    scan = scan_of(dict.fromkeys(range(30), 1))
    policy = lines("leak_rate <= 0.01")
    outcome = judge_with_waivers(judge_scan, scan, policy, waivers(range(30)), today=TODAY)
    assert outcome.verdict is INCONCLUSIVE
    assert "about 9.38 % of further images would copy another one" in outcome.sentence


def test_a_missed_control_is_not_hidden() -> None:
    missed = replace(scans.CONTROLS[0], num_found=3)
    scan = replace(scan_of({7: 30}), controls=(missed,))
    policy = lines("extracted <= 0")
    outcome = judge_with_waivers(judge_scan, scan, policy, waivers([7]), today=TODAY)
    assert outcome == judge_scan(scan, policy)
    assert outcome.verdict is ERROR


def test_what_was_cut_from_the_list_of_findings_cannot_be_waived() -> None:
    scan = scan_of(dict.fromkeys(range(10), 9), listed=4)
    policy = lines("extracted <= 0")
    outcome = judge_with_waivers(judge_scan, scan, policy, waivers(range(10)), today=TODAY)
    assert outcome.verdict is FAIL
    assert outcome.thresholds[0].sentence == "extracted is 6, over the limit of 0 (4 waived)"


def test_a_waiver_is_of_one_finding_even_where_two_have_its_id() -> None:
    scan = scan_of({7: 9, 8: 9})
    twins = tuple(replace(each, train_id=7) for each in scan.findings)
    scan, policy = replace(scan, findings=twins), lines("extracted <= 0")
    outcome = judge_with_waivers(judge_scan, scan, policy, waivers([7]), today=TODAY)
    assert outcome.thresholds[0].sentence == "extracted is 1, over the limit of 0 (1 waived)"


def test_findings_that_are_no_copies_take_nothing_out() -> None:
    scan = replace(scan_of({7: 30, 8: 1}))
    first, second = scan.findings
    scan = replace(scan, findings=(replace(first, confirmed=False), second))
    policy = lines("extracted <= 0", "leak_rate <= 0.01")
    measured = judge_scan(scan, policy)
    assert judge_with_waivers(judge_scan, scan, policy, waivers([7]), today=TODAY) == measured
    unknown = replace(scan, findings=(replace(first, num_copies=None), second))
    outcome = judge_with_waivers(judge_scan, unknown, policy, waivers([7, 8]), today=TODAY)
    assert [each.verdict for each in outcome.thresholds] == [PASS, FAIL]
    assert outcome.thresholds[1].waived == ("train#00008@1f2e3d4c",)


def test_memorised_prompts_pass_only_where_somebody_chose_the_prompts() -> None:
    scan = replace(prompt_scans.prompt_scan(), provenance=PROMPTS)
    every = [
        WaiverLine(id=leak.id, reason="x", expires=TODAY, source="memscan.toml")
        for leak in leaks_of(judge_prompt_scan(scan, []))
    ]
    policy = lines("memorised_prompts <= 0", "verbatim_prompts <= 3", "prompt_leak_rate <= 0.1")
    assert len(every) == 13
    outcome = judge_with_waivers(judge_prompt_scan, scan, policy, every, today=TODAY)
    assert outcome.verdict is PASS
    assert [len(each.waived) for each in outcome.thresholds] == [13, 12, 0]
    fewer = judge_with_waivers(judge_prompt_scan, scan, policy, every[:12], today=TODAY)
    assert [each.verdict for each in fewer.thresholds] == [FAIL, PASS, PASS]
    probed = replace(scan, prompts=replace(prompt_scans.PROBES, is_default=True))
    outcome = judge_with_waivers(judge_prompt_scan, probed, policy, every, today=TODAY)
    assert outcome.verdict is INCONCLUSIVE
    assert "built-in probe list" in outcome.sentence


def test_a_share_of_prompts_stays_as_measured() -> None:
    scan = replace(prompt_scans.prompt_scan(), provenance=PROMPTS)
    policy = lines("prompt_leak_rate <= 0.001")
    named = [waiver("prompt#00070", fingerprint="0a1b2c3d")]
    outcome = judge_with_waivers(judge_prompt_scan, scan, policy, named, today=TODAY)
    assert outcome == judge_prompt_scan(scan, policy)
    assert waived_ids(outcome, named, TODAY)


def test_planted_strings() -> None:
    keys = replace(prompt_scans.key_scan(), provenance=PROMPTS)
    both = [waiver(f"canary#{each:05d}", fingerprint="0a1b2c3d") for each in (0, 2)]
    policy = lines("extracted_canaries <= 0", "low_variance_prompts <= 0")
    outcome = judge_with_waivers(judge_keys, keys, policy, both, today=TODAY)
    assert [each.verdict for each in outcome.thresholds] == [PASS, FAIL]
    assert outcome.verdict is FAIL
    assert outcome.sentence.startswith("low_variance_prompts is 1, over the limit of 0")


def test_copies_by_side_and_the_gap_of_having_attacked_with_nothing() -> None:
    scan = replace(side_scans.leaky_scan(), provenance=TRAIN)
    all_of_them = waivers([7 + 9 * index for index in range(12)])
    policy = lines("side_extracted <= 0")
    outcome = judge_with_waivers(judge_side, scan, policy, all_of_them, today=TODAY)
    assert outcome.verdict is PASS
    assert outcome.side is scan
    idle = replace(scan, variants=tuple(replace(each, is_control=True) for each in scan.variants))
    outcome = judge_with_waivers(judge_side, idle, policy, all_of_them, today=TODAY)
    assert outcome.verdict is INCONCLUSIVE
    assert "no variant of SIDE was run" in outcome.sentence
    assert outcome.sentence.endswith("(12 waived)")


def steered() -> SplittingScan:
    """Surely in reach, likely in reach, and perhaps."""
    return splitting_scan(
        extractable=count(2, 1, 3),
        copies=(
            copied(1, rate(1e-4, 1e-5, 1e-3)),
            copied(2, rate(1e-5, 1e-7, 1e-4)),
            copied(3, rate(5e-7, 1e-9, 1e-5), in_reach=False),
        ),
        provenance=TRAIN,
    )


@pytest.mark.parametrize(
    ("train_ids", "verdict"),
    [
        ([1], INCONCLUSIVE),
        ([2], FAIL),
        ([3], FAIL),
        ([1, 2], INCONCLUSIVE),
        ([1, 3], INCONCLUSIVE),
        ([2, 3], FAIL),
        ([1, 2, 3], PASS),
    ],
)
def test_a_steered_copy_leaves_each_bound_it_is_counted_in(
    train_ids: list[int], verdict: Verdict
) -> None:
    policy = lines("extractable_images <= 0")
    outcome = judge_with_waivers(
        judge_splitting, steered(), policy, waivers(train_ids), today=TODAY
    )
    assert outcome.verdict is outcome.thresholds[0].verdict is verdict
    assert outcome.splitting == steered()
    assert f"({len(train_ids)} waived)" in outcome.sentence


def test_the_likeliest_copy_that_is_named_is_one_that_was_not_waived() -> None:
    sure = [copied(each, rate(1 / often, 1e-5, 1e-2)) for each, often in ((1, 500), (2, 2000))]
    scan = splitting_scan(extractable=count(2, 2, 2), copies=tuple(sure), provenance=TRAIN)
    policy = lines("extractable_images <= 0")
    outcome = judge_with_waivers(judge_splitting, scan, policy, waivers([1]), today=TODAY)
    assert outcome.verdict is FAIL
    assert "the likeliest is one in about 2,000 images" in outcome.sentence


def test_the_doubts_about_steering_are_still_raised() -> None:
    weak = replace(steered(), num_screened=3)
    policy = lines("extractable_images <= 0")
    outcome = judge_with_waivers(judge_splitting, weak, policy, waivers([1, 2, 3]), today=TODAY)
    assert outcome.verdict is INCONCLUSIVE
    assert "only 3 of 2,000 training images were screened" in outcome.sentence


def test_an_unconfirmed_copy_keeps_a_line_from_passing() -> None:
    scan = steered()
    unsure = replace(scan.copies[2].finding, confirmed=False)
    scan = replace(scan, copies=(*scan.copies[:2], replace(scan.copies[2], finding=unsure)))
    policy = lines("extractable_images <= 0")
    outcome = judge_with_waivers(judge_splitting, scan, policy, waivers([1, 2, 3]), today=TODAY)
    assert outcome.verdict is INCONCLUSIVE


def test_a_bound_that_could_not_be_worked_out_is_not_made_up() -> None:
    metrics = steered().metrics | {"extractable_images": count(2, 1, math.nan)}
    policy = lines("extractable_images <= 0")
    outcome = judge_with_waivers(
        judge_splitting,
        replace(steered(), metrics=metrics),
        policy,
        waivers([1, 2, 3]),
        today=TODAY,
    )
    assert outcome.verdict is INCONCLUSIVE


def fine_tune() -> CheckOutcome:
    scan = replace(finetune_scans.scan(finetune_scans.CONCEPT), provenance=TRAIN)
    return judge_finetunes(scan, lines("copied_images <= 0"))


def test_what_only_another_method_copied_is_not_listed_and_cannot_be_waived() -> None:
    measured = fine_tune()
    listed = leaks_of(measured)
    assert measured.finetunes is not None
    every = [WaiverLine(id=e.id, reason="x", expires=TODAY, source="memscan.toml") for e in listed]
    found = measured.metrics["copied_images"].value
    outcome = judge_with_waivers(
        judge_finetunes, measured.finetunes, lines("copied_images <= 0"), every, today=TODAY
    )
    left = found - len(listed)
    assert left >= 0
    assert outcome.verdict is (FAIL if left else INCONCLUSIVE)  # the captions are a guess
    assert f"copied_images is {left:g}" in outcome.sentence


def test_the_guess_at_captions_of_a_fine_tune_is_still_doubted() -> None:
    measured = fine_tune()
    assert measured.finetunes is not None
    listed = leaks_of(measured)
    metrics = measured.finetunes.metrics | {"copied_images": scans.count(len(listed))}
    scan = replace(measured.finetunes, metrics=metrics)
    every = [WaiverLine(id=e.id, reason="x", expires=TODAY, source="memscan.toml") for e in listed]
    outcome = judge_with_waivers(
        judge_finetunes, scan, lines("copied_images <= 0"), every, today=TODAY
    )
    assert [each.verdict for each in outcome.thresholds] == [PASS]
    assert outcome.verdict is INCONCLUSIVE
    assert "this may not be what it was trained with" in outcome.sentence
