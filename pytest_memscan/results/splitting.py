"""What was measured by steering trajectories towards training images and weighing them back."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_memscan.results.basics import Control, Coverage, Estimate, Measure
from pytest_memscan.results.images import Calibration, CurvePoint, Finding
from pytest_memscan.results.prompts import PromptCoverage


@dataclass(frozen=True, kw_only=True)
class SteeredCopy:
    """A training image that steered trajectories ended in, and how rare that is unsteered."""

    finding: Finding  # the closest of them; it comes from steering, not from normal use
    rate: Estimate  # chance that one ordinary image copies it
    num_copies: int  # images that copy it, steered or not
    num_islands: int  # islands of steered trajectories that it came out of
    in_reach: bool  # a first copy is expected within the reach of the scan
    prompt_id: int | None = None  # prompt that the closest of them was made with


@dataclass(frozen=True, kw_only=True)
class RateAt:
    """Chance that one ordinary image comes this close to some training image."""

    score: float
    steered: Estimate  # from all trajectories, weighed
    plain: Estimate  # from those that were never steered; exact bounds


@dataclass(frozen=True, kw_only=True)
class PromptLeak:
    """How often ordinary images of one prompt are copies."""

    prompt_id: int
    place: str  # where it was found: "line 7"; empty where that is private
    leak_rate: Estimate  # from all trajectories of this prompt, weighed
    plain_rate: Estimate  # from those that were never steered; exact bounds
    num_copies: int  # its images that are copies, steered or not
    num_copied: int  # different training images among them


@dataclass(frozen=True, kw_only=True)
class SplittingScan:
    """Rare copies, found by steering and priced for ordinary sampling.

    With prompts, an ordinary image is one of those scanned, each prompt as often as any other.
    """

    name: str  # "splitting"
    title: str
    measure: Measure
    sampler: str  # scheduler, its stochastic form and its steps: whose rates these are
    reach: int  # images within which a first copy counts
    asked_reach: int | None = None  # where rarer copies could not be told from chance
    metrics: dict[str, Estimate]  # every number a threshold can name
    copies: tuple[SteeredCopy, ...]  # likeliest first; one for each distinct training image
    num_copies_total: int  # before `copies` was cut to what a report can hold
    leak_rate: Estimate  # share of ordinary images that are copies, from all trajectories
    plain_rate: Estimate  # the same from those that were never steered; exact bounds
    num_plain: int  # valid images that were never steered
    num_plain_copies: int
    num_plain_close: int = 0  # of those that are no copies: closer than chance among so few gives
    num_islands: int  # independent populations of steered trajectories
    num_steered: int  # steered trajectories, all islands
    num_targets: int  # different training images
    num_screened: int  # of them, those that were looked at to decide where to steer
    num_tried: int  # of them, those steered to, with every prompt at least so many; 0 for none
    growth: tuple[CurvePoint, ...]  # expected distinct copied images among so many ordinary ones
    rates: tuple[RateAt, ...]  # loosest first
    least_effective: float  # smallest effective share of an island's trajectories after selection
    fewest_ancestors: int  # starting points behind the final images, in the poorest island
    degenerate: str  # why the weights say nothing; empty where they do
    calibration: Calibration
    controls: tuple[Control, ...]
    coverage: Coverage
    denoiser_calls: int  # single-image forwards, screening included
    provenance: dict[str, str]  # what must match before two results may be compared
    prompts: tuple[PromptLeak, ...] = ()  # of a text-to-image checkpoint, by id
    prompt_coverage: PromptCoverage | None = None  # prompts given, and how many were scanned
