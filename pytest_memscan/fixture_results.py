"""What the fixtures hand to a test: the numbers that an assertion is about, by their names."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pytest_memscan.errors import MemscanError

if TYPE_CHECKING:
    from pytest_memscan.results import (
        Estimate,
        Finding,
        FinetuneScan,
        MethodScores,
        PromptFinding,
        PromptScan,
        ScanResult,
        SideScan,
        SideVariant,
        SplittingScan,
        SteeredCopy,
    )

LevelName = Literal["low", "mid", "high", "confirmed"]
MethodName = Literal["direct", "cfg", "finextract"]


class CarliniResult:
    """What plain sampling extracted; see `results.ScanResult` for everything there is."""

    def __init__(self, scan: ScanResult) -> None:
        self.scan = scan

    def __repr__(self) -> str:
        return f"<carlini: {self.extracted.value:g} training images extracted>"

    def ums(self, level: LevelName = "high") -> Estimate:
        """Distinct training images matched per generated image, at ``level`` and closer.

        ``low``, ``mid`` and ``high`` are the published levels; ``confirmed`` counts only
        matches closer than different real images come to each other.
        """
        return self.scan.metrics[f"ums_{level}"]

    def ams(self, level: LevelName = "high") -> Estimate:
        """Share of generated images that match a training image, at ``level`` and closer."""
        return self.scan.metrics["leak_rate" if level == "confirmed" else f"ams_{level}"]

    @property
    def extracted(self) -> Estimate:
        """Distinct training images confirmed as copied; a count."""
        return self.scan.metrics["extracted"]

    @property
    def leak_rate(self) -> Estimate:
        """Share of generated images that are confirmed copies."""
        return self.scan.metrics["leak_rate"]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Matches, closest first, one for each training image."""
        return self.scan.findings


class SideResult:
    """What SIDE extracted, variant by variant; see `results.SideScan`."""

    def __init__(self, scan: SideScan) -> None:
        self.scan = scan

    def __repr__(self) -> str:
        return f"<side: {self.extracted.value:g} training images extracted>"

    @property
    def extracted(self) -> Estimate:
        """Distinct training images confirmed as copied, by all images of the scan; a count."""
        return self.scan.metrics["side_extracted"]

    def ums(self, level: LevelName = "high") -> Estimate:
        """UMS of the worst variant and lambda; there is none at the level ``confirmed``."""
        return self.scan.metrics[f"side_ums_{level}"]

    def ams(self, level: LevelName = "high") -> Estimate:
        """AMS of the worst variant and lambda, at ``level`` and closer."""
        is_leak = level == "confirmed"
        return self.scan.metrics["side_leak_rate" if is_leak else f"side_ams_{level}"]

    @property
    def leak_rate(self) -> Estimate:
        """Share of images that are confirmed copies, at the worst variant and lambda."""
        return self.scan.metrics["side_leak_rate"]

    def variant(self, name: str) -> SideVariant:
        """One variant, such as ``side_c``.

        Raises:
            MemscanError: It was not run.
        """
        for each in self.scan.variants:
            if each.name == name:
                return each
        why = self.scan.left_out.get(name, "it was not asked for (--memscan-side-variants)")
        raise MemscanError(f"memscan: SIDE's variant {name} was not run: {why}")


class SplittingResult:
    """Rare copies and what they cost in normal use; see `results.SplittingScan`."""

    def __init__(self, scan: SplittingScan) -> None:
        self.scan = scan

    def __repr__(self) -> str:
        return (
            f"<splitting: {self.extractable.value:g} training images expected within "
            f"{self.scan.reach:,} images>"
        )

    @property
    def extractable(self) -> Estimate:
        """Training images whose first copy is expected within the reach; a count.

        Its bounds count those that surely are, and those that may be; all of them confirmed.
        """
        return self.scan.metrics["extractable_images"]

    @property
    def leak_rate(self) -> Estimate:
        """Share of ordinary images that are copies, from steered and unsteered ones together."""
        return self.scan.leak_rate

    @property
    def plain_rate(self) -> Estimate:
        """The same from images that were never steered; its bounds are exact."""
        return self.scan.plain_rate

    @property
    def copies(self) -> tuple[SteeredCopy, ...]:
        """Training images that some image copies, steered or not, likeliest first.

        One whose copy did not come out again alone (`finding.confirmed` is False) is listed, but
        never counts as extractable.
        """
        return self.scan.copies

    def price(self, train_id: int) -> Estimate | None:
        """Chance that one ordinary image copies a training image; None where no copy was found.

        Near-duplicates are one training image, under the id that `copies` calls it by. Whether
        its copy was confirmed says `copies`.

        Raises:
            MemscanError: It is not among the copies that were kept, and more were found.
        """
        for copy in self.copies:
            if copy.finding.train_id == train_id:
                return copy.rate
        if len(self.copies) < self.scan.num_copies_total:
            raise MemscanError(
                f"memscan: training image {train_id} is not among the likeliest "
                f"{len(self.copies)} of {self.scan.num_copies_total} copies, and only these are "
                "kept"
            )
        return None

    def expected_copies(self, num_images: int) -> Estimate:
        """Copies expected among so many ordinary images, each counted as often as it comes.

        For different training images, which come up again and again, see `scan.growth`.

        Raises:
            MemscanError: Fewer than one image.
        """
        if num_images < 1:
            raise MemscanError(f"memscan: expected a number of images, got {num_images}")
        rate = self.leak_rate
        return replace(
            rate,
            value=num_images * rate.value,
            lower=num_images * rate.lower,
            upper=num_images * rate.upper,
        )


class PromptsResult:
    """Which prompts are memorised; see `results.PromptScan` for everything there is."""

    def __init__(self, scan: PromptScan) -> None:
        self.scan = scan

    def __repr__(self) -> str:
        return f"<carlini: {self.memorised.value:g} prompts memorised>"

    @property
    def memorised(self) -> Estimate:
        """Prompts found memorised, verbatim or as a template; a count."""
        return self.scan.metrics["memorised_prompts"]

    @property
    def leak_rate(self) -> Estimate:
        """Share of all prompts that are memorised, with those that were screened out."""
        return self.scan.metrics["prompt_leak_rate"]

    @property
    def findings(self) -> tuple[PromptFinding, ...]:
        """Sampled prompts, memorised ones first."""
        return self.scan.findings


class FinetuneResult:
    """What came out of a fine-tune, given its base; see `results.FinetuneScan`."""

    def __init__(self, scan: FinetuneScan) -> None:
        self.scan = scan

    def __repr__(self) -> str:
        return f"<finextract: {self.copied.value:g} training images copied>"

    def esr(self, threshold: float = 0.7, *, method: MethodName = "finextract") -> Estimate:
        """A-ESR: share of training images with an extracted image that similar or more.

        ``threshold`` is 0.7 (strict) or 0.6 (loose). Of several settings of model guidance, the
        one with the highest `average_similarity`.

        Raises:
            MemscanError: Another threshold, or a method that was not run.
        """
        if threshold not in (0.7, 0.6):
            raise MemscanError(f"memscan: A-ESR is measured at 0.7 and 0.6, not at {threshold:g}")
        scores = self._scores(method)
        return scores.esr_strict if threshold == 0.7 else scores.esr_loose

    def average_similarity(self, method: MethodName = "finextract") -> Estimate:
        """AS: mean over training images of the similarity of the best extracted image."""
        return self._scores(method).average_similarity

    @property
    def copied(self) -> Estimate:
        """Training images that some image of any method copies; a count."""
        return self._metric("copied_images")

    @property
    def extracted(self) -> Estimate:
        """Training images copied by an image that clustering picks out; a count."""
        return self._metric("extracted_images")

    @property
    def candidates(self) -> Estimate:
        """Without training images: well-supported groups of near-identical images; a count."""
        return self._metric("extraction_candidates")

    def _metric(self, name: str) -> Estimate:
        if name not in self.scan.metrics:
            there = "without" if name == "extraction_candidates" else "with"
            raise MemscanError(f"memscan: {name} is only measured {there} training images")
        return self.scan.metrics[name]

    def _scores(self, method: str) -> MethodScores:
        found = [each for each in self.scan.average if each.method == method]
        if not found:
            known = ", ".join(dict.fromkeys(each.method for each in self.scan.average)) or "none"
            raise MemscanError(f"memscan: there are no scores of {method}; there are: {known}")
        return max(found, key=lambda each: each.average_similarity.value)
