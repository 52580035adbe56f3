"""The words for steering prompt by prompt; a prompt is named by its number, never by its text."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_memscan.reports.estimates import share_text
from pytest_memscan.reports.prompt_text import place_text
from pytest_memscan.results import PromptLeak, SplittingScan


@dataclass(frozen=True, kw_only=True)
class PromptName:
    """What reports call a prompt."""

    name: str  # "prompt#00017"
    place: str  # "line 18"; empty where it would say too much

    def __str__(self) -> str:
        """``"prompt#00017 (line 18)"``."""
        return f"{self.name} ({self.place})" if self.place else self.name


def prompt_names(scan: SplittingScan) -> dict[int, PromptName]:
    """Every prompt that was scanned or that a copy was made with, by id."""
    places = {each.prompt_id: place_text(each.place) for each in scan.prompts}
    of_copies = {copy.prompt_id for copy in scan.copies if copy.prompt_id is not None}
    return {
        prompt_id: PromptName(name=f"prompt#{prompt_id:05d}", place=places.get(prompt_id, ""))
        for prompt_id in sorted({*places, *of_copies})
    }


def ordinary_text(scan: SplittingScan) -> str:
    """What an ordinary image is made with; empty for an unconditional checkpoint.

    ``"one of the 12 prompts, each as often"``.
    """
    if len(scan.prompts) == 1:
        return "the one prompt scanned"
    if not scan.prompts:
        return ""
    return f"one of the {len(scan.prompts):,} prompts, each as often"


def of_prompts(scan: SplittingScan) -> str:
    """``" of 12 prompts"``; empty for an unconditional checkpoint."""
    if not scan.prompts:
        return ""
    return f" of {len(scan.prompts):,} prompt{'' if len(scan.prompts) == 1 else 's'}"


def leaking_prompts(scan: SplittingScan) -> tuple[PromptLeak, ...]:
    """Those that gave copies, worst first: by steering, where its rates say something."""
    return tuple(
        sorted(
            (each for each in scan.prompts if gave_copies(each)),
            key=lambda each: (
                0.0 if scan.degenerate else -each.leak_rate.value,
                -each.plain_rate.value,
                -each.num_copied,
                each.prompt_id,
            ),
        )
    )


def gave_copies(leak: PromptLeak) -> bool:
    """Whether any image of the prompt is a copy, steered or not."""
    return leak.num_copies > 0


def leaking_text(scan: SplittingScan) -> str:
    """``"2 of 12, worst first"``."""
    leaking, total = len(leaking_prompts(scan)), len(scan.prompts)
    if not leaking:
        return f"none of {total:,}"
    return f"{leaking:,} of {total:,}" + (", worst first" if leaking > 1 else "")


def quiet_text(scan: SplittingScan) -> str:
    """What is known of the prompts that gave no copy; empty where every prompt gave one.

    An average over prompts hides how little is known of a single one, so this says it.
    """
    quiet = [each.plain_rate for each in scan.prompts if not gave_copies(each)]
    if not quiet:
        return ""
    least_known = max(quiet, key=lambda each: each.upper)
    silent, total = len(quiet), len(scan.prompts)
    which = "" if silent == total else f"{silent:,} of {total:,} gave no copy; "
    whose = "its" if silent == 1 else "each one's"
    return (
        f"{which}{whose} own unsteered images alone exclude a leak rate above "
        f"{share_text(least_known.upper)} ({100 * least_known.confidence:g} % confidence)"
    )
