"""What the images of a text-to-image scan say, as results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.prompt_statistics import leak_rate
from pytest_memscan.results import (
    CallCount,
    Coverage,
    Estimate,
    KeyFinding,
    KeyScan,
    PromptFinding,
    PromptRule,
    PromptScan,
    Screening,
)
from pytest_memscan.scans.carlini_prompts import SAME_PICTURE, SampledPrompt, fixed_share
from pytest_memscan.scans.extended_side import Form, Key, extended_side
from pytest_memscan.scans.prompt_controls import prompt_controls
from pytest_memscan.scans.prompt_detectors import screening_result
from pytest_memscan.scans.text_to_image import MIN_NEGATIVES, Campaign, calibrating
from pytest_memscan.similarity.tiles import mean_image

Pixels = NDArray[np.uint8]

TITLE = "Carlini et al. 2023: near-identical images of one prompt"
MAX_FINDINGS = 500
MAX_SHOWN = 4  # images of one prompt
CALIBRATION = (
    "on negatives: two images are near-identical within a tenth of the median tiled L2 between "
    "images of different negatives; a part is fixed that is near-identical, and has less of the "
    "variance than in any negative by chance (log shares, robust Student-t prediction)"
)


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A campaign's results.

    Attributes:
        campaign: The scan.
        train: What is known about the training images, where there are any.
        provenance: Recorded as it is.
    """

    campaign: Campaign
    train: Coverage | None = None
    provenance: dict[str, str]

    @cached_property
    def findings(self) -> list[PromptFinding]:
        """One for each sampled text, memorised ones first."""
        found = [self._finding(each) for each in self.campaign.sampled.values()]
        order = {"verbatim": 0, "template": 1, "": 2}
        found.sort(key=lambda each: (order[each.kind], _spread(each), each.prompt_id))
        return found

    @property
    def given(self) -> list[PromptFinding]:
        """Those of prompts, without the planted strings."""
        return [each for each in self.findings if each.route != "canary"]

    @cached_property
    def screening(self) -> Screening:
        """How prompts were chosen, and what the audit says of the others."""
        # What the budget cut short says nothing about what detectors miss.
        audited = [each for each in self.given if each.route == "audit" and each.settled]
        return screening_result(
            self.campaign.suspects,
            num_escalated=sum(each.route == "escalated" for each in self.given),
            num_audited=len(audited),
            num_missed=sum(bool(each.kind) for each in audited),
        )

    @cached_property
    def prompts(self) -> PromptScan:
        """Memorised prompts."""
        campaign, plan = self.campaign, self.campaign.plan
        near = [
            each.train_distance is not None and each.train_distance <= SAME_PICTURE
            for each in self.given
            if each.kind
        ]
        findings = self.findings
        return PromptScan(
            title=TITLE,
            prompts=plan.prompts,
            screening=self.screening,
            rule=self._rule(),
            metrics=self._metrics(),
            findings=tuple(findings[:MAX_FINDINGS]),
            num_findings_total=len(findings),
            num_unsettled=sum(not each.settled for each in findings),
            num_confirmed=None if campaign.tools.nearest is None else sum(near),
            images=campaign.tools.images.coverage(self.train),
            controls=prompt_controls(
                copied=campaign.negatives.everything,
                unrelated=[each.pixels for each in campaign.negatives.strings.values()],
                edge=campaign.edge,
                clique_size=plan.rule.clique_size,
            ),
            calls=self._calls(),
            provenance=self.provenance,
        )

    @cached_property
    def keys(self) -> KeyScan:
        """Keys whose images hardly vary."""
        negatives = self.campaign.negatives
        keys: dict[str, list[Key]] = {"strings": [], "prompts": []}
        for each in self.campaign.sampled.values():
            # Where some are invalid, fewer images may be enough to flag a text at the first look.
            enough = 1 if each.kind else self.campaign.plan.num_first
            if each.first is not None and len(each.first) >= enough:
                keys[self._form(each.text_id)].append(self._key(each, each.first.pixels))
        of_strings = [each.pixels for each in negatives.strings.values()]
        plan = self.campaign.plan
        names = [self._form(each) for each in (*plan.planned, *plan.texts.canary_ids)]
        forms = [
            Form(
                name=name,
                keys=keys[name],
                negatives=self._spaces(images),
                num_candidates=names.count(name),
            )
            for name, images in (("strings", of_strings), ("prompts", negatives.images))
        ]
        with calibrating():
            return extended_side(
                forms,
                images_per_key=plan.num_first,
                canaries=plan.canaries,
                provenance=self.provenance,
            )

    def mean_image_of(self, finding: KeyFinding) -> Pixels:
        """Mean of a key's first images, ``(height, width, channels)``."""
        first = self._sampled_as(finding.prompt_id, is_canary=finding.is_canary).first
        if first is None:
            raise ValueError(f"nothing was made of key {finding.prompt_id}")
        return _mean(first.pixels)

    def images_of(self, finding: PromptFinding) -> Pixels:
        """The representative, then others that are near-identical, or the first; four at most."""
        sampled = self._sampled_as(finding.prompt_id, is_canary=finding.route == "canary")
        ids = [] if sampled.representative is None else [sampled.representative]
        others = sampled.clique if finding.kind == "verbatim" else ()
        if sampled.first is not None and not others:
            others = tuple(sampled.first.sample_ids.tolist())
        ids += [each for each in others if each not in ids]
        return np.stack([self.campaign.tools.images.pixels_of(each) for each in ids[:MAX_SHOWN]])

    def _sampled_as(self, prompt_id: int, *, is_canary: bool) -> SampledPrompt:
        first = self.campaign.plan.texts.canary_ids.start if is_canary else 0
        return self.campaign.sampled[first + prompt_id]

    def _finding(self, sampled: SampledPrompt) -> PromptFinding:
        plan = self.campaign.plan
        text_id = sampled.text_id
        kind, train = sampled.kind, None
        if kind and sampled.representative is not None:
            train = self._nearest(self.campaign.tools.images.pixels_of(sampled.representative))
        scores = {}
        if text_id in plan.texts.prompt_ids:
            place = self._places[text_id]
            relative = self.campaign.scores.relative_to(self.campaign.negative_scores)
            found = {name: float(each[place]) for name, each in relative.values.items()}
            scores = {name: score for name, score in found.items() if math.isfinite(score)}
        return PromptFinding(
            prompt_id=self._prompt_id(text_id),
            place=plan.place_of(text_id),
            route=self.campaign.routes[text_id],
            kind=kind,
            settled=sampled.is_settled,
            num_images=sampled.num_images,
            clique_size=len(sampled.clique),
            clique_distance=sampled.clique_distance,
            representative=sampled.representative,
            fixed_share=None if sampled.first is None else fixed_share(sampled.first.pixels),
            train_id=None if train is None else train[0],
            train_distance=None if train is None else train[1],
            scores=scores,
        )

    def _metrics(self) -> dict[str, Estimate]:
        given = self.given
        found = [each for each in given if each.kind and each.route == "escalated"]
        screening, num_prompts = self.screening, len(self.campaign.plan.planned)
        rate = leak_rate(
            num_prompts,
            len(found),
            screened_out=num_prompts - screening.num_escalated,
            audited=screening.num_audited,
            missed=screening.num_missed,
        )
        # A suspicious prompt that the budget cut short may be memorised.
        num_open = sum(each.route == "escalated" and not each.settled for each in given)
        return {
            "memorised_prompts": _count(sum(bool(each.kind) for each in given)),
            "verbatim_prompts": _count(sum(each.kind == "verbatim" for each in given)),
            "template_prompts": _count(sum(each.kind == "template" for each in given)),
            "prompt_leak_rate": replace(rate, upper=min(1.0, rate.upper + num_open / num_prompts)),
        }

    def _rule(self) -> PromptRule:
        rule = self.campaign.plan.rule
        return PromptRule(
            clique_size=rule.clique_size,
            max_images=rule.max_images,
            edge_threshold=self.campaign.edge,
            template_threshold=self.campaign.template,
            copy_rate=rule.copy_rate,
            miss_probability=rule.miss_probability,
            num_negatives=len(self.campaign.negatives.everything),
            sentence=CALIBRATION,
        )

    def _calls(self) -> CallCount:
        campaign, plan = self.campaign, self.campaign.plan
        num_negatives = len(plan.texts.recombined) + len(plan.texts.strings)
        of_negatives = num_negatives * plan.num_first
        of_prompts = campaign.tools.images.asked - of_negatives
        return CallCount(
            negatives=of_negatives * plan.calls_per_image,
            screening=campaign.scores.calls + campaign.negative_scores.calls,
            sampling=of_prompts * plan.calls_per_image,
            fixed_protocol=len(plan.planned) * plan.rule.max_images * plan.calls_per_image,
        )

    def _key(self, sampled: SampledPrompt, pixels: Pixels) -> Key:
        return Key(
            prompt_id=self._prompt_id(sampled.text_id),
            place=self.campaign.plan.place_of(sampled.text_id),
            is_canary=self._is_canary(sampled.text_id),
            is_verbatim=sampled.kind == "verbatim",
            num_images=len(pixels),
            variances=self.campaign.tools.variances(pixels),
            nearest=self._nearest(_mean(pixels)),
        )

    def _form(self, text_id: int) -> str:
        """A single word is held against random strings, if there are enough of them."""
        is_word = " " not in self.campaign.plan.texts.everything[text_id]
        has_strings = len(self.campaign.negatives.strings) >= MIN_NEGATIVES
        return "strings" if is_word and has_strings else "prompts"

    def _spaces(self, negatives: Sequence[Pixels]) -> dict[str, NDArray[np.float64]]:
        """Variances of the negatives in each space that all of them have."""
        each = [self.campaign.tools.variances(pixels) for pixels in negatives]
        shared = [space for space in (each or [{}])[0] if all(space in one for one in each)]
        return {space: np.array([one[space] for one in each]) for space in shared}

    def _nearest(self, pixels: Pixels) -> tuple[int, float] | None:
        nearest = self.campaign.tools.nearest
        return None if nearest is None else nearest(pixels)

    @cached_property
    def _places(self) -> dict[int, int]:
        return {prompt: place for place, prompt in enumerate(self.campaign.plan.planned)}

    def _is_canary(self, text_id: int) -> bool:
        return text_id in self.campaign.plan.texts.canary_ids

    def _prompt_id(self, text_id: int) -> int:
        """Place in its own list."""
        if self._is_canary(text_id):
            return text_id - self.campaign.plan.texts.canary_ids.start
        return text_id


def _spread(finding: PromptFinding) -> float:
    """Of its clique; more than any where there is none."""
    return math.inf if finding.clique_distance is None else finding.clique_distance


def _mean(pixels: Pixels) -> Pixels:
    return np.rint(mean_image(pixels) * 255).astype(np.uint8)


def _count(number: int) -> Estimate:
    return Estimate(value=number, lower=number, upper=number)
