"""What SARIF's readers are told of each kind of result: its meaning, and what to do about it."""

from __future__ import annotations

import re
from dataclasses import dataclass

INCONCLUSIVE = "memscan/inconclusive"
ERROR = "memscan/error"
NOT_RUN = "memscan/not-run"
REGRESSION = "memscan/regression"
FAILED = "memscan/failed"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One kind of result.

    Attributes:
        title: What GitHub shows as the name of an alert.
        meaning: What was seen, and what follows from it.
        remedy: What to do.
        level: "error" or "warning".
        severity: CVSS-like, above 0 and up to 10 (GitHub: high from 7, medium from 4); "" for
            what is no finding, since a severity would claim one.
        precision: How often it is right: "very-high", "high", "medium" or "low".
        tags: To filter by.
    """

    title: str
    meaning: str
    remedy: str
    level: str = "error"
    severity: str = ""
    precision: str = "high"
    tags: tuple[str, ...] = ("security", "privacy", "training-data")


_LOOK = "Look at the pairs in the HTML report (--memscan-report html)"
_ACCEPT = (
    "Where a finding is acceptable, waive it with [[suppress]] in the policy file: id, reason and "
    "the day it expires."
)
_RETRAIN = (
    f"{_LOOK}. Take the images and their near-duplicates out of the training data, or train for "
    f"fewer steps, and scan again. {_ACCEPT}"
)
_REPHRASE = (
    "Look at the prompts in the HTML report (--memscan-report html). Take out duplicates of their "
    "images and captions, or vary the captions, and train again. " + _ACCEPT
)
_LESS = (
    "Look at what is copied most in the HTML report (--memscan-report html). Take duplicates out "
    "of the training data, or train for fewer steps, and scan again."
)
_COMPARE = (
    "Pass the training images with --memscan-train-data to learn whether they are copies of any. "
    f"{_LESS}"
)
_KEEP_ONE = "Keep one image of each group (the reports list the largest), and train again."
_LEVELS = {
    "low": "low or closer, the loosest published level",
    "mid": "mid or closer",
    "high": "high, the closest published level",
}


def _similar(where: str = "") -> dict[str, tuple[str, str]]:
    """Metric -> title and meaning, of AMS and UMS at each level."""
    told = {}
    for level, words in _LEVELS.items():
        told[f"ams_{level}"] = (
            f"Too many generated images{where} resemble training images (AMS, {level})",
            f"The share of generated images{where} that match some training image at level {words} "
            "is above the limit of the policy. These levels are looser than a confirmed copy.",
        )
        told[f"ums_{level}"] = (
            f"Too many training images are resembled{where} (UMS, {level})",
            f"The number of distinct training images matched{where} at level {words}, for each "
            "generated image, is above the limit of the policy. These levels are looser than a "
            "confirmed copy.",
        )
    return told


def _similarity_rules() -> dict[str, Rule]:
    plain, guided = _similar(), _similar(" at the worst setting of SIDE")
    told = plain | {f"side_{metric}": words for metric, words in guided.items()}
    return {
        metric: Rule(title=title, meaning=meaning, remedy=_LESS, severity="6.0", precision="medium")
        for metric, (title, meaning) in told.items()
    }


_METRICS = {
    "extracted": Rule(
        title="A training image can be extracted",
        meaning="A generated image is a confirmed copy of a training image: closer to it than "
        "distinct real images are to each other. Whoever has the checkpoint can get it too.",
        remedy=_RETRAIN,
        severity="8.5",
        precision="very-high",
    ),
    "leak_rate": Rule(
        title="Too many generated images are copies of training images",
        meaning="The share of generated images that are confirmed copies is above the limit of "
        "the policy, even at its lower confidence bound.",
        remedy=_LESS,
        severity="8.5",
    ),
    "ums_confirmed": Rule(
        title="Too many distinct training images are copied",
        meaning="The number of distinct training images with a confirmed copy, for each generated "
        "image, is above the limit of the policy, even at its lower confidence bound.",
        remedy=_LESS,
        severity="8.5",
    ),
    "extractable_images": Rule(
        title="A training image is within reach of extraction",
        meaning="Steered generation found a copy of a training image, and its rate says that "
        "ordinary generation would make one within the reach of the policy (--memscan-reach).",
        remedy=_RETRAIN,
        severity="8.0",
    ),
    "steered_leak_rate": Rule(
        title="Copies of training images are not rare enough",
        meaning="The share of ordinary images that are confirmed copies, estimated by splitting, "
        "is above the limit of the policy.",
        remedy=_LESS,
        severity="8.0",
    ),
    "side_extracted": Rule(
        title="A training image can be extracted with guidance (SIDE)",
        meaning="Guided by labels that need no training data, the checkpoint made a confirmed "
        "copy of a training image. Whoever has the checkpoint can do the same.",
        remedy=_RETRAIN,
        severity="8.5",
        precision="very-high",
    ),
    "side_leak_rate": Rule(
        title="Too many guided images are copies of training images (SIDE)",
        meaning="At the worst setting of SIDE, the share of images that are confirmed copies is "
        "above the limit of the policy.",
        remedy=_LESS,
        severity="8.0",
    ),
    "duplicate_groups": Rule(
        title="Training images are there more than once",
        meaning="There are more groups of (near-)duplicate training images than the policy "
        "allows. Duplicates are what models memorise first.",
        remedy=_KEEP_ONE,
        severity="3.0",
    ),
    "duplicate_images": Rule(
        title="Too many training images are duplicates",
        meaning="More training images could go, leaving one of each group of (near-)duplicates, "
        "than the policy allows. Duplicates are what models memorise first.",
        remedy=_KEEP_ONE,
        severity="3.0",
    ),
    "memorised_prompts": Rule(
        title="A prompt is memorised",
        meaning="A prompt gives near-identical images, or the same part of an image, whatever the "
        "seed. What comes out is what was in the training data under that caption.",
        remedy=_REPHRASE,
        severity="8.0",
    ),
    "verbatim_prompts": Rule(
        title="A prompt gives the same image again and again",
        meaning="A prompt gives near-identical images whatever the seed: the model recalls one "
        "image instead of making new ones.",
        remedy=_REPHRASE,
        severity="8.0",
    ),
    "template_prompts": Rule(
        title="A prompt gives the same part of an image again and again",
        meaning="A prompt gives images that share a fixed part whatever the seed: the model "
        "recalls a layout or an object of its training data.",
        remedy=_REPHRASE,
        severity="6.0",
    ),
    "prompt_leak_rate": Rule(
        title="Too many prompts are memorised",
        meaning="The share of the prompts that are memorised is above the limit of the policy, "
        "even at its lower confidence bound.",
        remedy=_REPHRASE,
        severity="8.0",
    ),
    "extracted_canaries": Rule(
        title="A planted string was memorised",
        meaning="The images of a string that was planted in the training data hardly vary: the "
        "model has learned it by heart, and may have learned other captions so.",
        remedy=_REPHRASE,
        severity="8.0",
    ),
    "low_variance_prompts": Rule(
        title="The images of a prompt hardly vary",
        meaning="The images of a sampled prompt hardly vary, which memorised prompts show. "
        "Nothing was compared with training images.",
        remedy=_REPHRASE,
        severity="5.0",
        precision="medium",
    ),
    "repeated_groups": Rule(
        title="The checkpoint repeats itself",
        meaning="Generated images form groups of near-identical ones. A model that makes the same "
        "image again and again has most likely memorised it.",
        remedy=_COMPARE,
        severity="6.0",
        precision="medium",
    ),
    "copied_images": Rule(
        title="A training image of the fine-tune is copied",
        meaning="An image made by the fine-tune is a copy of one of its training images: more "
        "like it than distinct real images are like each other.",
        remedy=_RETRAIN,
        severity="8.5",
        precision="very-high",
    ),
    "extracted_images": Rule(
        title="A training image of the fine-tune can be extracted",
        meaning="Clustering the images of the fine-tune picks out a copy of a training image "
        "without knowing any: whoever has the fine-tune can do the same.",
        remedy=_RETRAIN,
        severity="8.5",
        precision="very-high",
    ),
    "esr_strict": Rule(
        title="Too many training images of the fine-tune are extracted (A-ESR at 0.7)",
        meaning="The share of training images with an extracted image of similarity 0.7 or more "
        "is above the limit of the policy.",
        remedy=_LESS,
        severity="8.0",
    ),
    "esr_loose": Rule(
        title="Too many training images of the fine-tune are extracted (A-ESR at 0.6)",
        meaning="The share of training images with an extracted image of similarity 0.6 or more "
        "is above the limit of the policy.",
        remedy=_LESS,
        severity="7.0",
        precision="medium",
    ),
    "extraction_candidates": Rule(
        title="The fine-tune repeats itself",
        meaning="Images of the fine-tune form well-supported groups of near-identical ones: "
        "candidates for extracted training images.",
        remedy=_COMPARE,
        severity="6.0",
        precision="medium",
    ),
    **_similarity_rules(),
}
_OPERATIONAL = ("privacy", "scan-coverage")
_OTHERS = {
    FAILED: Rule(
        title="A memscan check failed",
        meaning="A check failed for a reason that is not a limit of the policy.",
        remedy="Read its sentence, and the HTML report (--memscan-report html).",
        severity="7.0",
    ),
    REGRESSION: Rule(
        title="The checkpoint leaks more than before",
        meaning="A metric rose significantly since the earlier run that was given with "
        "--memscan-baseline, all comparisons of the run taken together.",
        remedy="Find out what changed in the training data or the training between the two "
        "checkpoints. Where the increase is accepted, save a new baseline with "
        "--memscan-save-baseline.",
        severity="7.0",
    ),
    INCONCLUSIVE: Rule(
        title="The scan does not settle whether the checkpoint leaks too much",
        meaning="What was measured is compatible with both sides of a limit, or not everything "
        "could be looked at. This is not a pass.",
        remedy="The sentence says what would settle it, such as the number of images "
        "(--memscan-budget).",
        level="warning",
        tags=_OPERATIONAL,
    ),
    ERROR: Rule(
        title="The scan cannot be trusted or did not end",
        meaning="A check ended in an error, or a planted case with a known answer was misjudged. "
        "Nothing is known of what it should have found. This is not a pass.",
        remedy="The sentence says what is wrong and what to do. Then scan again.",
        tags=_OPERATIONAL,
    ),
    NOT_RUN: Rule(
        title="A check of the gate was not run",
        meaning="A check was deselected, skipped or stopped before it ran. Nothing is known of "
        "what it would have found. This is not a pass.",
        remedy="Run every check: pytest --memscan CHECKPOINT, without -k, -m or single test ids.",
        level="warning",
        tags=_OPERATIONAL,
    ),
}
_UNKNOWN = Rule(
    title="A limit of the policy is exceeded",
    meaning="A metric that this version of pytest-memscan does not know is above its limit.",
    remedy="Make the report again with the version of pytest-memscan that scanned.",
    severity="7.0",
    precision="medium",
)


def rule_of(rule_id: str) -> Rule:
    """What is told of a metric, or of one of the ids of this module."""
    return _OTHERS.get(rule_id) or _METRICS.get(rule_id, _UNKNOWN)


def rule_name(rule_id: str) -> str:
    """An identifier, as names of rules must be.

    Example:
        >>> rule_name("leak_rate"), rule_name("memscan/not-run")
        ('LeakRateAboveLimit', 'MemscanNotRun')
    """
    if rule_id not in _OTHERS and rule_id not in _METRICS:
        return "UnknownAboveLimit"
    words = "".join(word.capitalize() for word in re.split(r"[_/-]", rule_id))
    return words if rule_id in _OTHERS else f"{words}AboveLimit"
