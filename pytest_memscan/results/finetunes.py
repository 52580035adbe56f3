"""What was measured on a fine-tuned checkpoint and the base it was made from."""

from __future__ import annotations

from dataclasses import dataclass, field

from pytest_memscan.results.basics import Control, Coverage, Estimate, Measure
from pytest_memscan.results.prompts import PromptCoverage


@dataclass(frozen=True, kw_only=True)
class MethodScores:
    """One way of generating from a fine-tune, scored against its training images.

    AS and A-ESR as in FineXtract (arXiv:2410.03039): per training image, then the mean.
    """

    method: str  # "direct", "cfg" or "finextract"
    settings: str  # "guidance scale 3", "w' 3, k -0.02"
    num_images: int  # valid generated ones
    num_extracted: int  # images in the extracted set that clustering leaves
    average_similarity: Estimate  # AS
    esr_strict: Estimate  # A-ESR, share of training images with a match above 0.7
    esr_loose: Estimate  # likewise above 0.6
    best_similarity: Estimate  # the same three on all images: what clustering could reach at best
    best_esr_strict: Estimate
    best_esr_loose: Estimate
    num_copied: int  # training images that some generated image copies (closer than the cut)
    num_copied_extracted: int  # of them, copied by an image of the extracted set
    denoiser_calls: int  # single-sample forwards, of either denoiser
    scale: float | None = None  # of model guidance; None where there is none

    @property
    def rank(self) -> tuple[int, float]:
        """Of several settings of model guidance, the one that extracts most is shown."""
        return self.num_copied_extracted, self.average_similarity.value


@dataclass(frozen=True, kw_only=True)
class ExtractedImage:
    """One image that clustering picks out, and how well it is supported."""

    sample_id: int
    support: int  # images in its clique
    mean_similarity: float | None  # within the clique; None for a single image
    is_supported: bool  # enough images: clustering counts it
    is_candidate: bool = False  # and as alike as copies are: evidence on its own
    train_id: int | None = None  # nearest training image
    similarity: float | None = None  # their similarity
    is_copy: bool = False  # closer than the cut


@dataclass(frozen=True, kw_only=True)
class TrainMatch:
    """The best match of one training image."""

    train_id: int
    extracted_similarity: float | None  # in the extracted set; None when that is empty
    best_similarity: float  # among all images of this method
    best_sample_id: int
    is_copied: bool  # closer than the cut


@dataclass(frozen=True, kw_only=True)
class Clustering:
    """How the extracted set was chosen."""

    rule: str  # "plateau", "null" or "finextract_compat"
    sentence: str  # what the rule said here
    threshold: float  # similarity from which two images are joined
    minimum_support: int  # images in a clique that is evidence
    num_supported: int  # such cliques
    num_wanted: int | None  # training images, where their number is known
    largest: int  # images in the largest clique
    is_proven: bool  # every search came to its end


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How the fine-tune and its base belong together."""

    kind: str  # "full", "lora" or "single file"
    base: str  # as people name it, with the commit where there is one
    base_origin: str  # "--memscan-base", "adapter_config.json"
    parts: tuple[str, ...]  # that differ: ("unet", "text_encoder")
    distance: float  # of the denoisers' weights, relative to the base's norm
    warning: str = ""  # the weights are so far apart that the base is hardly the right one
    adapter: str = ""  # "diffusers layout, rank 8"


@dataclass(frozen=True, kw_only=True)
class ConceptScan:
    """One fine-tune against its training images."""

    name: str  # of the fine-tune, as people name it
    fit: Fit
    captions: str  # "instance prompt", "caption of each image" or "none"
    captions_origin: str  # "captions.txt", "guessed from ss_tag_frequency of ..."
    captions_note: str  # why they may not be those it was trained with, or ""
    num_train: int | None  # distinct training images; None where there are none to compare with
    methods: tuple[MethodScores, ...]  # empty without training images; finextract last
    clustering: Clustering  # of the images of FineXtract, with the setting that extracts most
    extracted: tuple[ExtractedImage, ...]  # likewise, best supported first
    matches: tuple[TrainMatch, ...]  # likewise, one for each training image
    num_planned: int  # images of each method, if the scan is not stopped early
    num_images: int  # of each method
    num_copied: int | None  # training images that some image of any method copies
    num_candidates: int | None  # groups that are evidence on their own; None with training images
    stopped: str  # why it stopped before `num_planned`, or ""
    cut: float  # similarity above which an image is a copy, or the images of a group are
    cut_sentence: str  # where the cut comes from
    shown_rate: float  # an image made at least this often would have come up, at 95 % confidence
    wanted_rate: float  # the rate that has to be shown before "none" is believed
    controls: tuple[Control, ...]
    images: Coverage
    denoiser_calls: int
    prompts: PromptCoverage | None = None  # of a list of captions


@dataclass(frozen=True, kw_only=True)
class FinetuneScan:
    """FineXtract (arXiv:2410.03039) on one fine-tune, or on a set of them."""

    title: str
    measure: Measure
    concepts: tuple[ConceptScan, ...]
    average: tuple[MethodScores, ...]  # over concepts; of a single one, its own scores
    metrics: dict[str, Estimate]  # every number a threshold can name
    denoiser_calls: int
    provenance: dict[str, str]
    notes: tuple[str, ...] = field(default=())  # what a reader must know about the numbers
