"""Fine-tunes against their bases: one that leaks, a clean one, one with nothing to compare with."""

from __future__ import annotations

from dataclasses import replace

from unit.reports import scans

from pytest_memscan.results import (
    Clustering,
    ConceptScan,
    Control,
    Coverage,
    Estimate,
    ExtractedImage,
    FinetuneScan,
    Fit,
    Measure,
    MethodScores,
    PromptCoverage,
    TrainMatch,
)

NUM_TRAIN = 10
MEASURE = Measure(
    name="cosine similarity of builtin:copy descriptors", word="similarity", higher_is_closer=True
)
NOTE = (
    "AS and A-ESR are measured with builtin:copy; only numbers of the same descriptor can be "
    "compared, and the paper's are of SSCD."
)
PROVENANCE = scans.PROVENANCE | {"base_sha256": "41" * 32, "k": "0", "w_prime": "5"}
FIT = Fit(
    kind="lora",
    base="acme/base@3f9c2a1",
    base_origin="adapter_config.json",
    parts=("unet", "text_encoder"),
    distance=0.0213,
    adapter="diffusers layout, rank 8",
)
CONTROLS = (
    Control(
        name="re-encoded",
        sentence="Training images saved as JPEG at quality 60 and cropped by one pixel.",
        num_images=10,
        num_found=10,
        minimum_found=9,
        maximum_found=10,
    ),
    Control(
        name="base images",
        sentence="Images that the base makes of the same captions, which copy nothing.",
        num_images=20,
        num_found=0,
        minimum_found=0,
        maximum_found=1,
    ),
)


def mean(value: float, *, spread: float = 0.062, num_train: int = NUM_TRAIN) -> Estimate:
    return Estimate(value=value, lower=value - spread, upper=value + spread, num_trials=num_train)


def share(hits: int, *, lower: float, upper: float, num_train: int = NUM_TRAIN) -> Estimate:
    return Estimate(value=hits / num_train, lower=lower, upper=upper, num_trials=num_train)


CAPTIONS = PromptCoverage(
    origin="captions.txt",
    is_probe=False,
    num_found=11,
    num_used=10,
    dropped={"empty": 1},
    num_planned=10,
)
NONE = share(0, lower=0.0, upper=0.2589)
ONE = share(1, lower=0.0051, upper=0.3942)
TWO = share(2, lower=0.0368, upper=0.5069)
THREE = share(3, lower=0.0873, upper=0.6066)
FOUR = share(4, lower=0.15, upper=0.6965)

DIRECT = MethodScores(
    method="direct",
    settings="no guidance",
    num_images=500,
    num_extracted=10,
    average_similarity=mean(0.3172),
    esr_strict=NONE,
    esr_loose=NONE,
    best_similarity=mean(0.4011),
    best_esr_strict=NONE,
    best_esr_loose=ONE,
    num_copied=0,
    num_copied_extracted=0,
    denoiser_calls=25_000,
)
CFG = replace(
    DIRECT,
    method="cfg",
    settings="guidance scale 3",
    average_similarity=mean(0.3964),
    esr_loose=ONE,
    best_similarity=mean(0.4714),
    best_esr_strict=ONE,
    best_esr_loose=TWO,
    num_copied=1,
    denoiser_calls=50_000,
)
FINEXTRACT = replace(
    CFG,
    method="finextract",
    settings="w' 5, k 0",
    average_similarity=mean(0.4493),
    esr_strict=THREE,
    esr_loose=THREE,
    best_similarity=mean(0.5387),
    best_esr_strict=FOUR,
    best_esr_loose=FOUR,
    num_copied=4,
    num_copied_extracted=3,
)
CLUSTERING = Clustering(
    rule="plateau",
    sentence="The number of groups of 5 or more images stays at 6 from a similarity of 0.58 to "
    "0.66, the longest such stretch; its middle was taken.",
    threshold=0.62,
    minimum_support=5,
    num_supported=6,
    num_wanted=NUM_TRAIN,
    largest=41,
    is_proven=True,
)


def extracted(index: int, *, is_copy: bool, known: bool = True) -> ExtractedImage:
    """The ``index``-th of ten, best supported first; the last four are of too few images."""
    support = (41, 37, 22, 15, 9, 5, 3, 2, 2, 1)[index]
    return ExtractedImage(
        sample_id=(17 + 97 * index) % 500,
        support=support,
        mean_similarity=None if support == 1 else 0.93 - 0.03 * index,
        is_supported=support >= 5,
        is_candidate=support >= 5,
        train_id=(3 + 7 * index) % NUM_TRAIN if known else None,
        similarity=(0.88 - 0.02 * index if is_copy else 0.52 - 0.02 * index) if known else None,
        is_copy=is_copy,
    )


def matches(images: tuple[ExtractedImage, ...], missed: int | None) -> tuple[TrainMatch, ...]:
    """Each training image with its extracted one; ``missed`` is copied by another image."""
    made = []
    for each in sorted(images, key=lambda image: image.train_id or 0):
        assert each.train_id is not None
        assert each.similarity is not None
        is_missed = each.train_id == missed
        made.append(
            TrainMatch(
                train_id=each.train_id,
                extracted_similarity=each.similarity,
                best_similarity=0.81 if is_missed else each.similarity + 0.01,
                best_sample_id=499 if is_missed else each.sample_id,
                is_copied=each.is_copy or is_missed,
            )
        )
    return tuple(made)


LEAKED = tuple(extracted(index, is_copy=index in (0, 1, 3)) for index in range(10))
CONCEPT = ConceptScan(
    name="acme/vask-lora@77ab013",
    fit=FIT,
    captions="instance prompt",
    captions_origin="guessed from README.md",
    captions_note="this may not be what it was trained with",
    num_train=NUM_TRAIN,
    methods=(DIRECT, CFG, FINEXTRACT),
    clustering=CLUSTERING,
    extracted=LEAKED,
    matches=matches(LEAKED, missed=8),
    num_planned=500,
    num_images=500,
    num_copied=4,
    num_candidates=None,
    stopped="",
    cut=0.71,
    cut_sentence="an image is a copy above similarity 0.710: two different training images are "
    "that alike",
    shown_rate=0.006,
    wanted_rate=0.02,
    controls=CONTROLS,
    images=replace(
        scans.COVERAGE,
        planned=1500,
        generated=1500,
        valid=1498,
        invalid={"black": 2},
        train_found=11,
        train_used=10,
        train_groups=10,
        train_unusable={"not an image": ("private-name.png",)},
    ),
    denoiser_calls=130_000,
)


def clean_concept() -> ConceptScan:
    """A full fine-tune with few steps; stopped when its limits were certainly kept."""
    kept = tuple(extracted(index, is_copy=False) for index in range(10))
    nothing = {
        "esr_strict": NONE,
        "esr_loose": NONE,
        "best_esr_strict": NONE,
        "best_esr_loose": NONE,
        "num_copied": 0,
        "num_copied_extracted": 0,
        "num_images": 300,
    }
    return replace(
        CONCEPT,
        name="./out/checkpoint-200",
        fit=Fit(
            kind="full",
            base="CompVis/stable-diffusion-v1-4",
            base_origin="--memscan-base",
            parts=("unet",),
            distance=0.0021,
        ),
        captions="10 captions",
        captions_origin="captions.txt",
        captions_note="",
        prompts=CAPTIONS,
        methods=tuple(replace(each, **nothing) for each in (DIRECT, CFG, FINEXTRACT)),
        clustering=replace(CLUSTERING, num_supported=0, largest=3, num_wanted=NUM_TRAIN),
        extracted=kept,
        matches=matches(kept, missed=None),
        num_images=300,
        num_copied=0,
        stopped="none is copied, and one that comes up in 2 % of the images would have been seen",
        shown_rate=0.0099,
        images=replace(CONCEPT.images, planned=1500, generated=900, valid=900, invalid={}),
    )


def lone_concept() -> ConceptScan:
    """No training images and no captions, a search that was cut short, and a doubtful base."""
    return replace(
        CONCEPT,
        name="vask.safetensors",
        fit=replace(
            FIT,
            kind="single file",
            adapter="",
            base_origin="the metadata of the file",
            distance=0.87,
            warning="The weights differ from the base's by 87 % of their norm, as those of "
            "unrelated checkpoints do. Give the right base with --memscan-base.",
        ),
        captions="none",
        captions_origin="none known",
        captions_note="it shows less without its own",
        num_train=None,
        num_copied=None,
        num_candidates=6,
        methods=(),
        clustering=replace(CLUSTERING, num_wanted=None, is_proven=False),
        extracted=tuple(extracted(index, is_copy=False, known=False) for index in range(10)),
        matches=(),
        cut=0.76,
        cut_sentence="the images of a group are copies above similarity 0.760",
        controls=(),
        images=Coverage(planned=500, generated=500, valid=500),
    )


def scan(*concepts: ConceptScan) -> FinetuneScan:
    """Of a single fine-tune, or of a set of them with made-up averages."""
    several = len(concepts) > 1
    average = concepts[0].methods
    if several:
        average = tuple(
            replace(
                each,
                num_images=sum(concept.methods[index].num_images for concept in concepts),
                num_extracted=sum(concept.methods[index].num_extracted for concept in concepts),
                num_copied=sum(concept.methods[index].num_copied for concept in concepts),
                num_copied_extracted=sum(
                    concept.methods[index].num_copied_extracted for concept in concepts
                ),
            )
            for index, each in enumerate(concepts[0].methods)
        )
    metrics = {"extraction_candidates": scans.count(concepts[0].num_candidates or 0)}
    if average:
        metrics = {
            "copied_images": scans.count(sum(each.num_copied or 0 for each in concepts)),
            "extracted_images": scans.count(average[-1].num_copied_extracted),
            "esr_strict": average[-1].esr_strict,
            "esr_loose": average[-1].esr_loose,
        }
    return FinetuneScan(
        title="FineXtract (Wu et al., 2025, arXiv:2410.03039), model guidance on fine-tune and "
        "base",
        measure=MEASURE,
        concepts=concepts,
        average=average,
        metrics=metrics,
        denoiser_calls=sum(each.denoiser_calls for each in concepts),
        provenance=PROVENANCE,
        notes=(NOTE,),
    )
