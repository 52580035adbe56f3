"""The HTML report: complete, self-contained, harmless, and silent about what it must not show."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from unit.reports import samples, scans
from unit.reports.pages import Page, assert_inert, embedded

from pytest_memscan.reports.html import Pair, to_html
from pytest_memscan.reports.pictures import ImagePolicy, embed
from pytest_memscan.results import RunResult


def render(result: RunResult, images: ImagePolicy = "blurred") -> str:
    return to_html(result, samples.pairs(result), images=images)


@pytest.mark.parametrize("images", ["none", "blurred", "clear"])
@pytest.mark.parametrize("result", samples.every_verdict(), ids=lambda r: str(r.verdict))
def test_every_report_is_one_inert_file(result: RunResult, images: ImagePolicy) -> None:
    assert_inert(render(result, images))


@pytest.mark.parametrize("result", samples.every_verdict(), ids=lambda r: str(r.verdict))
def test_every_report_says_the_verdict_why_and_of_what(result: RunResult) -> None:
    words = Page(render(result)).words
    assert result.verdict.value.upper().replace("_", " ") in words
    assert " ".join(result.sentence.split()) in words
    assert result.checkpoint in words


def test_a_failed_report_shows_everything_that_was_measured() -> None:
    words = Page(render(samples.failed())).words
    for expected in (
        "This scan would have noticed a leak rate above 0.93 % (95 % confidence).",
        "extracted <= 0",
        "80.0 % [76.0 %, 83.6 %]",
        "149 in all, 132 confirmed",
        "train#00042 generated#00017 Ratio 0.21 Distance 0.031 Level high confirmed",
        "False matches expected in this scan 0.043",
        "Found 20 of 20; required: at least 19.",
        "13 to 60 of 143 pairs",
        "109 to 143 of 143 pairs",
        "and 6 more that this report does not show",
        "confirmed 0.93",
        "Denoiser calls 16,000",
        "A DDPMPipeline with 1,482,371 parameters in 214 tensors.",
        "9b1f6c0e54d2…",
        "DDIMScheduler, 50 steps",
        "command line",
        "1 min 14 s",
    ):
        assert expected in words, expected


def test_a_hash_is_short_to_read_and_whole_in_its_title() -> None:
    titles = [each.get("title") for each in Page(render(samples.failed())).all("code")]
    assert scans.PROVENANCE["checkpoint_sha256"] in titles


def test_every_pair_is_drawn_once() -> None:
    page = Page(render(samples.failed()))
    assert len(page.all("img")) == 2 * 143
    assert all(each["alt"] for each in page.all("img"))


def test_charts_and_tables_are_labelled_for_screen_readers() -> None:
    page = Page(render(samples.failed()))
    ids = [each["id"] for _, each in page.found if "id" in each]
    assert len(ids) == len(set(ids))
    assert len(page.all("svg")) == 2
    for chart in page.all("svg"):
        assert chart["role"] == "img"
        assert set((chart["aria-labelledby"] or "").split()) <= set(ids)
    assert len(page.all("caption")) == len(page.all("table"))
    assert len(page.all("h1")) == 1


def test_none_embeds_no_image_but_lists_the_matches() -> None:
    page = render(samples.failed(), "none")
    assert "data:image" not in page
    assert "train#00042 generated#00017 0.21 0.031 high yes" in Page(page).words
    assert "and 6 more" in page


def test_findings_without_images_are_listed() -> None:
    page = to_html(samples.failed(), [], images="blurred")
    assert "train#00042 generated#00017" in Page(page).words


def test_images_of_another_scan_are_left_out() -> None:
    pairs = samples.pairs(samples.failed())
    assert "data:image" not in to_html(samples.inconclusive(), pairs, images="clear")


def test_clear_images_are_embedded_pixel_by_pixel() -> None:
    result = samples.failed()
    shown = embedded(render(result, "clear"))
    np.testing.assert_array_equal(shown[0], samples.pairs(result)[0].train)
    np.testing.assert_array_equal(shown[1], samples.pairs(result)[0].generated)
    assert all(each["class"] == "pixelated" for each in Page(render(result, "clear")).all("img"))


@pytest.mark.parametrize("size", [16, 64, 300])
def test_blurred_is_the_default_look_and_no_clear_pixel_is_in_the_file(size: int) -> None:
    result = samples.failed()
    pairs = samples.pairs(result, size=size)[:3]
    page = to_html(result, pairs, images="blurred")
    clear = [image for pair in pairs for image in (pair.train, pair.generated)]
    for blurred, original in zip(embedded(page), clear, strict=True):
        enlarged = np.asarray(Image.fromarray(blurred).resize(original.shape[1::-1]))
        difference = np.abs(enlarged.astype(float) - original).mean()
        assert difference > 5  # of 255; the samples have sharp edges
    for original in clear:
        assert embed(original, images="clear").uri not in page
        assert base64.b64encode(original.tobytes())[:40].decode() not in page


@pytest.mark.parametrize("size", [16, 64, 512])
def test_blurring_forgets_what_lies_inside_a_cell(size: int) -> None:
    """Two images that differ in detail only give the same bytes: nothing is left to undo."""
    image = samples.picture(3, size=size) // 2 + 60
    detail = np.indices((size, size)).sum(axis=0)[:, :, None] % 2 * 2 - 1  # a chessboard of +-1
    with_detail = (image + 20 * detail).astype(np.uint8)
    assert embed(image, images="blurred") == embed(with_detail, images="blurred")
    assert np.abs(image.astype(int) - with_detail).min() == 20


def test_a_large_clear_image_is_made_smaller() -> None:
    (shown,) = embedded(embed(samples.picture(1, size=700), images="clear").uri)
    assert shown.shape == (256, 256, 3)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_grey_and_transparent_images_can_be_shown(channels: int) -> None:
    image = np.full((20, 10, channels), 200, dtype=np.uint8)
    policies: tuple[Literal["blurred", "clear"], ...] = ("blurred", "clear")
    for images in policies:
        (shown,) = embedded(embed(image, images=images).uri)
        assert shown.shape[0] == 2 * shown.shape[1]
        assert shown.ndim == 2 if channels == 1 else shown.shape[2] == 3


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 2), np.uint8)],
)
def test_another_kind_of_array_is_refused(image: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match=r"must be \(height, width, channels\) uint8"):
        embed(image, images="clear")


def test_an_unknown_image_policy_is_refused_rather_than_shown_clear() -> None:
    with pytest.raises(ValueError, match="got 'Blurred'"):
        render(samples.failed(), "Blurred")  # type: ignore[arg-type]


def test_hostile_strings_stay_text_wherever_they_are_printed() -> None:
    attack = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>\u202e\x1b[0m"
    result = samples.failed()
    integrity, carlini, _ = result.checks
    assert carlini.scan is not None
    assert integrity.integrity is not None
    scan = replace(
        carlini.scan,
        name=attack,
        title=attack,
        provenance={attack: attack},
        levels=tuple(replace(level, name=attack) for level in carlini.scan.levels),
        controls=(replace(scans.CONTROLS[0], name=attack, sentence=attack),),
        coverage=replace(
            scans.COVERAGE, invalid={attack: 1}, train_unusable={attack: ("secret.png",)}
        ),
        calibration=replace(scans.CALIBRATION, rule=attack, source=attack),
        findings=tuple(replace(each, level=attack) for each in carlini.scan.findings),
    )
    files = replace(integrity.integrity, files={attack: attack}, pipeline=attack)
    hostile = replace(
        result,
        checkpoint=attack,
        sentence=f"{attack}\n{attack}",
        checks=(
            replace(integrity, integrity=files, sentence=attack),
            replace(carlini, name=attack, scan=scan),
        ),
        policy={attack: (attack, attack)},
        versions={attack: attack},
        timings={attack: 1.0},
    )
    page = render(hostile, "none")
    parsed = Page(page)
    assert "<script" not in page
    assert parsed.all("img") == []
    assert "\u202e" not in page
    assert "\x1b" not in page
    assert not [name for _, attributes in parsed.found for name in attributes if name[:2] == "on"]
    assert "secret.png" not in page


def test_file_names_of_training_images_are_never_shown() -> None:
    words = Page(render(samples.inconclusive())).words
    assert "private-name" not in words
    assert "Unusable: not an image 4" in words


def test_a_scan_without_images_or_curve_is_still_a_report() -> None:
    result = samples.passed()
    carlini = result.checks[1]
    assert carlini.scan is not None
    empty = replace(
        carlini.scan,
        levels=(),
        findings=(),
        num_findings_total=0,
        controls=(),
        curve=(),
        histogram=(),
        metrics={},
        coverage=replace(scans.COVERAGE, generated=0, valid=0),
    )
    page = Page(render(replace(result, checks=(replace(carlini, scan=empty),))))
    assert page.all("svg") == []
    assert "No generated image matches a training image." in page.words


def test_a_pair_is_matched_by_its_finding() -> None:
    result = samples.failed()
    pair = samples.pairs(result)[5]
    page = Page(to_html(result, [pair], images="blurred"))
    assert page.all("img")[0]["alt"] == "Training image train#00037, blurred"
    stranger = Pair(
        finding=replace(pair.finding, train_id=31313), generated=pair.generated, train=pair.train
    )
    assert "train#31313" not in to_html(result, [stranger], images="blurred")
