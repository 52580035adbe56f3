"""The terminal's lines about fine-tunes, written out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from unit.reports import finetune_samples, finetune_scans, prompt_samples, scans

from pytest_memscan.reports import terminal
from pytest_memscan.reports.columns import aligned
from pytest_memscan.results import ConceptScan, Control, RunResult

LEAKY = """\
metric              value   95 % bounds        limit     result
copied_images           4   exact              <= 0      FAIL
esr_strict         30.0 %   [8.73 %, 60.7 %]   <= 10 %   FAIL
extracted_images        3   exact                        info
finextract FAIL: 4 of 10 training images can be extracted.
fine-tune: acme/vask-lora@77ab013, LoRA (diffusers layout, rank 8) of acme/base@3f9c2a1 (known from
  adapter_config.json)
captions: instance prompt (guessed from README.md), this may not be what it was trained with
extracted sets by cosine similarity of builtin:copy descriptors, with 95 % bounds:
  method        AS                     A-ESR 0.7                 A-ESR 0.6                 copied
  direct        0.317 [0.255, 0.379]      0 % [0 %, 25.9 %]         0 % [0 %, 25.9 %]      0 of 10
  CFG           0.396 [0.334, 0.458]      0 % [0 %, 25.9 %]      10.0 % [0.51 %, 39.4 %]   0 of 10
  FineXtract    0.449 [0.387, 0.511]   30.0 % [8.73 %, 60.7 %]   30.0 % [8.73 %, 60.7 %]   3 of 10
  best of 500   0.539 [0.477, 0.601]   40.0 % [15.0 %, 69.7 %]   40.0 % [15.0 %, 69.7 %]   4 of 10
copied: 4 of 10 training images, 3 of them in the extracted set of FineXtract (similarity above
  0.71): train#00003, train#00000, train#00004, train#00008
well-supported groups: 6 of 5 or more images for 10 training images, largest 41, joined from
  similarity 0.62
images: 500 of 500 planned for each method; generated 1500/1500, valid 1498, compared with 10
  training images (10 distinct), invalid 2 (black 2), unusable training images 1 (not an image 1)
controls: re-encoded found 10/10; base images found 0/20
power: an image that is at least 0.60 % of what is made would have come up (95 % confidence)
note: AS and A-ESR are measured with builtin:copy; only numbers of the same descriptor can be
  compared, and the paper's are of SSCD.
denoiser calls: 130,000
memscan: FAIL acme/vask-lora@77ab013 (copied_images 4 > 0, and 1 more)"""

LONE = """\
fine-tune: vask.safetensors, full fine-tune in one file of acme/base@3f9c2a1 (known from the
  metadata of the file)
WARNING: The weights differ from the base's by 87 % of their norm, as those of unrelated checkpoints
  do. Give the right base with --memscan-base.
not proven: a search for the largest group ended at its limit of steps, so there may be larger
  groups than those found
captions: none (none known), it shows less without its own
extracted: 6 well-supported candidates (similarity within above 0.76)
  generated#00017  41 images, mean similarity 0.93
  generated#00114  37 images, mean similarity 0.90
  generated#00211  22 images, mean similarity 0.87
  generated#00308  15 images, mean similarity 0.84
  generated#00405  9 images, mean similarity 0.81
  and 1 more
well-supported groups: 6 of 5 or more images, largest 41, joined from similarity 0.62
images: 500 of 500 planned for each method; generated 500/500, valid 500, no training images to
  compare with
power: an image that is at least 0.60 % of what is made would have come up (95 % confidence)
There were no training images to compare with, so no share of them is known. A candidate is what the
  fine-tune makes again and again; whether it is a training image can be seen by those who know
  these (--memscan-train-data).
"""

SEVERAL = """\
  acme/vask-lora@77ab013, LoRA: copied 4 of 10 training images, 3 of them extracted, AS 0.449
  ./out/checkpoint-200, full fine-tune: copied 0 of 10 training images, AS 0.449
    stopped early: none is copied, and one that comes up in 2 % of the images would have been seen
  acme/hats-lora, LoRA: copied 4 of 10 training images, 3 of them extracted, AS 0.449
    WARNING: The base hardly belongs to it.
-v shows what was found in each of them
"""


def summary(result: RunResult, *, verbosity: int = 0, width: int = 100) -> str:
    return "\n".join(terminal.summary_lines(result, verbosity=verbosity, width=width))


def of_concepts(*concepts: ConceptScan, verbosity: int = 0) -> str:
    result = finetune_samples.leaky()
    check = replace(result.checks[0], finetunes=finetune_scans.scan(*concepts))
    return summary(replace(result, checks=(check,)), verbosity=verbosity, width=1000)


def test_a_leaking_lora_shows_what_was_extracted_beside_the_baselines() -> None:
    assert summary(finetune_samples.leaky()) == LEAKY


def test_without_training_images_there_are_candidates_and_no_rates() -> None:
    shown = summary(finetune_samples.lone())
    assert LONE in shown
    assert "A-ESR 0.7" not in shown


def test_a_clean_fine_tune_shows_what_would_have_come_up() -> None:
    shown = summary(finetune_samples.clean())
    assert "\ncopied: 0 of 10 training images (similarity above 0.71)\n" in shown
    assert "\nimages: 300 of 500 planned for each method; generated 900/1500, valid 900" in shown
    assert "\nstopped early: none is copied, and one that comes up in 2 % of the images" in shown
    assert "\npower: an image that is at least 0.99 % of what is made" in shown
    assert "\nlist of captions: 11 found in captions.txt, 10 used; dropped 1 (empty 1)" in shown


def test_a_set_of_fine_tunes_starts_with_its_average_and_has_a_line_for_each() -> None:
    shown = summary(finetune_samples.several())
    average = shown.index("average over concepts: 3 fine-tunes, 30 training images\n")
    assert average < shown.index("best of 1,300") < shown.index(SEVERAL)
    assert "\nfine-tune: " not in shown
    many = tuple(replace(finetune_scans.CONCEPT, name=f"lora-{index}") for index in range(20))
    assert "  lora-11, LoRA" in of_concepts(*many)
    assert "  and 8 more\n" in of_concepts(*many)
    missed = replace(finetune_scans.CONTROLS[1], num_found=3)
    doubtful = replace(finetune_scans.CONCEPT, controls=(missed,))
    assert "    controls: base images found 3/20, expected at most 1: MISSED\n" in of_concepts(
        finetune_scans.CONCEPT, doubtful
    )


def test_a_set_without_training_images_has_no_average() -> None:
    lone = finetune_scans.lone_concept()
    shown = of_concepts(lone, replace(lone, name="other"))
    assert (
        "\nconcepts: 2 fine-tunes\n  vask.safetensors, full fine-tune in one file: 6 well-s"
        in shown
    )


def test_more_verbose_shows_every_image_method_and_rule() -> None:
    shown = summary(finetune_samples.leaky(), verbosity=1, width=200)
    for expected in (
        "differs: unet, text_encoder; the denoiser by 2.13 % of the norm of its weights",
        "    best of 500   0.401 [0.339, 0.463]",
        "  FineXtract: w' 5, k 0; 500 images, 10 extracted; 50,000 denoiser calls",
        "  train#00003 <- generated#00017  similarity 0.88 (copy), 41 images, mean similarity 0.93",
        "  train#00008 <- generated#00499  similarity 0.81 (copy), not extracted",
        "  train#00006 <- generated#00390  similarity 0.34 (no copy), a single image",
        "  train#00008  best 0.81 (generated#00499), extracted 0.42, copied",
        "rule: The number of groups of 5 or more images stays at 6",
        "copies: an image is a copy above similarity 0.710: two different training images",
    ):
        assert f"\n{expected}" in shown, expected
    several = summary(finetune_samples.several(), verbosity=1, width=200)
    assert several.count("\nfine-tune: ") == 3
    assert several.count("\n  copied: ") == 3


def test_of_several_settings_the_one_that_extracts_most_is_shown() -> None:
    weaker = replace(
        finetune_scans.FINEXTRACT, settings="w' 9", num_copied_extracted=1, num_images=498
    )
    methods = (finetune_scans.DIRECT, finetune_scans.FINEXTRACT, weaker)
    shown = of_concepts(replace(finetune_scans.CONCEPT, methods=methods, num_copied=5))
    rows = [line.split("   ")[0].strip() for line in shown.splitlines() if "0." in line]
    assert [row for row in rows if row.startswith(("direct", "Fine", "best"))] == [
        "direct",
        "FineXtract (w' 5, k 0)",
        "best of 500",
        "FineXtract (w' 9)",
    ]
    assert "3 of them in the extracted set of FineXtract (w' 5, k 0) (similarity" in shown
    assert "train#00008; 1 by other methods only\n" in shown


@pytest.mark.parametrize("result", finetune_samples.every_kind(), ids=lambda r: r.checkpoint)
def test_lines_are_plain_and_end_with_the_verdict(result: RunResult) -> None:
    verdict = terminal.verdict_line(result)
    assert terminal.summary_lines(result, verbosity=-1, width=80) == [verdict]
    for verbosity in (0, 1):
        lines = terminal.summary_lines(result, verbosity=verbosity, width=60)
        assert lines[-1] == verdict
        for line in lines:
            assert line.isascii()
            assert line.isprintable()
            assert line == line.rstrip()


@pytest.mark.parametrize("result", finetune_samples.every_kind(), ids=lambda r: r.checkpoint)
def test_the_summary_stays_short_and_within_a_hundred_columns(result: RunResult) -> None:
    lines = terminal.summary_lines(result, verbosity=0, width=100)
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 100


def test_a_metric_is_said_once() -> None:
    shown = summary(finetune_samples.leaky())
    assert shown.count("esr_strict") == 1  # a limit was set
    assert "esr_loose" not in shown  # it stands in the table of methods


def test_numbers_that_were_counted_have_no_bounds() -> None:
    exact = scans.count(0)
    alone = replace(finetune_scans.FINEXTRACT, average_similarity=exact, best_similarity=exact)
    shown = of_concepts(replace(finetune_scans.CONCEPT, methods=(alone,)))
    assert "  FineXtract    0.000 exact   30.0 %" in shown


def test_a_hostile_name_cannot_steer_the_terminal_or_a_ci_log() -> None:
    attack = "\x1b[2J ::error::boo\u202e"
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
        clustering=replace(concept.clustering, sentence=attack, rule=attack),
        stopped=attack,
        cut_sentence=attack,
        controls=(
            Control(
                name=attack,
                sentence=attack,
                num_images=1,
                num_found=0,
                minimum_found=1,
                maximum_found=1,
            ),
        ),
    )
    for concepts in ((hostile,), (hostile, hostile)):
        scan = finetune_scans.scan(*concepts)
        scan = replace(scan, notes=(attack,), measure=replace(scan.measure, name=attack))
        result = finetune_samples.leaky()
        check = replace(result.checks[0], finetunes=scan)
        for verbosity in (0, 1):
            lines = terminal.summary_lines(
                replace(result, checks=(check,)), verbosity=verbosity, width=30
            )
            for line in lines:
                assert not line.lstrip().startswith("::")
                assert line.isprintable()


def test_columns_line_up_and_end_without_blanks() -> None:
    assert aligned([("a", "1", "x"), ("bcd", "10", "")], right=(1,)) == [
        "a      1   x",
        "bcd   10",
    ]


def test_a_run_without_fine_tunes_has_no_line_of_them() -> None:
    assert "fine-tune" not in summary(prompt_samples.leaky(), verbosity=1)
