"""The terminal's lines about prompts, keys and repeats, written out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from unit.reports import prompt_samples, prompt_scans, samples, scans

from pytest_memscan.reports import terminal
from pytest_memscan.results import CheckOutcome, KeyScan, PromptScan, RunResult, Verdict

LEAKY = """\
metric                  value   95 % bounds        limit     result
memorised_prompts          13   exact              <= 0      FAIL
prompt_leak_rate       1.60 %   [0.68 %, 5.21 %]   <= 10 %   PASS
extracted_canaries          2   exact              <= 0      FAIL
verbatim_prompts           12   exact                        info
template_prompts            1   exact                        info
low_variance_prompts        1   exact                        info
carlini FAIL: 13 prompts are memorised.
extended_side FAIL: 2 of 40 canaries can be extracted.
memorised prompts: 13 of 140 sampled (12 verbatim, 1 template); 9 confirmed by a training image (-v
  lists 17)
  prompt#00017 (line 18)  verbatim, clique 10 of 10 images, tiled L2 0.041, train#00003 at 0.05
  prompt#00070 (line 73)  verbatim, clique 10 of 10 images, tiled L2 0.043, train#00014 at 0.06
  prompt#00123 (line 128)  verbatim, clique 10 of 10 images, tiled L2 0.045, train#00025 at 0.07
  prompt#00176 (line 183)  verbatim, clique 10 of 10 images, tiled L2 0.047, train#00036 at 0.08
  prompt#00229 (line 238)  verbatim, clique 10 of 10 images, tiled L2 0.049
  prompt#00282 (line 293)  verbatim, clique 10 of 10 images, tiled L2 0.051, train#00058 at 0.10
  prompt#00335 (line 348)  verbatim, clique 10 of 20 images, tiled L2 0.053, train#00069 at 0.11
  prompt#00388 (line 403)  verbatim, clique 10 of 20 images, tiled L2 0.055, train#00080 at 0.12
  prompt#00441 (line 458)  verbatim, clique 10 of 20 images, tiled L2 0.057
  prompt#00494 (line 513)  verbatim, clique 10 of 20 images, tiled L2 0.059, train#00102 at 0.14
  and 3 more
undecided: 2 prompts when sampling stopped
screening: 2,000 prompts screened, 44 suspicious, 40 escalated, 100 of the others audited, 1 of
  these memorised: miss rate 1.00 % [0.05 %, 4.66 %]
  noise_magnitude: 8 calls a prompt, higher is memorised, 37 above 1.24 (200 negatives)
  denoising_confidence: 4 calls a prompt, lower is memorised, 9 below 0.0312 (200 negatives)
  seed_agreement: 10 calls a prompt, higher is memorised, no threshold (for information)
  descriptor_consistency: not applicable: no descriptor was chosen (--memscan-descriptor)
controls: planted clique found 20/20
denoiser calls: 41,200 spent (negatives 12,800, screening 1,600, sampling 26,800); the fixed
  protocol would have spent 5,000,000 (121 times as many)
prompts: 2,104 found in captions.txt, 2,000 used; dropped 101 (duplicate 98, empty 3); unusable 3
  (NUL character 1: line 5; not UTF-8 2: line 17, line 40); 12 cut to what the tokenizer reads; all
  of them scanned
images: generated 2680/2680, valid 2676, compared with 150 training images (150 distinct), invalid 4
  (black 4)
power: a prompt that gives one image in at least 10 % of its generations is called clean with a
  probability of at most 5 %
keys: 3 of 60 flagged by their pixel variance; canaries extracted: 2 of 40 (-v lists 6)
  canary#00000 (line 1)  flagged, pixel variance 0.0012 (p 0.005), 16 images, mean image nearest to
    train#00012 at 0.04
  prompt#00001 (line 2)  flagged, pixel variance 0.0052 (p 0.005), 16 images, mean image nearest to
    train#00013 at 0.09
  canary#00002 (line 3)  flagged, pixel variance 0.0092 (p 0.005), 16 images
variance over 16 images a key: pixel of strings 2 below 0.0087 (decides; 200 negatives); latent of
  strings 2 below 0.142 (200 negatives); pixel of prompts 1 below 0.0067 (decides; 200 negatives);
  latent of prompts 1 below 0.118 (200 negatives)
canaries: 41 found in canaries.txt, 40 used; dropped 1 (empty 1); all of them scanned
memscan: FAIL builtin:leaky-t2i (memorised_prompts 13 > 0, and 1 more)"""

REPEATING = """\
metric            value   bounds   limit   result
repeated_groups       7   exact    <= 0    FAIL
repeats FAIL: 7 groups of generated images repeat.
repeats: 7 groups of at least 3 near-identical images (0.012 expected by chance); 57 of the first
  2,000 generated images (2.85 %) are in one
  generated#00017, generated#00114, generated#00211, generated#00308 and 17 more
  generated#00000, generated#00100, generated#00900, generated#01100 and 1 more
  generated#00001, generated#00101, generated#00901, generated#01101 and 1 more
  generated#00002, generated#00102, generated#00902, generated#01102 and 1 more
  generated#00003, generated#00103, generated#00903, generated#01103 and 1 more
  and 2 more groups
power: an image that is at least 0.32 % of what the model makes would have come up 3 times (95 %
  confidence)
rule: a repeated group is 3 or more generated images whose distances from each other are at most 0.5
  of the distance from any of them to another generated image
images: generated 2000/2000, valid 2000, no training images to compare with
denoiser calls: 100,000
An image that comes up again and again is probably a training image. One that was copied only once
  does not show here, since there was nothing to compare with.
memscan: FAIL acme/ddpm (repeated_groups 7 > 0)"""


def summary(result: RunResult, *, verbosity: int = 0, width: int = 100) -> str:
    return "\n".join(terminal.summary_lines(result, verbosity=verbosity, width=width))


def of_scan(scan: PromptScan, *, verbosity: int = 0) -> str:
    check = CheckOutcome(name="carlini", verdict=Verdict.PASS, sentence="-", prompt_scan=scan)
    result = replace(samples.passed(), checks=(check,))
    return summary(result, verbosity=verbosity, width=1000)


def of_keys(keys: KeyScan) -> str:
    check = CheckOutcome(name="extended_side", verdict=Verdict.PASS, sentence="-", keys=keys)
    return summary(replace(samples.passed(), checks=(check,)), width=1000)


def test_a_text_to_image_run_shows_what_was_memorised_missed_and_spent() -> None:
    assert summary(prompt_samples.leaky()) == LEAKY


def test_an_unconditional_run_without_training_images_shows_what_repeats() -> None:
    assert summary(prompt_samples.repeating()) == REPEATING


@pytest.mark.parametrize("result", prompt_samples.every_kind(), ids=lambda r: r.checkpoint)
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


def test_more_verbose_lists_every_finding_and_every_rule() -> None:
    shown = summary(prompt_samples.leaky(), verbosity=1, width=200)
    assert (
        "  prompt#00402 (line 411)  template, stillest quarter varies 2.31 % as much, "
        "40 images, train#00077 at 0.22, from the audit\n"
    ) in shown
    assert "  prompt#00900  not memorised, clique 1 of 60 images, from the audit\n" in shown
    assert "  prompt#00903  not memorised, clique 4 of 500 images, tiled L2 0.070, undecided" in (
        shown
    )
    assert "  and 123 more\n" in shown
    assert "canary#00003 (line 4)  not flagged, pixel variance 0.0132 (p 0.31)" in shown
    assert "rule: Two images are near-identical below a tiled L2 of 0.073" in shown
    assert "rule: A key is flagged below the variance" in shown


def test_a_probe_list_says_what_it_cannot_show() -> None:
    shown = summary(prompt_samples.probed(), width=1000)
    assert "memorised prompts: none of 65 sampled (-v lists 4)" in shown
    assert "probes: No prompts were given, so a built-in list of probes was scanned." in shown
    assert "finding none does not show that there is none" in shown
    assert "confirmed by a training image" not in shown
    assert "images: generated 3900/3900, valid 3900, no training images to compare with" in shown


def test_a_check_that_does_not_apply_is_shown_with_its_sentence() -> None:
    assert (
        "prompt_detectors NOT APPLICABLE: The checkpoint is guidance-distilled: it has no "
        "unconditional prediction."
    ) in summary(prompt_samples.probed(), width=200)


def test_a_screening_is_shown_once_and_on_its_own_where_nothing_was_sampled() -> None:
    assert summary(prompt_samples.leaky()).count("noise_magnitude: ") == 1
    shown = summary(prompt_samples.screened(), width=1000)
    assert (
        "screening: 2,000 prompts screened, 44 suspicious, 0 escalated, none of the others "
        "audited: how many were missed is not known"
    ) in shown
    assert shown.count("noise_magnitude: ") == 1


def test_a_budget_that_ends_early_says_which_share_was_scanned() -> None:
    prompts = replace(prompt_scans.PROMPTS, num_planned=500)
    assert ("; 500 of them scanned (25.0 %), the budget reaches no further\n") in of_scan(
        replace(prompt_scans.prompt_scan(), prompts=prompts)
    )


def test_counts_of_a_list_that_was_cut_are_lower_limits() -> None:
    scan = prompt_scans.prompt_scan()
    cut = replace(scan, findings=scan.findings[:5], metrics={})
    assert "memorised prompts: at least 5 of 140 sampled (at least 5 verbatim" in of_scan(cut)
    whole = replace(scan, metrics={})
    assert "memorised prompts: 13 of 140 sampled (12 verbatim, 1 template)" in of_scan(whole)
    keys = prompt_scans.key_scan()
    cut_keys = replace(keys, findings=keys.findings[:2], metrics={})
    assert "keys: at least 2 of 60" in of_keys(cut_keys)
    assert "canaries extracted: at least 1 of 40" in of_keys(cut_keys)


def test_numbers_that_are_not_there_leave_no_gap() -> None:
    bare = replace(
        prompt_scans.VERBATIM, clique_distance=None, train_id=None, train_distance=None, place=""
    )
    scan = replace(
        prompt_scans.prompt_scan(),
        findings=(bare,),
        num_findings_total=1,
        num_confirmed=None,
        metrics={"memorised_prompts": scans.count(1)},
        controls=(),
        calls=replace(prompt_scans.CALLS, negatives=0, screening=0, sampling=0),
    )
    shown = of_scan(scan)
    assert "\n  prompt#00017  verbatim, clique 10 of 10 images\n" in shown
    assert "would have spent 5,000,000\n" in shown
    assert "controls:" not in shown
    keys = replace(prompt_scans.key_scan(), num_canaries=0, findings=(), num_findings_total=0)
    assert "keys: 0 of 60 flagged by their pixel variance\n" in of_keys(keys)


def test_no_repeats_are_told_with_what_would_have_shown() -> None:
    result = prompt_samples.repeating()
    found = replace(prompt_scans.repeats(), num_groups=0, num_repeating=0, largest=(), metrics={})
    shown = summary(replace(result, checks=(replace(result.checks[0], repeats=found),)), width=200)
    assert "repeats: none: no 3 of 2,000 generated images are near-identical\n" in shown
    assert "power: an image that is at least 0.32 %" in shown


def test_a_hostile_name_cannot_steer_the_terminal_or_a_ci_log() -> None:
    attack = "\x1b[2J ::error::boo\u202e"
    scan = prompt_scans.prompt_scan()
    detector = replace(scan.screening.detectors[0], name=attack)
    silent = replace(scan.screening.detectors[3], name=attack, not_applicable=attack * 5)
    hostile = replace(
        scan,
        prompts=replace(
            prompt_scans.PROMPTS,
            origin=attack,
            dropped={attack: 1},
            unusable={attack: (attack, "line 3")},
        ),
        screening=replace(scan.screening, detectors=(detector, silent)),
        findings=tuple(replace(each, route=attack, place=attack) for each in scan.findings),
        rule=replace(scan.rule, sentence=attack),
    )
    check = CheckOutcome(name="carlini", verdict=Verdict.PASS, sentence="-", prompt_scan=hostile)
    result = replace(samples.passed(), checks=(check,))
    for verbosity in (0, 1):
        for line in terminal.summary_lines(result, verbosity=verbosity, width=30):
            assert not line.lstrip().startswith("::")
            assert line.isprintable()
