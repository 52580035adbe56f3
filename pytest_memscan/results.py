"""The plain data that every room speaks: what was measured, and what it means.

Nothing here computes, reads a file or knows pytest or torch. Everything is frozen, keyword-only
and JSON-ready: numbers, strings, tuples and other dataclasses of this module.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

FLAT_IMAGE = "one flat colour"  # a training image that cannot be matched, and has nothing to leak
SCHEMA_VERSION = 1  # of the JSON report; raised when a field changes its meaning


class Verdict(str, Enum):
    """How a run ended. Only ``PASS`` is green."""

    PASS = "pass"  # noqa: S105  # a verdict, not a password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    ERROR = "error"
    NOT_RUN = "not_run"
    NOT_APPLICABLE = "not_applicable"  # a check's, never a run's

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A measured number with one-sided confidence bounds.

    ``lower`` and ``upper`` each hold with probability ``confidence`` on their own. For an exact
    count of what was seen (``extracted``) both equal ``value``.
    """

    value: float
    lower: float
    upper: float
    confidence: float = 0.95
    num_trials: int = 0  # generated images behind the number; 0 for a plain count


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What one number, the *score* of a generated and a training image, says.

    Every score in these results is in the units of its scan's measure. Computations use the
    *dissimilarity* instead, which is smaller for closer images whatever the measure.
    """

    name: str  # "neighbour-normalised L2", "cosine similarity of sscd descriptors"
    word: str  # for one score: "ratio", "similarity"
    higher_is_closer: bool

    def score(self, dissimilarity: float) -> float:
        """The score of a dissimilarity, and, being its own inverse, the other way round."""
        return 1.0 - dissimilarity if self.higher_is_closer else dissimilarity

    @property
    def limit_word(self) -> str:
        """How a cut is read: "at least" or "at most"."""
        return "at least" if self.higher_is_closer else "at most"


RATIO = Measure(name="neighbour-normalised L2", word="ratio", higher_is_closer=False)


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
class Control:
    """A planted case with a known answer."""

    name: str
    sentence: str  # what was planted
    num_images: int
    num_found: int
    minimum_found: int
    maximum_found: int

    @property
    def passed(self) -> bool:
        """Whether the known answer was given."""
        return self.minimum_found <= self.num_found <= self.maximum_found


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


@dataclass(frozen=True, kw_only=True)
class SourceCoverage:
    """What became of the images of one source."""

    num_found: int
    num_used: int
    num_resized: int = 0  # larger than what the checkpoint makes
    unusable: dict[str, tuple[str, ...]] = field(default_factory=dict)  # reason -> names


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """What was asked for and what was really looked at."""

    planned: int  # generated images
    generated: int
    valid: int  # the denominator of every rate
    invalid: dict[str, int] = field(default_factory=dict)  # reason -> images
    damaged: int = 0  # stored images that had to be generated again
    train_origin: str = ""  # where the training images came from, without a private folder
    train_found: int = 0  # images in there
    train_used: int = 0
    train_resized: int = 0  # larger than what the checkpoint makes
    train_groups: int = 0  # after near-duplicates were merged
    train_unusable: dict[str, tuple[str, ...]] = field(default_factory=dict)  # reason -> names


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


@dataclass(frozen=True, kw_only=True)
class PromptCoverage:
    """What became of the prompts that were given, and how many of them were scanned."""

    origin: str  # "captions.txt", "built-in probe list", without a private folder
    is_probe: bool  # nobody gave prompts: the built-in list was used
    num_found: int  # lines or rows
    num_used: int  # different prompts that can be scanned
    dropped: dict[str, int] = field(default_factory=dict)  # harmless reason -> lines
    unusable: dict[str, tuple[str, ...]] = field(default_factory=dict)  # reason -> places
    num_truncated: int = 0  # longer than the tokenizer reads
    num_planned: int = 0  # of num_used, those that the budget reaches


@dataclass(frozen=True, kw_only=True)
class DetectorResult:
    """What one detector said of all prompts."""

    name: str  # "noise_magnitude"
    title: str  # with its source
    higher_is_memorised: bool
    calls_per_prompt: int  # single-sample denoiser forwards, if it were the only one
    decides: bool = False  # whether it escalates prompts; else for information
    not_applicable: str = ""  # why it says nothing on this checkpoint
    threshold: float | None = None  # calibrated on negatives; None where it decides nothing
    num_negatives: int = 0
    num_above: int = 0  # prompts on the memorised side of the threshold


@dataclass(frozen=True, kw_only=True)
class Screening:
    """How the prompts were chosen that images were spent on."""

    detectors: tuple[DetectorResult, ...]
    num_screened: int  # prompts
    num_suspicious: int  # of them, beyond the threshold of a deciding detector
    num_escalated: int  # sampled in the order of suspicion, as long as memorised ones came up
    num_audited: int  # of the others, sampled at random
    num_missed: int  # of those audited, found memorised
    miss_rate: Estimate  # share of screened-out prompts that are memorised


@dataclass(frozen=True, kw_only=True)
class CallCount:
    """Single-sample denoiser forwards spent, and what the fixed protocol would have spent."""

    negatives: int
    screening: int
    sampling: int
    fixed_protocol: int

    @property
    def spent(self) -> int:
        """All of them."""
        return self.negatives + self.screening + self.sampling


@dataclass(frozen=True, kw_only=True)
class PromptRule:
    """When a prompt counts as memorised, and when sampling stops."""

    clique_size: int  # near-identical generations that flag a prompt
    max_images: int  # of the fixed protocol
    edge_threshold: float  # tiled L2 below which two generations are near-identical
    template_threshold: float  # share of the variance below which part of the image is fixed
    copy_rate: float  # a prompt whose dominant image comes up this often ...
    miss_probability: float  # ... is called clean with at most this probability
    num_negatives: int  # prompts behind the thresholds
    sentence: str  # how the thresholds were calibrated


@dataclass(frozen=True, kw_only=True)
class PromptFinding:
    """One prompt that images were spent on."""

    prompt_id: int
    route: str  # why it was sampled: "escalated", "audit" or "canary"
    kind: str  # "verbatim", "template", or "" when not memorised
    settled: bool  # the sequential rule came to an end
    num_images: int  # valid ones
    clique_size: int
    clique_distance: float | None  # mean tiled L2 within the clique
    representative: int | None  # sample id of its medoid, or of the first image
    fixed_share: float | None = None  # of the variance, in the least varying quarter of the tiles
    train_id: int | None = None  # nearest training image of the medoid
    train_distance: float | None = None  # their normalised L2
    scores: dict[str, float] = field(default_factory=dict)  # detector -> score
    place: str = ""  # in the list of prompts, "line 18"


@dataclass(frozen=True, kw_only=True)
class PromptScan:
    """Carlini et al. 2023 on a text-to-image checkpoint, decided sequentially."""

    title: str
    prompts: PromptCoverage
    screening: Screening
    rule: PromptRule
    metrics: dict[str, Estimate]  # every number a threshold can name
    findings: tuple[PromptFinding, ...]  # memorised prompts first, most certain first
    num_findings_total: int
    num_unsettled: int  # of them, not sampled to an end
    num_confirmed: int | None  # memorised prompts whose medoid is near a training image
    images: Coverage
    controls: tuple[Control, ...]
    calls: CallCount
    provenance: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class KeyVariance:
    """Extended SIDE: one space that variance over seeds was measured in."""

    space: str  # "pixel", "latent" or "descriptor"
    form: str  # of the keys: "strings" or "prompts"
    threshold: float  # for all keys of the form together
    num_negatives: int  # unused strings or recombined prompts behind the threshold
    num_below: int


@dataclass(frozen=True, kw_only=True)
class KeyFinding:
    """One key string and how alike its images are."""

    prompt_id: int
    is_canary: bool
    flagged: bool
    num_images: int
    variances: dict[str, float]
    p_value: float  # of the space that decides, against the negatives
    train_id: int | None = None  # nearest training image of the mean image
    train_distance: float | None = None
    place: str = ""  # in the list of prompts or of canaries, "line 18"


@dataclass(frozen=True, kw_only=True)
class KeyScan:
    """Extended SIDE: keys whose images hardly vary over seeds."""

    title: str
    spaces: tuple[KeyVariance, ...]
    deciding_space: str
    images_per_key: int
    num_keys: int
    num_canaries: int
    metrics: dict[str, Estimate]
    findings: tuple[KeyFinding, ...]  # lowest variance first
    num_findings_total: int
    sentence: str  # how the thresholds were calibrated
    canaries: PromptCoverage | None = None  # the list of planted strings, where one was given


@dataclass(frozen=True, kw_only=True)
class PromptResults:
    """Every scan of a text-to-image checkpoint; they share their images."""

    screening: Screening
    prompts: PromptScan
    keys: KeyScan


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
class Integrity:
    """What was checked about the checkpoint's files before anything was loaded."""

    pipeline: str  # class named by model_index.json
    files: dict[str, str]  # file in the checkpoint -> sha256
    num_tensors: int
    num_parameters: int


@dataclass(frozen=True, kw_only=True)
class ThresholdOutcome:
    """One line of the policy, measured."""

    expression: str  # "ums_high <= 0.001"
    source: str  # where it was set
    verdict: Verdict
    sentence: str  # what was measured, and what would settle it when inconclusive
    estimate: Estimate | None = None


@dataclass(frozen=True, kw_only=True)
class CheckOutcome:
    """How one collected item (``memscan::carlini``, ...) ended."""

    name: str
    verdict: Verdict
    sentence: str
    thresholds: tuple[ThresholdOutcome, ...] = ()
    scan: ScanResult | None = None
    integrity: Integrity | None = None
    duplicates: Duplicates | None = None
    prompt_scan: PromptScan | None = None
    screening: Screening | None = None
    keys: KeyScan | None = None
    repeats: Repeats | None = None

    @property
    def metrics(self) -> dict[str, Estimate]:
        """Everything it measured that a threshold can name."""
        scans = (self.scan, self.prompt_scan, self.keys)
        return {
            name: value
            for scan in scans
            if scan is not None
            for name, value in scan.metrics.items()
        }

    @property
    def coverage(self) -> Coverage | None:
        """Of its generated images, where it made any."""
        if self.scan is not None:
            return self.scan.coverage
        if self.prompt_scan is not None:
            return self.prompt_scan.images
        return None if self.repeats is None else self.repeats.images


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """One `pytest --memscan` run: the object behind every report and the exit code."""

    schema_version: int = SCHEMA_VERSION
    verdict: Verdict
    sentence: str
    checkpoint: str  # as people name it, with the commit where there is one
    checks: tuple[CheckOutcome, ...] = ()
    policy: dict[str, tuple[str, str]] = field(default_factory=dict)  # option -> value, source
    versions: dict[str, str] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)  # seconds; not reproducible
