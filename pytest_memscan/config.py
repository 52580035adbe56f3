"""What the user asked for, where each value came from, and what is wrong with it.

Precedence: command line > ``memscan.toml`` or ``[tool.memscan]`` > pytest ini > default.
Nothing heavy is imported, since this runs at the start of every memscan session.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_memscan.checkpoints.families import Kind
from pytest_memscan.checkpoints.resolve import has_builtin_train_data, known_kind
from pytest_memscan.checks import Situation, check_measured, checks_of, subjects_of
from pytest_memscan.concept_sets import Concept, is_set, read_set
from pytest_memscan.config_base import KnownBase, checkpoint_label, known_base
from pytest_memscan.config_checks import (
    OF_ONE_SCAN,
    check_clustering,
    check_scans,
    check_set,
    check_stopping_rule,
    check_used,
)
from pytest_memscan.config_shown import shown_settings
from pytest_memscan.config_sources import collect, policy_file
from pytest_memscan.data.prompts import PromptSource
from pytest_memscan.data.sources import DataSource
from pytest_memscan.output_settings import Outputs, output_settings
from pytest_memscan.policy import Threshold, check_can_be_shown, whole_policy
from pytest_memscan.settings import (
    CLUSTERINGS,
    COPY,
    DEFAULT_BATCH_SIZE,
    DEFAULT_COPY_RATE,
    DEFAULT_IMAGES,
    DEFAULT_IMAGES_PER_PROMPT,
    DEFAULT_REACH,
    DTYPES,
    LONGEST_REACH,
    PIXELS,
    SHORTEST_REACH,
    Budget,
    Given,
    parse_base,
    parse_boolean,
    parse_budget,
    parse_descriptor,
    parse_device,
    parse_guidance_scale,
    parse_integer,
    parse_model_guidance,
    parse_one_of,
    parse_path,
    parse_prompts,
    parse_scans,
    parse_share,
    parse_thresholds,
    parse_train_source,
)
from pytest_memscan.side_settings import SideSettings, side_settings
from pytest_memscan.similarity.descriptors.weights import default_cache_dir
from pytest_memscan.waivers import WaiverLine, parse_waivers


@dataclass(frozen=True, kw_only=True, repr=False)
class Config:
    """Every effective setting of a run; ``sources`` says where each was set."""

    model: str
    kind: Kind | None  # of the checkpoint; None where it has to be fetched first
    base: str | None  # the checkpoint it was fine-tuned from, as far as it is known now
    base_origin: str  # where that was learnt: an option, or a file of the checkpoint
    has_base: bool | None  # None where the checkpoint has to be fetched first
    concepts: tuple[Concept, ...]  # where the checkpoint is a set of fine-tunes
    caption: str | None  # of a concept of a set
    train_source: DataSource | None
    holdout_source: DataSource | None
    prompt_source: PromptSource | None
    canary_source: PromptSource | None
    thresholds: tuple[Threshold, ...]
    budget: Budget | None  # None for what the kind of checkpoint needs
    images_per_prompt: int  # of the fixed protocol
    copy_rate: float  # a prompt that gives one image this often must be found
    reach: int  # ordinary images within which the first copy of a training image counts
    side: SideSettings
    guidance_scale: float | None  # None for the pipeline's own
    model_guidance: tuple[tuple[float, float], ...]  # w' and k; empty for the authors' own
    clustering: str  # rule that chooses the extracted set of a fine-tune
    steps: int  # denoiser calls per image
    seed: int
    device: str  # auto, cpu, cuda, cuda:N
    dtype: str
    given_batch_size: int | None
    scans: tuple[str, ...] | None  # those asked for by name
    descriptor: str  # what images are compared by: pixels, or the name of a descriptor
    offline: bool
    cache_dir: Path
    use_cache: bool
    outputs: Outputs
    strict: bool  # a deselected gate fails the run
    baseline: Path | None  # report of an earlier run to compare with
    waivers: tuple[WaiverLine, ...]
    policy_file: Path  # memscan.toml or pyproject.toml; need not exist
    rootdir: Path
    sources: Mapping[str, tuple[str, str]]  # setting -> (value as text, source)

    def __repr__(self) -> str:
        # A traceback with --showlocals must not tell where somebody keeps their data.
        return f"<memscan config of {self.label}>"

    @property
    def train_data(self) -> Path | None:
        """File or folder of the training images; None when there is none on this machine."""
        return None if self.train_source is None else self.train_source.path

    @property
    def holdout(self) -> Path | None:
        """File or folder of the held-out images, likewise."""
        return None if self.holdout_source is None else self.holdout_source.path

    @property
    def has_train_data(self) -> bool:
        """Whether there are training images to compare with."""
        if self.concepts:
            return all(each.has_train_data for each in self.of_concepts())
        return self.train_source is not None or has_builtin_train_data(self.model)

    @property
    def has_train_pixels(self) -> bool:
        """Whether these are images, rather than descriptors in a saved index."""
        return self.has_train_data and not (self.train_source and self.train_source.kind == "index")

    def of_concepts(self) -> tuple[Config, ...]:
        """The settings for each fine-tune of a set."""
        return tuple(self._of(each) for each in self.concepts)

    def _of(self, concept: Concept) -> Config:
        given = concept.base or self.base
        origin = self.base_origin if concept.base is None else self.label
        base = known_base(concept.model, given, origin, is_asked_for=True)
        return replace(
            self,
            model=concept.model,
            kind=known_kind(concept.model),
            base=base.spec,
            base_origin=base.origin,
            has_base=base.is_known,
            concepts=(),
            train_source=concept.train_source,
            prompt_source=concept.prompt_source,
            caption=concept.caption,
        )

    @property
    def checks(self) -> tuple[str, ...]:
        """The checks of this run, as far as can be told before the checkpoint is fetched."""
        return checks_of(self.situation)

    @property
    def situation(self) -> Situation:
        """What decides which checks there are."""
        return Situation(
            kind=self.kind,
            has_base=self.has_base,
            has_train_data=self.has_train_data,
            has_train_pixels=self.has_train_pixels,
            scans=self.scans,
            is_set=bool(self.concepts),
            has_baseline=self.baseline is not None,
        )

    def batch_size(self, kind: Kind) -> int:
        """Images in every denoiser call."""
        return self.given_batch_size or DEFAULT_BATCH_SIZE[kind]

    @property
    def label(self) -> str:
        """The checkpoint as people name it, without a private path."""
        return checkpoint_label(self.model)

    @property
    def labeller_label(self) -> str:
        """The image classifier of SIDE-A likewise."""
        return "none" if self.side.labeller is None else checkpoint_label(self.side.labeller)

    @property
    def base_label(self) -> str:
        """The base likewise."""
        return "none" if self.base is None else checkpoint_label(self.base)


def resolve_config(
    options: Mapping[str, Any],
    *,
    ini: Mapping[str, Any],
    rootdir: Path,
    invocation_dir: Path,
    environ: Mapping[str, str] = os.environ,
) -> Config:
    """Merge the sources and check every value.

    Args:
        options: Command-line values by name without ``memscan_``; None where not given.
        ini: Values of the pytest ini keys; empty where not set.
        rootdir: Where ``memscan.toml`` and ``pyproject.toml`` are looked for.
        invocation_dir: What relative paths on the command line start from.
        environ: For ``CI``, ``MEMSCAN_CACHE_DIR``, ``MEMSCAN_OFFLINE``, ``HF_HUB_OFFLINE``.

    Raises:
        OptionError: A value cannot be used; the message names it, its source and the remedy.
    """
    raw = collect(options, ini=ini, rootdir=rootdir, invocation_dir=invocation_dir)
    sources: dict[str, tuple[str, str]] = {}

    def take(name: str, parse: Callable[[Given], Any], default: Any) -> Any:
        given = raw.get(name)
        value = default if given is None else parse(given)
        shown = default if given is None else given.value
        shown = "; ".join(map(str, shown)) if isinstance(shown, list | tuple) else str(shown)
        sources[name] = (shown, "default" if given is None else given.source)
        return value

    in_ci = environ.get("CI", "").lower() not in ("", "0", "false", "no", "off")
    model = options["model"]
    scans = take("scans", parse_scans, None)
    concepts = read_set(model) if is_set(model) else ()
    given_base = take("base", parse_base, None)
    base_origin = sources["base"][1]
    if concepts:
        base = KnownBase(spec=given_base, origin=base_origin, is_known=True)
    else:
        asked = "finextract" in (scans or ())
        base = known_base(model, given_base, base_origin, is_asked_for=asked)
    config = Config(
        model=model,
        kind="text-to-image" if concepts else known_kind(model),
        concepts=concepts,
        caption=None,
        base=base.spec,
        base_origin=base.origin,
        has_base=base.is_known,
        train_source=take("train_data", parse_train_source, None),
        holdout_source=take("holdout", parse_train_source, None),
        prompt_source=take("prompts", parse_prompts, None),
        canary_source=take("canaries", parse_prompts, None),
        thresholds=take("fail", parse_thresholds, ()),
        budget=take("budget", parse_budget, None),
        images_per_prompt=take(
            "images_per_prompt",
            parse_integer(10, 2**16),
            DEFAULT_IMAGES_PER_PROMPT,
        ),
        copy_rate=take("copy_rate", parse_share, DEFAULT_COPY_RATE),
        reach=take("reach", parse_integer(SHORTEST_REACH, LONGEST_REACH), DEFAULT_REACH),
        side=side_settings(take),
        guidance_scale=take("guidance_scale", parse_guidance_scale, None),
        model_guidance=take("model_guidance", parse_model_guidance, ()),
        clustering=take("clustering", parse_one_of(CLUSTERINGS), CLUSTERINGS[0]),
        steps=take("steps", parse_integer(1, 1000), 50),
        seed=take("seed", parse_integer(0, 2**32 - 1), 0),
        device=take("device", parse_device, "auto"),
        dtype=take("dtype", parse_one_of(DTYPES), "float32"),
        given_batch_size=take("batch_size", parse_integer(1, 4096), None),
        scans=scans,
        descriptor=take("descriptor", parse_descriptor, COPY if base.is_known else PIXELS),
        offline=take("offline", parse_boolean, _is_offline(environ)),
        cache_dir=take("cache_dir", parse_path, default_cache_dir(environ)),
        use_cache=not options.get("no_cache"),
        outputs=output_settings(take, rootdir),
        strict=take("strict", parse_boolean, in_ci),
        baseline=take("baseline", parse_path, None),
        waivers=take("suppress", parse_waivers, ()),
        policy_file=policy_file(options, rootdir=rootdir, invocation_dir=invocation_dir),
        rootdir=rootdir,
        sources=sources,
    )
    config = replace(
        config, thresholds=whole_policy(config.thresholds, subjects_of(config.situation))
    )
    check_set(config)
    check_scans(config)
    check_clustering(config)
    check_used(config)
    if {"prompt_detectors", "carlini", "extended_side"} & set(config.checks) and (
        config.kind != "unconditional"
    ):
        check_stopping_rule(config)
    check_measured(config.thresholds, config.situation)
    sources |= shown_settings(config)
    for scan, names in OF_ONE_SCAN.items():
        if scan not in config.checks:  # a policy file may serve several runs
            for name in names:
                del sources[name]
    budget = config.budget or Budget(num_images=DEFAULT_IMAGES)
    if config.kind == "unconditional" and budget.num_images is not None:
        for threshold in config.thresholds:
            check_can_be_shown(threshold, num_images=budget.num_images)
    return config


def _is_offline(environ: Mapping[str, str]) -> bool:
    names = ("MEMSCAN_OFFLINE", "HF_HUB_OFFLINE")
    return any(environ.get(name, "").lower() in ("1", "true", "yes", "on") for name in names)
