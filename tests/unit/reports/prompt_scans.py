"""Scans of prompts and keys, and a search for repeats, with plausible values."""

from __future__ import annotations

from dataclasses import replace

from unit.reports import scans

from pytest_memscan.results import (
    CallCount,
    Control,
    Coverage,
    DetectorResult,
    Estimate,
    KeyFinding,
    KeyScan,
    KeyVariance,
    PromptCoverage,
    PromptFinding,
    PromptRule,
    PromptScan,
    Repeats,
    Screening,
)

PROVENANCE = scans.PROVENANCE | {"guidance_scale": "7.5", "prompts_fingerprint": "0c4e9b7d21a3f586"}
PROMPTS = PromptCoverage(
    origin="captions.txt",
    is_probe=False,
    num_found=2104,
    num_used=2000,
    dropped={"duplicate": 98, "empty": 3},
    unusable={
        "not UTF-8": ("captions.txt line 17", "captions.txt line 40"),
        "NUL character": ("captions.txt line 5",),
    },
    num_truncated=12,
    num_planned=2000,
)
PROBES = PromptCoverage(
    origin="built-in probe list", is_probe=True, num_found=251, num_used=251, num_planned=251
)
DETECTORS = (
    DetectorResult(
        name="noise_magnitude",
        title="Text-conditional noise magnitude, first step (Wen et al., 2024)",
        higher_is_memorised=True,
        calls_per_prompt=8,
        decides=True,
        threshold=1.2413,
        num_negatives=200,
        num_above=37,
    ),
    DetectorResult(
        name="denoising_confidence",
        title="Denoising confidence (Webster, 2023)",
        higher_is_memorised=False,
        calls_per_prompt=4,
        decides=True,
        threshold=0.0312,
        num_negatives=200,
        num_above=9,
    ),
    DetectorResult(
        name="seed_agreement",
        title="Agreement of noise differences over seeds (Hintersdorf et al., 2024)",
        higher_is_memorised=True,
        calls_per_prompt=10,
    ),
    DetectorResult(
        name="descriptor_consistency",
        title="Similarity of descriptors over seeds",
        higher_is_memorised=True,
        calls_per_prompt=0,
        not_applicable="no descriptor was chosen (--memscan-descriptor)",
    ),
)
SCREENING = Screening(
    detectors=DETECTORS,
    num_screened=2000,
    num_suspicious=44,
    num_escalated=40,
    num_audited=100,
    num_missed=1,
    miss_rate=Estimate(value=0.01, lower=0.0005, upper=0.0466, num_trials=100),
)
RULE = PromptRule(
    clique_size=10,
    max_images=500,
    edge_threshold=0.0734,
    template_threshold=0.0814,
    copy_rate=0.1,
    miss_probability=0.05,
    num_negatives=200,
    sentence="Two images are near-identical below a tiled L2 of 0.073: among the images of 200 "
    "negatives, one pair in 10,000 is that close.",
)
CALLS = CallCount(negatives=12_800, screening=1_600, sampling=26_800, fixed_protocol=5_000_000)
CONTROLS = (
    Control(
        name="planted clique",
        sentence="Images of one prompt with ten re-encoded copies of one image among them.",
        num_images=20,
        num_found=20,
        minimum_found=19,
        maximum_found=20,
    ),
)
IMAGES = Coverage(
    planned=2680,
    generated=2680,
    valid=2676,
    invalid={"black": 4},
    train_found=150,
    train_used=150,
    train_groups=150,
)


def prompts_rate(hits: int, *, lower: float, upper: float) -> Estimate:
    return Estimate(value=hits / 2000, lower=lower, upper=upper, num_trials=2000)


VERBATIM = PromptFinding(
    prompt_id=17,
    route="escalated",
    kind="verbatim",
    settled=True,
    num_images=10,
    clique_size=10,
    clique_distance=0.0412,
    representative=3,
    train_id=3,
    train_distance=0.0487,
    fixed_share=0.61,
    scores={"noise_magnitude": 3.1, "denoising_confidence": 0.011},
    place="captions.txt line 18",
)
TEMPLATE = PromptFinding(
    prompt_id=402,
    route="audit",
    kind="template",
    settled=True,
    num_images=40,
    clique_size=2,
    clique_distance=0.069,
    representative=1207,
    train_id=77,
    train_distance=0.2214,
    fixed_share=0.0231,
    scores={"noise_magnitude": 1.1},
    place="captions.txt line 411",
)


def prompt_findings() -> tuple[PromptFinding, ...]:
    """Twelve verbatim, one template, and four that are not memorised, one of them undecided."""
    more = tuple(
        replace(
            VERBATIM,
            prompt_id=17 + 53 * index,
            clique_distance=0.0412 + 0.002 * index,
            train_id=(3 + 11 * index) % 150 if index % 4 else None,
            train_distance=0.0487 + 0.01 * index if index % 4 else None,
            num_images=10 + 10 * (index // 6),
            place=f"captions.txt line {18 + 55 * index}",
        )
        for index in range(1, 12)
    )
    clean = tuple(
        replace(
            TEMPLATE,
            prompt_id=900 + index,
            route="escalated" if index % 2 else "audit",
            kind="",
            settled=index < 3,
            clique_size=1 + index,
            clique_distance=None if not index else 0.07,
            train_id=None,
            train_distance=None,
            fixed_share=None,
            num_images=60 if index < 3 else 500,
            place="",
        )
        for index in range(4)
    )
    return (VERBATIM, *more, TEMPLATE, *clean)


def prompt_scan() -> PromptScan:
    return PromptScan(
        title="Extraction from text-to-image models (Carlini et al., 2023), decided sequentially",
        prompts=PROMPTS,
        screening=SCREENING,
        rule=RULE,
        metrics={
            "memorised_prompts": scans.count(13),
            "verbatim_prompts": scans.count(12),
            "template_prompts": scans.count(1),
            "prompt_leak_rate": prompts_rate(32, lower=0.0068, upper=0.0521),
        },
        findings=prompt_findings(),
        num_findings_total=140,
        num_unsettled=2,
        num_confirmed=9,
        images=IMAGES,
        controls=CONTROLS,
        calls=CALLS,
        provenance=PROVENANCE,
    )


def key_scan() -> KeyScan:
    findings = tuple(
        KeyFinding(
            prompt_id=index,
            is_canary=index != 1,
            flagged=index < 3,
            num_images=16,
            variances={
                "pixel": 0.0012 + 0.004 * index,
                "latent": 0.031 + 0.06 * index,
            },
            p_value=1 / 201 if index < 3 else 0.31,
            train_id=12 + index if index != 2 else None,
            train_distance=0.0391 + 0.05 * index if index != 2 else None,
            place=f"line {index + 1}",
        )
        for index in range(6)
    )
    return KeyScan(
        title="Extended SIDE: variance over seeds",
        spaces=tuple(
            KeyVariance(
                space=space, form=form, threshold=threshold, num_negatives=200, num_below=below
            )
            for space, form, threshold, below in (
                ("pixel", "strings", 0.0087, 2),
                ("latent", "strings", 0.142, 2),
                ("pixel", "prompts", 0.0067, 1),
                ("latent", "prompts", 0.118, 1),
            )
        ),
        deciding_space="pixel",
        images_per_key=16,
        num_keys=60,
        num_canaries=40,
        metrics={
            "extracted_canaries": scans.count(2),
            "low_variance_prompts": scans.count(1),
        },
        findings=findings,
        num_findings_total=60,
        canaries=PromptCoverage(
            origin="canaries.txt",
            is_probe=False,
            num_found=41,
            num_used=40,
            dropped={"empty": 1},
            num_planned=40,
        ),
        sentence="A key is flagged below the variance that one in 200 unused strings reaches.",
    )


def repeats() -> Repeats:
    return Repeats(
        num_images=2000,
        num_groups=7,
        num_repeating=57,
        largest=(
            tuple(range(17, 2000, 97)),
            *((index, 100 + index, 900 + index, 1100 + index, 1300 + index) for index in range(6)),
        ),
        group_size=3,
        threshold=0.5,
        measure="normalised L2 of pixels relative to the nearest image outside the group",
        rule="a repeated group is 3 or more generated images whose distances from each other are "
        "at most 0.5 of the distance from any of them to another generated image",
        images=Coverage(planned=2000, generated=2000, valid=2000),
        denoiser_calls=100_000,
        provenance=scans.PROVENANCE,
        metrics={"repeated_groups": scans.count(7)},
        widest=0.0521,
        dimension=21.4,
        expected_by_chance=0.0121,
        shown_rate=0.00315,
        sentence="7 groups of 3 or more near-identical images",
    )
