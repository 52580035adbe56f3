"""What was measured prompt by prompt on a text-to-image checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field

from pytest_memscan.results.basics import Control, Coverage, Estimate


@dataclass(frozen=True, kw_only=True)
class PromptCoverage:
    """What became of the prompts that were given, and how many of them were scanned."""

    origin: str  # "captions.txt", "built-in probe list", without a private folder
    is_probe: bool  # the built-in list
    num_found: int  # lines or rows
    num_used: int  # different prompts that can be scanned
    dropped: dict[str, int] = field(default_factory=dict)  # harmless reason -> lines
    unusable: dict[str, tuple[str, ...]] = field(default_factory=dict)  # reason -> places
    num_truncated: int = 0  # longer than the tokenizer reads
    num_planned: int = 0  # of num_used, those that the budget reaches
    is_default: bool = False  # nobody gave prompts or asked for the built-in list


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
    provenance: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PromptResults:
    """Every scan of a text-to-image checkpoint; they share their images."""

    screening: Screening
    prompts: PromptScan
    keys: KeyScan
