"""A splitting scan as it is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pytest_memscan.results import (
    Control,
    Coverage,
    PromptCoverage,
    SplittingScan,
    SteeredCopy,
)
from pytest_memscan.scans.evidence import Cut
from pytest_memscan.scans.splitting_copies import extractable
from pytest_memscan.scans.splitting_rates import growth, leak_rate, plain_rate, rates_at
from pytest_memscan.scans.splitting_source import Targets
from pytest_memscan.scans.splitting_trajectories import Trajectories

NAME = "splitting"
TITLE = "Splitting: rare copies"
MAX_COPIES = 500


def result_of(
    made: Trajectories,
    copies: Sequence[SteeredCopy],
    *,
    targets: Targets,
    cut: Cut,
    plain_cut: Cut,
    reach: int,
    asked_reach: int | None,
    sampler: str,
    denoiser_calls: int,
    controls: tuple[Control, ...],
    coverage: Coverage,
    prompt_coverage: PromptCoverage | None,
    provenance: Mapping[str, str],
) -> SplittingScan:
    """Put together what was made, found and planted; the arguments are named as in the result."""
    reference, num_targets, below = targets.reference, len(targets.ids), cut.dissimilarity
    ends, plain, islands = made.ends, made.ends[0], made.ends[1:]
    leaked = leak_rate(ends, below, num_targets)
    return SplittingScan(
        name=NAME,
        title=f"{TITLE}, {reference.measure.name}",
        measure=reference.measure,
        sampler=sampler,
        reach=reach,
        asked_reach=asked_reach,
        metrics={
            "extractable_images": extractable(copies, reach),
            "steered_leak_rate": leaked,
        },
        copies=tuple(copies[:MAX_COPIES]),
        num_copies_total=len(copies),
        leak_rate=leaked,
        plain_rate=plain_rate(plain, below),
        num_plain=int(np.isfinite(plain.dissimilarities).sum()),
        num_plain_copies=int((plain.dissimilarities <= below).sum()),
        num_plain_close=int(
            (
                (plain.dissimilarities > below) & (plain.dissimilarities <= plain_cut.dissimilarity)
            ).sum()
        ),
        num_islands=made.plan.num_islands,
        num_steered=made.num_steered,
        num_targets=num_targets,
        num_screened=made.plan.num_screened,
        num_tried=made.num_tried,
        growth=growth(ends, below, num_targets=num_targets, reach=reach),
        rates=tuple(rates_at(ends, below, targets)),
        least_effective=min(each.least_effective for each in islands),
        fewest_ancestors=min(each.num_ancestors for each in islands),
        degenerate=made.degenerate(),
        calibration=cut.calibration,
        controls=controls,
        coverage=coverage,
        denoiser_calls=denoiser_calls,
        provenance=dict(provenance) | dict(reference.record) | {"sampler": sampler},
        prompts=made.leaks(below, num_targets),
        prompt_coverage=prompt_coverage,
    )
