"""What was measured on images alone: matches with training images, duplicates, repeats."""

from __future__ import annotations

from dataclasses import dataclass, field

from pytest_memscan.results.basics import Control, Coverage, Estimate, Measure


@dataclass(frozen=True, kw_only=True)
class LevelScore:
    """AMS and UMS of one similarity level (low, mid, high)."""

    name: str
    cut: float  # score at which an image counts, cumulative
    band_end: float | None  # the paper's band ends here; None for the closest level
    ams: Estimate  # cumulative: share of generated images that reach the cut
    ums: Estimate  # cumulative: distinct training images per generated image
    ams_band: float  # as in the papers: not counting matches of the next closer level
    ums_band: float
    num_matched: int  # generated images that reach the cut
    expected_by_chance: float  # of them, if none were a copy


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How close distinct real images come to each other, and the cut that follows."""

    source: str  # "leave-one-out" or "held-out"
    num_null: int  # real images whose score with the other training images was measured
    null_closest: float
    null_quantiles: dict[str, float]  # share of real images (as text) -> score they reach
    tail_size: int  # closest real images, which the tail was fitted to
    tail_exponent: float  # P(dissimilarity < r) ~ r ** tail_exponent near zero
    tail_exponent_lower: float  # its lower confidence bound, the one used
    false_match_probability: float  # of one generated image, at the confirmed cut
    confirmed_cut: float  # a match that reaches this score is confirmed
    expected_false_matches: float  # in the whole scan, at the confirmed cut
    rule: str  # one sentence that says which rule applied


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A generated image and the training image it copies."""

    sample_id: int
    train_id: int
    score: float
    distance: float | None  # normalised L2, pixels in [0, 1]; None where pixels are not compared
    level: str  # closest published level reached: "low", "mid" or "high"
    confirmed: bool
    regenerated_score: float | None = None  # alone, in float32, when near the confirmed cut
    num_copies: int | None = None  # generated images that are confirmed copies of it, if counted


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """Expected distinct training images among the first ``num_generated`` generated ones."""

    num_generated: int
    expected: float
    lower: float | None  # None where no interval can be given
    upper: float | None
    extrapolated: bool


@dataclass(frozen=True, kw_only=True)
class ScanResult:
    """Everything one attack measured. Computed once, rendered many times."""

    name: str  # "carlini"
    title: str
    measure: Measure
    levels: tuple[LevelScore, ...]  # low, mid, high
    metrics: dict[str, Estimate]  # every number a threshold can name
    findings: tuple[Finding, ...]  # closest first; one for each distinct training image
    num_findings_total: int  # before `findings` was cut to what a report can hold
    calibration: Calibration
    controls: tuple[Control, ...]
    coverage: Coverage
    num_confirmed_images: int  # generated images that are confirmed copies
    excluded_rate: float  # leak rates above this would have shown, at 95 % confidence
    unseen_hit_rate: float  # Good-Turing: chance that the next image copies a new training image
    curve: tuple[CurvePoint, ...]
    histogram: tuple[tuple[float, int], ...]  # left edge of each 0.05-wide bin of scores, images
    denoiser_calls: int
    provenance: dict[str, str]  # what must match before two results may be compared
    confirmed_samples: tuple[int, ...] = ()  # ids of those images, unless they are too many to list


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """Training images that are there more than once: what models memorise first."""

    num_images: int
    num_groups: int  # groups of two or more (near-)duplicates
    num_redundant: int  # images that could go, leaving one of each group
    num_identical: int  # of these, equal in every pixel to an image that stays
    largest: tuple[tuple[int, ...], ...]  # training ids of the largest groups, largest first
    num_searched: int  # training images whose surroundings were searched
    measure: str  # what was compared


@dataclass(frozen=True, kw_only=True)
class Repeats:
    """Near-duplicate groups among generated images, where there is nothing to compare with."""

    num_images: int  # valid ones
    num_groups: int  # of at least `group_size` near-identical images
    num_repeating: int  # images in such groups
    largest: tuple[tuple[int, ...], ...]  # sample ids, largest group first
    group_size: int
    threshold: float  # largest distance in a group, as a share of that to the nearest other image
    measure: str  # "normalised L2 of pixels relative to the nearest image outside the group"
    rule: str
    images: Coverage
    denoiser_calls: int
    provenance: dict[str, str]
    metrics: dict[str, Estimate] = field(default_factory=dict)  # every number a threshold can name
    num_searched: int = 0  # the first so many valid images, among which most groups were found
    widest: float | None = None  # largest distance within a group, not relative to anything
    dimension: float | None = None  # free numbers of the images; None where too few to tell
    expected_by_chance: float | None = None  # groups, if no image were repeated; likewise
    shown_rate: float = 1.0  # an image made at least this often forms a group, at 95 % confidence
    sentence: str = ""  # what was found, or what would have been
