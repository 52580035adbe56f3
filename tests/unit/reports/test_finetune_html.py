"""The HTML report of fine-tunes: complete, inert, in the order a reader needs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from unit.reports import finetune_samples, finetune_scans, prompt_samples
from unit.reports.pages import Page, assert_inert, embedded

from pytest_memscan.reports.finetune_pictures import MAX_LISTED, MAX_PICTURES
from pytest_memscan.reports.html import to_html
from pytest_memscan.reports.pictures import ImagePolicy, embed
from pytest_memscan.results import ConceptScan, RunResult


def render(result: RunResult, images: ImagePolicy = "blurred") -> str:
    return to_html(result, [], finetunes=finetune_samples.pictures(result), images=images)


def of_concepts(*concepts: ConceptScan, images: ImagePolicy = "blurred") -> str:
    result = finetune_samples.leaky()
    check = replace(result.checks[0], finetunes=finetune_scans.scan(*concepts))
    return render(replace(result, checks=(check,)), images)


@pytest.mark.parametrize("images", ["none", "blurred", "clear"])
@pytest.mark.parametrize("result", finetune_samples.every_kind(), ids=lambda r: r.checkpoint)
def test_every_report_is_one_inert_labelled_file(result: RunResult, images: ImagePolicy) -> None:
    page = render(result, images)
    parsed = Page(page)
    assert_inert(page)
    ids = [each["id"] for _, each in parsed.found if "id" in each]
    assert len(ids) == len(set(ids))
    assert len(parsed.all("caption")) == len(parsed.all("table"))
    assert all(each["alt"] for each in parsed.all("img"))
    assert result.checks[0].sentence in parsed.words


def test_a_leaking_fine_tune_is_shown_in_the_order_of_its_questions() -> None:
    words = Page(render(finetune_samples.leaky())).words
    places = []
    for expected in (
        "Fine-tune against its base FineXtract (Wu et al., 2025, arXiv:2410.03039)",
        "only numbers of the same descriptor can be compared",
        "Fine-tune acme/vask-lora@77ab013 Kind LoRA (diffusers layout, rank 8) Base "
        "acme/base@3f9c2a1 known from adapter_config.json",
        "unet, text_encoder; the denoiser by 2.13 % of the norm",
        "Captions instance prompt (guessed from README.md)",
        "By cosine similarity of builtin:copy descriptors; below each number its 95 % bounds",
        "Direct, extracted set no guidance 10 0.317 [0.255, 0.379] 0 % [0 %, 25.9 %]",
        "CFG, best of all 500 0.471 [0.409, 0.533] 10.0 % [0.51 %, 39.4 %] 20.0 % "
        "[3.68 %, 50.7 %] 1 of 10",
        "FineXtract, extracted set w' 5, k 0 10 0.449 [0.387, 0.511] 30.0 % [8.73 %, 60.7 %] "
        "30.0 % [8.73 %, 60.7 %] 3 of 10",
        "FineXtract, best of all 500 0.539",
        "The number of groups of 5 or more images stays at 6",
        "Well-supported groups 6 Distinct training images 10 Images in the largest group 41",
        "An image that is at least 0.60 % of what is made would have come up",
        "Denoiser calls, CFG 50,000",
        "those of the base alone included 130,000",
        "Copied: 4 of 10 training images, 3 of them in the extracted set of FineXtract. An image "
        "is a copy above similarity 0.710: two different training images are that alike.",
        "train#00003 generated#00017 Similarity 0.88 Support 41 Within 0.93 copy",
        "train#00008 generated#00499 Similarity 0.81 Support not extracted copy",
        "train#00006 generated#00390 Similarity 0.34 Support 1 no copy",
        "Best match of each of 10 training images",
        "train#00008 0.81 generated#00499 0.42 yes",
        "base images",
        "Invalid: black 2 Training images to compare with 10",
        "Provenance of finextract",
    ):
        assert expected in words, expected
        places.append(words.index(expected))
    assert places == sorted(places)


def test_a_fine_tune_without_training_images_shows_candidates_and_every_doubt() -> None:
    page = render(finetune_samples.lone())
    words = Page(page).words
    for expected in (
        "WARNING The weights differ from the base's by 87 % of their norm",
        "Captions none (none known), it shows less without its own",
        "There were no training images to compare with",
        "NOT PROVEN A search for the largest group ended at its limit of steps",
        "Distinct training images not known",
        "6 well-supported candidates (similarity within above 0.76).",
        "generated#00017 Support 41 Within 0.93 candidate",
        "generated#00390 Support 1 too few images",
    ):
        assert expected in words, expected
    for absent in ("A-ESR 0.7", "Training image train#", "best of all", "The training image is"):
        assert absent not in words
    assert page.count("data:image") == 10


def test_a_scan_that_stopped_early_says_why_and_what_it_would_have_seen() -> None:
    words = Page(render(finetune_samples.clean())).words
    for expected in (
        "Copied: 0 of 10 training images.",
        "Stopped early: none is copied, and one that comes up in 2 % of the images",
        "Planned for each method 500 Made with each method 300",
        "at least 0.99 % of what is made",
        "Captions, from captions.txt Found 11 Dropped: empty 1 Used 10",
    ):
        assert expected in words, expected


def test_a_set_starts_with_the_average_and_hides_each_fine_tune_behind_a_line() -> None:
    page = render(finetune_samples.several())
    words = Page(page).words
    average = words.index("Mean over 3 fine-tunes, 30 training images")
    first = words.index(
        "acme/vask-lora@77ab013, LoRA: copied 4 of 10 training images, 3 of them extracted, "
        "AS 0.449"
    )
    assert average < words.index("FineXtract, best of all 1,300") < first
    assert "acme/hats-lora, LoRA: copied 4 of 10 training images, 3 of them extracted" in words
    assert "AS 0.449 (base in doubt)" in words
    assert "<details open" not in page
    assert words.count("What was attacked, and what it was compared with.") == 3
    assert "390,000 denoiser calls in all" in words
    assert "Average over concepts" not in render(finetune_samples.leaky())


def test_settings_of_model_guidance_are_told_apart() -> None:
    weaker = replace(finetune_scans.FINEXTRACT, settings="w' 9", num_copied_extracted=1)
    methods = (finetune_scans.DIRECT, finetune_scans.FINEXTRACT, weaker)
    concept = replace(finetune_scans.CONCEPT, methods=methods, num_copied=5)
    words = Page(of_concepts(concept)).words
    assert "Extracted images, FineXtract (w' 5, k 0)" in words
    assert "FineXtract (w' 9), best of all" in words
    assert "Of 1 there is no picture, because other methods copied them." in words


def test_none_embeds_no_image_but_lists_what_was_extracted() -> None:
    page = render(finetune_samples.leaky(), "none")
    words = Page(page).words
    assert "data:image" not in page
    assert "Extracted images. This report embeds no images." in words
    assert "generated#00017 41 0.93 yes train#00003 0.88 yes" in words
    assert "generated#00499 not extracted - no train#00008 0.81 yes" in words
    lone = Page(render(finetune_samples.lone(), "none")).words
    assert "generated#00390 1 - no - - not known" in lone


def test_clear_images_are_beside_their_training_images() -> None:
    result = finetune_samples.leaky()
    shown = embedded(render(result, "clear"))
    first = finetune_samples.pictures(result)[0]
    assert (first.sample_id, first.train_id) == (17, 3)
    np.testing.assert_array_equal(shown[0], first.train)
    np.testing.assert_array_equal(shown[1], first.generated)
    assert len(shown) == 2 * 11


def test_no_clear_pixel_is_in_a_blurred_file() -> None:
    for result in finetune_samples.every_kind():
        pictures = finetune_samples.pictures(result, size=64)
        page = to_html(result, [], finetunes=pictures, images="blurred")
        for each in pictures:
            for image in (each.generated, each.train):
                if image is not None:
                    assert embed(image, images="clear").uri not in page
                    assert embed(image, images="blurred").uri in page


def test_pictures_of_other_images_are_left_out() -> None:
    result = finetune_samples.leaky()
    pictures = finetune_samples.pictures(result)
    strangers = [replace(each, train_id=77) for each in pictures]
    strangers += [replace(each, concept=1) for each in pictures]
    assert "data:image" not in to_html(result, [], finetunes=strangers, images="clear")
    assert "data:image" not in to_html(
        prompt_samples.leaky(), [], finetunes=pictures, images="clear"
    )


def test_what_is_not_drawn_is_listed() -> None:
    result = finetune_samples.leaky()
    pictures = finetune_samples.pictures(result)[:3]
    words = Page(to_html(result, [], finetunes=pictures, images="blurred")).words
    assert "Extracted images without pictures." in words
    assert "generated#00499 not extracted - no train#00008 0.81 yes" in words


def test_many_fine_tunes_share_the_pictures_and_long_lists_are_cut() -> None:
    many = tuple(replace(finetune_scans.CONCEPT, name=f"lora-{index}") for index in range(100))
    page = Page(of_concepts(*many))
    assert len(page.all("img")) == 2 * MAX_PICTURES
    one = finetune_scans.LEAKED[0]
    extracted = tuple(
        replace(one, sample_id=index) for index in range(MAX_PICTURES + MAX_LISTED + 10)
    )
    page = Page(of_concepts(replace(finetune_scans.CONCEPT, extracted=extracted, matches=())))
    assert len(page.all("img")) == 2 * MAX_PICTURES
    assert "and 10 more that this report does not show" in page.words


def test_hostile_strings_stay_text_wherever_they_are_printed() -> None:
    attack = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>\u202e\x1b[0m"
    concept = finetune_scans.CONCEPT
    hostile = replace(
        concept,
        name=attack,
        fit=replace(
            concept.fit,
            kind=attack,
            base=attack,
            base_origin=attack,
            parts=(attack,),
            warning=attack,
            adapter=attack,
        ),
        captions=attack,
        captions_origin=attack,
        methods=tuple(replace(each, method=attack, settings=attack) for each in concept.methods),
        clustering=replace(concept.clustering, rule=attack, sentence=attack),
        stopped=attack,
        cut_sentence=attack,
        controls=(replace(concept.controls[0], name=attack, sentence=attack),),
        images=replace(concept.images, invalid={attack: 1}),
        prompts=replace(finetune_scans.CAPTIONS, origin=attack, dropped={attack: 1}),
    )
    for concepts in ((hostile,), (hostile, hostile)):
        scan = replace(finetune_scans.scan(*concepts), title=attack, notes=(attack,))
        scan = replace(
            scan, measure=replace(scan.measure, name=attack), provenance={attack: attack}
        )
        result = finetune_samples.leaky()
        check = replace(result.checks[0], name=attack, sentence=attack, finetunes=scan)
        page = render(replace(result, checks=(check,)), "none")
        parsed = Page(page)
        assert "<script" not in page
        assert parsed.all("img") == []
        assert "\u202e" not in page
        assert "\x1b" not in page
        assert not [
            name for _, attributes in parsed.found for name in attributes if name[:2] == "on"
        ]
