"""Which checks a run has, by what is known of the checkpoint and of the inputs."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import get_args

import pytest

from pytest_memscan.checkpoints.families import Kind
from pytest_memscan.checks import (
    CHECKS,
    Situation,
    check_measured,
    checks_of,
    subjects_of,
    why_not,
)
from pytest_memscan.errors import OptionError
from pytest_memscan.policy import DEFAULT_POLICY, METRICS, RATES, parse_threshold, whole_policy

KINDS: tuple[Kind, ...] = get_args(Kind)


@pytest.mark.parametrize(
    ("kind", "has_train_data", "expected"),
    [
        ("unconditional", True, ("integrity", "duplicates", "carlini", "splitting", "status")),
        ("unconditional", False, ("integrity", "repeats", "status")),
        (
            "text-to-image",
            True,
            (
                "integrity",
                "duplicates",
                "prompt_detectors",
                "carlini",
                "extended_side",
                "status",
            ),
        ),
        (
            "text-to-image",
            False,
            ("integrity", "prompt_detectors", "carlini", "extended_side", "status"),
        ),
    ],
)
def test_checks_follow_from_the_checkpoint_and_the_training_images(
    kind: Kind, has_train_data: bool, expected: tuple[str, ...]
) -> None:
    assert checks_of(Situation(kind=kind, has_train_data=has_train_data)) == expected


@pytest.mark.parametrize("has_train_data", [True, False])
def test_a_checkpoint_that_is_not_fetched_yet_has_the_checks_of_both_kinds(
    has_train_data: bool,
) -> None:
    both = set(checks_of(Situation(kind=None, has_train_data=has_train_data)))
    apart = [set(checks_of(Situation(kind=kind, has_train_data=has_train_data))) for kind in KINDS]
    assert both == apart[0] | apart[1]


@pytest.mark.parametrize("has_train_data", [True, False])
@pytest.mark.parametrize("kind", [None, *KINDS])
def test_checks_keep_their_order(kind: Kind | None, has_train_data: bool) -> None:
    checks = checks_of(Situation(kind=kind, has_train_data=has_train_data))
    assert list(checks) == sorted(checks, key=CHECKS.index)
    assert (checks[0], checks[-1]) == ("integrity", "status")


def test_scans_asked_for_by_name_are_the_only_ones() -> None:
    def asked(kind: Kind, *scans: str, has_train_data: bool = False) -> tuple[str, ...]:
        return checks_of(Situation(kind=kind, has_train_data=has_train_data, scans=scans))

    assert asked("text-to-image", "carlini") == ("integrity", "carlini", "status")
    assert asked("text-to-image", "extended_side", "prompt_detectors") == (
        "integrity",
        "prompt_detectors",
        "extended_side",
        "status",
    )
    # Duplicates belong to the training images rather than to a scan.
    assert asked("unconditional", "carlini", has_train_data=True) == (
        "integrity",
        "duplicates",
        "carlini",
        "status",
    )
    assert asked("unconditional", "extended_side") == ("integrity", "status")
    assert asked("unconditional", "splitting") == ("integrity", "status")
    assert asked("unconditional", "splitting", has_train_data=True) == (
        "integrity",
        "duplicates",
        "splitting",
        "status",
    )


def test_a_check_that_a_run_of_its_kind_has_applies_and_others_say_why_not() -> None:
    known = (True, False)
    for kind, has_train_data, pixels, has_base, is_set in product(KINDS, *[known] * 4):
        situation = Situation(
            kind=kind,
            has_train_data=has_train_data,
            has_train_pixels=pixels,
            has_base=has_base,
            is_set=is_set,
        )
        checks = checks_of(situation)
        for name in CHECKS:
            reason = why_not(name, kind, situation=situation)
            assert bool(reason) is (name not in checks), (name, kind, has_train_data)


def test_reasons_are_about_what_is_missing() -> None:
    def reason(name: str, kind: Kind, *, has_train_data: bool = False) -> str:
        return why_not(name, kind, situation=Situation(kind=kind, has_train_data=has_train_data))

    assert "needs prompts" in reason("prompt_detectors", "unconditional")
    assert "needs prompts" in reason("extended_side", "unconditional", has_train_data=True)
    assert "text-to-image" in reason("repeats", "text-to-image")
    assert "says more" in reason("repeats", "unconditional", has_train_data=True)
    assert "memscan::repeats" in reason("carlini", "unconditional")
    assert reason("duplicates", "text-to-image") == "no training images were given"
    for has_train_data in (True, False):
        asked_for_by_name = reason("splitting", "text-to-image", has_train_data=has_train_data)
        assert "--memscan-scans splitting asks for it" in asked_for_by_name
    assert "no training images were given" in reason("splitting", "unconditional")


@pytest.mark.parametrize(
    ("kind", "has_train_data", "expected"),
    [
        ("unconditional", True, {"images", "rare", "duplicates"}),
        ("unconditional", False, {"repeats"}),
        ("text-to-image", True, {"prompts", "keys", "duplicates"}),
        ("text-to-image", False, {"prompts", "keys"}),
        (None, False, {"images", "prompts", "keys", "repeats"}),
        (None, True, {"images", "rare", "prompts", "keys", "duplicates"}),
    ],
)
def test_subjects_are_what_the_checks_measure(
    kind: Kind | None, has_train_data: bool, expected: set[str]
) -> None:
    assert subjects_of(Situation(kind=kind, has_train_data=has_train_data)) == expected
    assert expected <= set(DEFAULT_POLICY)


def test_what_is_not_run_measures_nothing() -> None:
    run = Situation(kind="text-to-image", has_train_data=False, scans=("prompt_detectors",))
    assert subjects_of(run) == set()
    assert subjects_of(replace(run, scans=("extended_side",))) == {"keys"}


@pytest.mark.parametrize("has_train_data", [True, False])
@pytest.mark.parametrize("kind", [None, *KINDS])
def test_only_lines_that_a_run_measures_are_accepted(
    kind: Kind | None, has_train_data: bool
) -> None:
    situation = Situation(kind=kind, has_train_data=has_train_data)
    subjects = subjects_of(situation)
    for subject, metrics in METRICS.items():
        for metric in metrics:
            line = parse_threshold(f"{metric} <= {0.1 if metric in RATES else 1}")
            if subject in subjects:
                check_measured([line], situation)
            else:
                with pytest.raises(OptionError, match=f"measures {metric}"):
                    check_measured([line], situation)
    defaults = whole_policy((), subjects)
    check_measured(defaults, situation)


def test_a_line_that_training_images_would_help_says_so() -> None:
    line = parse_threshold("extracted <= 0", "memscan.toml")
    with pytest.raises(OptionError) as caught:
        check_measured([line], Situation(kind="unconditional", has_train_data=False))
    assert str(caught.value) == (
        'memscan.toml: "extracted <= 0" cannot be judged: no check of this run (integrity, '
        "repeats, status) measures extracted; pass --memscan-train-data, or write a limit on "
        "repeated_groups"
    )
    with pytest.raises(OptionError, match="write a limit on memorised_prompts or") as caught:
        check_measured([line], Situation(kind="text-to-image", has_train_data=False))
    assert "--memscan-train-data" not in str(caught.value)


def test_a_line_on_a_scan_that_was_not_asked_for_says_what_would_do() -> None:
    line = parse_threshold("memorised_prompts <= 0")
    with pytest.raises(OptionError, match="ask for more scans"):
        check_measured(
            [line],
            Situation(kind="text-to-image", has_train_data=False, scans=("prompt_detectors",)),
        )
    with pytest.raises(OptionError, match="write a limit on extracted_canaries"):
        check_measured(
            [line], Situation(kind="text-to-image", has_train_data=False, scans=("extended_side",))
        )


# --- an index in place of training images -------------------------------------------------------

INDEX = Situation(kind="unconditional", has_train_data=True, has_train_pixels=False)


def test_an_index_has_no_images_to_steer_towards() -> None:
    assert checks_of(INDEX) == ("integrity", "duplicates", "carlini", "status")
    assert why_not("splitting", "unconditional", situation=INDEX) == (
        "an index holds descriptors only, and steering needs the training images themselves"
    )
    assert subjects_of(INDEX) == {"images", "duplicates"}
    assert "splitting" not in checks_of(replace(INDEX, kind=None))
    assert "splitting" not in checks_of(replace(INDEX, scans=("splitting",)))


def test_a_line_on_rare_copies_says_when_the_images_themselves_would_do() -> None:
    line = parse_threshold("extractable_images <= 0")
    with pytest.raises(OptionError, match="pass the images themselves with --memscan-train-data"):
        check_measured([line], INDEX)
    with pytest.raises(OptionError, match="; pass --memscan-train-data, or"):
        check_measured([line], Situation(kind="unconditional", has_train_data=False))
    with pytest.raises(OptionError, match="; write a limit on extracted or") as caught:
        check_measured([line], replace(INDEX, has_train_pixels=True, scans=("carlini",)))
    assert "--memscan-train-data" not in str(caught.value)


# --- fine-tunes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("has_train_data", [True, False])
def test_a_fine_tune_whose_base_is_known_is_attacked_with_it_and_nothing_else(
    has_train_data: bool,
) -> None:
    run = Situation(kind="text-to-image", has_base=True, has_train_data=has_train_data)
    duplicates = ("duplicates",) if has_train_data else ()
    assert checks_of(run) == ("integrity", *duplicates, "finextract", "status")
    subjects = {"duplicates", "finetunes"} if has_train_data else {"candidates"}
    assert subjects_of(run) == subjects


def test_scans_of_prompts_run_beside_it_when_they_are_asked_for_by_name() -> None:
    run = Situation(kind="text-to-image", has_base=True, has_train_data=False)
    assert checks_of(replace(run, scans=("finextract", "carlini"))) == (
        "integrity",
        "finextract",
        "carlini",
        "status",
    )
    assert checks_of(replace(run, scans=("prompt_detectors",))) == (
        "integrity",
        "prompt_detectors",
        "status",
    )
    assert subjects_of(replace(run, scans=("finextract", "extended_side"))) == {
        "candidates",
        "keys",
    }
    reason = why_not("carlini", "text-to-image", situation=run)
    assert "--memscan-scans finextract,carlini runs both" in reason


def test_without_a_base_it_says_what_to_pass_and_unconditional_ones_have_no_use_for_it() -> None:
    run = Situation(kind="text-to-image", has_base=False, has_train_data=True)
    assert "--memscan-base" in why_not("finextract", "text-to-image", situation=run)
    assert checks_of(replace(run, scans=("finextract",))) == ("integrity", "duplicates", "status")
    known = replace(run, kind="unconditional", has_base=True)
    assert "unconditional" in why_not("finextract", "unconditional", situation=known)
    assert "finextract" not in checks_of(known)


def test_what_may_turn_out_to_be_a_fine_tune_has_the_checks_of_both() -> None:
    unknown = Situation(kind=None, has_base=None, has_train_data=False)
    checks = set(checks_of(unknown))
    either = [
        set(checks_of(unknown.settled(kind, has_base=has_base)))
        for kind, has_base in product(KINDS, (True, False))
    ]
    assert checks == set().union(*either)
    # Once it is here, what does not apply says so and the rest runs.
    settled = unknown.settled("text-to-image", has_base=True)
    assert {name for name in checks if why_not(name, "text-to-image", situation=settled)} == {
        "repeats",
        "prompt_detectors",
        "carlini",
        "extended_side",
    }
    assert subjects_of(unknown) >= {"candidates", "prompts", "repeats"}


def test_a_set_is_attacked_and_nothing_else_even_by_name() -> None:
    run = Situation(kind="text-to-image", has_base=True, has_train_data=True, is_set=True)
    assert checks_of(run) == ("integrity", "finextract", "status")
    assert checks_of(replace(run, scans=("carlini",))) == ("integrity", "status")
    for name in ("carlini", "splitting", "duplicates", "prompt_detectors"):
        assert "a set of fine-tunes" in why_not(name, "text-to-image", situation=run)


def test_lines_on_fine_tunes_need_training_images_or_candidates() -> None:
    run = Situation(kind="text-to-image", has_base=True, has_train_data=False)
    check_measured([parse_threshold("extraction_candidates <= 0")], run)
    with pytest.raises(OptionError, match="pass --memscan-train-data, or write a limit on"):
        check_measured([parse_threshold("copied_images <= 0")], run)
    check_measured([parse_threshold("esr_strict <= 0.1")], replace(run, has_train_data=True))
