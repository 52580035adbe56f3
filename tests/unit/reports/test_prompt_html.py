"""The HTML report of prompts, keys and repeats: complete, inert, and silent about their texts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from unit.reports import prompt_samples, prompt_scans, samples
from unit.reports.pages import Page, assert_inert, embedded

from pytest_memscan.reports.html import to_html
from pytest_memscan.reports.pictures import ImagePolicy, embed
from pytest_memscan.reports.prompt_pictures import MAX_PROMPTS, PromptPicture
from pytest_memscan.results import RunResult


def render(result: RunResult, images: ImagePolicy = "blurred") -> str:
    return to_html(
        result,
        [],
        prompts=prompt_samples.prompt_pictures(),
        keys=prompt_samples.key_pictures(),
        repeats=prompt_samples.repeat_pictures(),
        images=images,
    )


@pytest.mark.parametrize("images", ["none", "blurred", "clear"])
@pytest.mark.parametrize("result", prompt_samples.every_kind(), ids=lambda r: r.checkpoint)
def test_every_report_is_one_inert_labelled_file(result: RunResult, images: ImagePolicy) -> None:
    page = render(result, images)
    parsed = Page(page)
    assert_inert(page)
    ids = [each["id"] for _, each in parsed.found if "id" in each]
    assert len(ids) == len(set(ids))
    assert len(parsed.all("caption")) == len(parsed.all("table"))
    assert all(each["alt"] for each in parsed.all("img"))
    assert result.checkpoint in parsed.words
    for check in result.checks:
        assert " ".join(check.sentence.split()) in parsed.words


def test_memorised_prompts_are_shown_with_all_that_was_measured() -> None:
    words = Page(render(prompt_samples.leaky())).words
    for expected in (
        "13 of 140 sampled (12 verbatim, 1 template); 9 confirmed by a training image.",
        "Undecided: 2 prompts when sampling stopped.",
        "prompt#00017 line 18 train#00003 generated#00003 other seeds of the same prompt "
        "Clique 10 of 10 Tiled L2 0.041 Distance 0.05 verbatim",
        "Stillest quarter 2.31 % Images 40 Distance 0.22 Found by audit template",
        "7 more memorised prompts",
        "4 sampled prompts that are not memorised",
        "prompt#00903 - none, undecided escalated 4 of 500 0.070 not measured -",
        "and 123 more that this report does not show",
        "noise_magnitude Text-conditional noise magnitude, first step (Wen et al., 2024) 8 higher "
        "200 37 above 1.24 yes",
        "denoising_confidence Denoising confidence (Webster, 2023) 4 lower 200 9 below 0.0312 yes",
        "10 higher - no threshold no",
        "- - - not applicable: no descriptor was chosen (--memscan-descriptor) no",
        "Prompts screened 2,000",
        "Escalated: sampled, most suspicious first 40 Audited: others, sampled at random 100",
        "Of those audited, memorised 1 Miss rate of the screening 1.00 % [0.05 %, 4.66 %]",
        "is called clean with a probability of at most 5 %",
        "Near-identical below a tiled L2 of 0.0734",
        "varies less, compared with all of it, than 8.14 %",
        "planted clique",
        "Spent 41,200 The fixed protocol would have spent 121 times as many 5,000,000",
        "Prompts, from captions.txt Found 2,104 Dropped: duplicate 98 Dropped: empty 3",
        "Unusable: not UTF-8 line 17, line 40 2",
        "Used, but cut to what the tokenizer reads 12 Scanned 2,000",
        "Invalid: black 4 Training images to compare with 150",
        "Provenance of carlini",
    ):
        assert expected in words, expected


def test_keys_are_shown_with_their_variances() -> None:
    words = Page(render(prompt_samples.leaky())).words
    for expected in (
        "3 of 60 flagged by their pixel variance; canaries extracted: 2 of 40.",
        "canary#00000 line 1 train#00012 mean of 16 images Variance 0.0012 p 0.005 Distance 0.04 "
        "extracted",
        "latent prompts 0.118 1 200 no",
        "Variances of 6 keys",
        "canary#00003 line 4 no 0.0132 0.211 0.31 train#00015 at 0.19",
        "from canaries.txt Found 41",
        "and 54 more",
    ):
        assert expected in words, expected


def test_a_canary_is_not_mixed_up_with_the_prompt_of_the_same_number() -> None:
    result = prompt_samples.leaky()
    prompt = prompt_samples.prompt_pictures()[0]
    canary = replace(prompt.finding, route="canary", place="line 1")
    scan = replace(prompt_scans.prompt_scan(), findings=(prompt.finding, canary))
    check = replace(result.checks[2], prompt_scan=scan)
    page = to_html(replace(result, checks=(check,)), [], prompts=[prompt], images="blurred")
    words = Page(page).words
    assert "prompt#00017 line 18 train#00003" in words
    assert "Memorised prompts without pictures." in words
    assert "canary#00017 line 1 verbatim canary 10 of 10" in words


def test_repeats_are_shown_with_their_rule_and_what_they_cannot_show() -> None:
    words = Page(render(prompt_samples.repeating())).words
    for expected in (
        "7 groups of at least 3 near-identical images (0.012 expected by chance)",
        "57 of the first 2,000 generated images",
        "An image that is at least 0.32 % of what the model makes would have come up 3 times",
        "One that was copied only once does not show here",
        "generated#00017 generated#00114 generated#00211 generated#00308 and 17 more",
        "generated#01860 and 1 more",
        "a repeated group is 3 or more generated images",
        "Denoiser calls 100,000 Training images to compare with none",
        "Provenance of repeats",
    ):
        assert expected in words, expected


def test_probes_and_checks_that_do_not_apply_are_told_plainly() -> None:
    page = Page(render(prompt_samples.probed()))
    assert "finding none does not show that there is none" in page.words
    assert "NOT APPLICABLE" in page.words
    assert "None of 65 sampled." in page.words
    shown = [each for each in page.all("span") if "verdict" in str(each.get("class"))]
    assert {"class": "verdict tone-not_applicable"} in shown


def test_a_screening_has_its_own_section_only_where_nothing_was_sampled() -> None:
    assert "Screening of prompts" not in render(prompt_samples.leaky())
    words = Page(render(prompt_samples.screened())).words
    assert "Screening of prompts" in words
    assert "Miss rate of the screening not known" in words


def test_a_budget_that_ends_early_says_which_share_was_scanned() -> None:
    result = prompt_samples.leaky()
    prompts = replace(prompt_scans.PROMPTS, num_planned=500)
    scan = replace(prompt_scans.prompt_scan(), prompts=prompts)
    checks = (replace(result.checks[2], prompt_scan=scan),)
    words = Page(render(replace(result, checks=checks))).words
    assert "Scanned the budget reaches 25.0 % 500" in words


def test_none_embeds_no_image_but_lists_the_prompts() -> None:
    page = render(prompt_samples.leaky(), "none")
    assert "data:image" not in page
    words = Page(page).words
    assert "Memorised prompts. This report embeds no images." in words
    assert (
        "prompt#00017 line 18 verbatim escalated 10 of 10 0.041 61.0 % train#00003 at 0.05"
    ) in words
    assert "data:image" not in render(prompt_samples.repeating(), "none")


def test_clear_images_are_embedded_in_the_order_of_the_findings() -> None:
    shown = embedded(render(prompt_samples.leaky(), "clear"))
    first = prompt_samples.prompt_pictures()[0]
    assert first.train is not None
    for drawn, expected in zip(shown, [first.train, *first.images], strict=False):
        np.testing.assert_array_equal(drawn, expected)
    assert (
        len(shown) == 11 * 5 + 2 * 4 + 2 * 2 + 1
    )  # prompts with and without a training image; keys


@pytest.mark.parametrize("size", [16, 64])
def test_no_clear_pixel_is_in_a_blurred_file(size: int) -> None:
    prompts = prompt_samples.prompt_pictures(size=size)
    keys = prompt_samples.key_pictures(size=size)
    repeats = prompt_samples.repeat_pictures(size=size)
    clear = [image for each in prompts for image in (*each.images, each.train)]
    clear += [image for each in keys for image in (each.mean_image, each.train)]
    pages = [
        to_html(result, [], prompts=prompts, keys=keys, repeats=repeats, images="blurred")
        for result in (prompt_samples.leaky(), prompt_samples.repeating())
    ]
    clear += [image for each in repeats for image in each.images[:4]]
    for image in clear:
        if image is not None:
            assert all(embed(image, images="clear").uri not in page for page in pages)
            assert any(embed(image, images="blurred").uri in page for page in pages)


def test_pictures_of_another_run_are_left_out_and_too_many_not_drawn() -> None:
    result = prompt_samples.leaky()
    picture = prompt_samples.prompt_pictures()[0]
    other = PromptPicture(
        finding=replace(picture.finding, num_images=11), images=picture.images, train=None
    )
    assert "data:image" not in to_html(result, [], prompts=[other], images="clear")
    assert "data:image" not in to_html(
        samples.failed(), [], prompts=[picture], keys=prompt_samples.key_pictures(), images="clear"
    )
    assert "data:image" not in to_html(
        result, [], repeats=prompt_samples.repeat_pictures(), images="clear"
    )
    scan = prompt_scans.prompt_scan()
    many = tuple(replace(picture.finding, prompt_id=index) for index in range(MAX_PROMPTS + 6))
    check = replace(result.checks[2], prompt_scan=replace(scan, findings=many))
    drawn = [PromptPicture(finding=each, images=picture.images[:1], train=None) for each in many]
    page = Page(to_html(replace(result, checks=(check,)), [], prompts=drawn, images="blurred"))
    assert len(page.all("img")) == MAX_PROMPTS
    assert "Memorised prompts without pictures." in page.words
    assert "prompt#00029" in page.words


def test_a_training_image_nobody_may_show_leaves_the_prompt_s_own() -> None:
    result = prompt_samples.leaky()
    pictures = [
        PromptPicture(finding=each.finding, images=each.images[:1], train=None)
        for each in prompt_samples.prompt_pictures()
    ]
    page = Page(to_html(result, [], prompts=pictures, images="blurred"))
    assert len(page.all("img")) == 13
    assert "other seeds" not in page.words


def test_an_image_of_another_kind_is_refused() -> None:
    picture = prompt_samples.prompt_pictures()[0]
    wrong = PromptPicture(
        finding=picture.finding,
        images=picture.images.astype(np.float32),
        train=None,
    )
    with pytest.raises(ValueError, match=r"must be \(height, width, channels\) uint8"):
        to_html(prompt_samples.leaky(), [], prompts=[wrong], images="clear")


def test_hostile_strings_stay_text_wherever_they_are_printed() -> None:
    attack = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>\u202e\x1b[0m"
    result = prompt_samples.leaky()
    scan, keys = prompt_scans.prompt_scan(), prompt_scans.key_scan()
    detector = replace(prompt_scans.DETECTORS[0], name=attack, title=attack)
    silent = replace(prompt_scans.DETECTORS[3], not_applicable=attack)
    hostile_scan = replace(
        scan,
        title=attack,
        prompts=replace(
            scan.prompts, origin=attack, dropped={attack: 1}, unusable={attack: (attack,)}
        ),
        screening=replace(scan.screening, detectors=(detector, silent)),
        rule=replace(scan.rule, sentence=attack),
        findings=tuple(
            replace(each, route=attack, kind=attack, place=attack) for each in scan.findings
        ),
        controls=(replace(scan.controls[0], name=attack, sentence=attack),),
        images=replace(scan.images, invalid={attack: 1}),
        provenance={attack: attack},
    )
    hostile_keys = replace(
        keys,
        title=attack,
        spaces=tuple(replace(each, space=attack, form=attack) for each in keys.spaces),
        deciding_space=attack,
        findings=tuple(replace(each, variances={attack: 1.0}) for each in keys.findings),
        sentence=attack,
    )
    repeats = replace(prompt_scans.repeats(), rule=attack, measure=attack)
    check = result.checks[2]
    hostile = replace(
        result,
        checks=(
            replace(check, prompt_scan=hostile_scan, sentence=attack, name=attack),
            replace(check, prompt_scan=None, keys=hostile_keys),
            replace(check, prompt_scan=None, repeats=repeats),
        ),
    )
    page = render(hostile, "none")
    parsed = Page(page)
    assert "<script" not in page
    assert parsed.all("img") == []
    assert "\u202e" not in page
    assert "\x1b" not in page
    assert not [name for _, attributes in parsed.found for name in attributes if name[:2] == "on"]
