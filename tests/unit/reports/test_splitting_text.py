"""Copies that steering found, and their prices, in words."""

from __future__ import annotations

from dataclasses import replace

from unit.reports import splitting_scans as scans

from pytest_memscan.reports import splitting_text as words


def test_a_price_has_its_lower_bound_where_there_is_one() -> None:
    first, unbounded, rarest = (scans.copy(index) for index in (0, 11, 12))
    assert words.price_text(first) == "one in about 34,000 images [at least one in 410,000]"
    assert words.price_text(unbounded) == "one in about 1.7 billion images [no lower bound]"
    assert words.price_text(rarest) == "less than one in 1 trillion images [no lower bound]"
    underflow = replace(first, rate=scans.rate(0.0, 0.0, 0.0))
    assert words.price_text(underflow) == "less than one in 1 trillion images [no lower bound]"
    common = replace(first, rate=scans.rate(0.4, 0.2, 0.5))
    assert words.price_text(common) == "about 40.0 % of images [at least 20.0 %]"


def test_effort_is_told_in_images_where_the_steps_are_known() -> None:
    scan = scans.leaky_scan()
    assert words.effort_text(scan) == (
        "102,850, screening included: as many as 2,057 ordinary images take"
    )
    for steps in ({}, {"steps": "0"}, {"steps": "many"}):
        assert words.effort_text(replace(scan, provenance=steps)) == "102,850, screening included"


def test_growth_is_told_at_numbers_that_people_can_picture() -> None:
    scan = scans.leaky_scan()
    assert [each.num_generated for each in words.told_growth(scan)] == [1_000, 1_000_000]
    ending = replace(scan, growth=scan.growth[:3])
    assert [each.num_generated for each in words.told_growth(ending)] == [10]
    assert words.told_growth(scans.clean_scan()) == ()
    point = replace(scan.growth[0], expected=0.5, lower=None, upper=None)
    assert words.expected_text(point) == "0.5"
    wide = replace(point, lower=0.0, upper=1e9)
    assert words.expected_text(wide) == "0.5 [0, 1,000,000,000]"


def test_a_screening_that_was_cut_short_says_so() -> None:
    scan = replace(scans.clean_scan(), num_screened=90)
    assert words.tried_text(scan) == (
        "1,536 trajectories were steered to 143 of 150 training images, 90 of them screened"
    )


def test_copies_are_counted_with_the_islands_that_they_came_out_of() -> None:
    scan, copy = scans.leaky_scan(), scans.copy(0)
    assert words.islands_text(copy, scan) == "12 copies in 5 of 12 islands"
    alone = replace(copy, num_copies=1, num_islands=1)
    assert words.islands_text(alone, replace(scan, num_islands=1)) == "1 copy in 1 of 1 island"
    assert words.islands_text(replace(copy, num_islands=0), scan) == "12 copies, unsteered"


def test_an_image_that_was_never_steered_is_not_called_steered() -> None:
    scan = scans.leaky_scan()
    finding = scans.copy(0).finding
    last, first = (replace(finding, sample_id=each) for each in (511, 512))
    assert words.image_name(last, scan) == "generated#00511"
    assert words.image_name(first, scan) == "steered#00512"
    assert "not in normal use" in words.copied_text(scan)
    mixed = replace(scan, num_plain_copies=3)
    assert words.found_label(mixed) == "found by steering and without it"
    assert words.copied_text(mixed).startswith("17 training images; 4 within reach")
    assert "those called generated# were never steered" in words.origin_text(mixed)


def test_a_copy_that_was_not_confirmed_never_counts() -> None:
    scan, copy = scans.leaky_scan(), scans.copy(0)
    failed = replace(copy, finding=replace(copy.finding, confirmed=False))
    assert copy.in_reach
    assert words.standing_text(copy, scan) == "within reach"
    assert words.standing_text(replace(copy, in_reach=False), scan) == "out of reach"
    assert words.standing_text(failed, scan) == "not confirmed"
    degenerate = replace(scan, degenerate="nothing was learnt")
    assert words.standing_text(copy, degenerate) == "confirmed"
    assert words.standing_text(failed, degenerate) == "not confirmed"
    cut = replace(scan, copies=(failed, copy), metrics={})
    assert words.reach_text(cut).startswith("1 within reach")
    assert "; at least 1 not confirmed; " in words.copied_text(cut)
    assert "; 1 not confirmed; " in words.copied_text(replace(cut, num_copies_total=2))
    assert "not confirmed" not in words.copied_text(scan)
