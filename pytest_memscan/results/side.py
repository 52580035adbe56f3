"""What surrogate conditions brought out of a checkpoint, beside plain sampling."""

from __future__ import annotations

from dataclasses import dataclass, field

from pytest_memscan.results.basics import Control, Coverage, Estimate, Measure
from pytest_memscan.results.images import Calibration, CurvePoint, Finding, LevelScore


@dataclass(frozen=True, kw_only=True)
class SurrogateLabels:
    """The conditions that a checkpoint never had, made from its own images."""

    maker: str  # "clusters", "training labels", "auxiliary labels", "labeller", "random"
    sentence: str  # how they were made
    num_samples: int  # generated images that were labelled
    num_classes: int  # classes that images can be asked for
    sizes: tuple[int, ...]  # samples of each class
    num_rest: int = 0  # samples of no class that can be asked for
    num_clusters: int = 0  # before those without cohesion were dropped; 0 for other makers
    cohesion: tuple[float, ...] = ()  # of each class: mean cosine of its members to the centroid


@dataclass(frozen=True, kw_only=True)
class AccuracyAt:
    """How well a classifier tells the surrogate labels of held-out samples at one noise level."""

    timestep: int
    accuracy: Estimate


@dataclass(frozen=True, kw_only=True)
class SurrogateTraining:
    """How a classifier of surrogate labels was trained, and what it learnt."""

    network: str  # "ResNet of 5 blocks, 32 to 128 channels, with a time module"
    is_timed: bool  # whether it is told the timestep, and was trained on noisy samples
    num_parameters: int
    num_samples: int  # that it was trained on
    num_held_out: int
    num_steps: int
    batch_size: int
    learning_rate: float  # the largest
    seed: int
    chance: float  # accuracy of the answers at the first level, had they come in random order
    accuracies: tuple[AccuracyAt, ...]  # on held-out samples, cleanest first


@dataclass(frozen=True, kw_only=True)
class GuidedImages:
    """What one set of images of the plan holds: all were guided alike, or none was."""

    scale: float  # lambda; 0 for plain sampling
    num_images: int  # valid ones
    levels: tuple[LevelScore, ...]  # low, mid, high
    num_copies: int  # images that are confirmed copies
    leak_rate: Estimate  # the same as a share
    num_copied: int  # distinct training images confirmed as copied
    num_new: int  # of them, those that plain sampling of the same seeds did not copy
    top: dict[str, float]  # share of the images (as text) -> score that the closest so many reach
    curve: tuple[CurvePoint, ...]  # expected distinct training images at mid level


@dataclass(frozen=True, kw_only=True)
class Gain:
    """A variant against plain sampling of equally many images, at mid level."""

    ams: Estimate  # ratio of AMS; infinite where plain sampling has none
    ums: Estimate  # ratio of UMS


@dataclass(frozen=True, kw_only=True)
class SideVariant:
    """One kind of surrogate label or classifier."""

    name: str  # "side_c"
    title: str  # "SIDE-C: clusters of its own images"
    labels: SurrogateLabels
    training: SurrogateTraining
    settings: tuple[GuidedImages, ...]  # by lambda
    mean_ams: dict[str, float]  # level -> mean over the lambdas, as the paper averages
    mean_ums: dict[str, float]
    best_scale: float  # lambda with the highest AMS at mid level
    gain: Gain  # of the best lambda; its interval allows for having been chosen
    is_control: bool = False  # not expected to bring out more than plain sampling


@dataclass(frozen=True, kw_only=True)
class GuidedFinding:
    """A copy, and by which guidance it came out."""

    finding: Finding  # its sample id is a row of the plan, which every guidance shares
    variant: str  # "side_c"; "plain" where no guidance was needed
    scale: float


@dataclass(frozen=True, kw_only=True)
class SideScan:
    """Every variant of SIDE that the inputs allow, beside plain sampling of the same seeds."""

    name: str  # "side"
    title: str
    measure: Measure
    metrics: dict[str, Estimate]  # every number a threshold can name
    plain: GuidedImages  # lambda 0, the paper's "Random"
    variants: tuple[SideVariant, ...]
    left_out: dict[str, str] = field(default_factory=dict)  # variant -> why it was not run
    findings: tuple[GuidedFinding, ...]  # closest first; one for each distinct training image
    num_findings_total: int
    num_samples: int  # valid unguided samples, which labels and classifiers were made from
    num_samples_copied: int  # distinct training images that they copy
    calibration: Calibration
    controls: tuple[Control, ...]
    coverage: Coverage
    denoiser_calls: int  # single-image forwards, samples included
    classifier_calls: int  # single-image forwards with their gradient
    provenance: dict[str, str]
