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
from pytest_memscan.checkpoints.resolve import (
    has_builtin_train_data,
    known_claims,
    known_form,
    known_kind,
)
from pytest_memscan.checks import Situation, check_measured, checks_of, subjects_of, why_not
from pytest_memscan.concept_sets import Concept, is_set, read_set
from pytest_memscan.config_sources import collect
from pytest_memscan.data.prompts import PromptSource
from pytest_memscan.data.sources import DataSource
from pytest_memscan.errors import OptionError, shown_path
from pytest_memscan.policy import Threshold, check_can_be_shown, whole_policy
from pytest_memscan.settings import (
    CLUSTERINGS,
    COPY,
    DEFAULT_BATCH_SIZE,
    DEFAULT_COPY_RATE,
    DEFAULT_IMAGES,
    DEFAULT_IMAGES_PER_PROMPT,
    DTYPES,
    IMAGE_MODES,
    PIXELS,
    Budget,
    Given,
    ImageMode,
    default_reports,
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
    parse_reports,
    parse_scans,
    parse_share,
    parse_thresholds,
    parse_train_source,
)
from pytest_memscan.similarity.descriptors.weights import default_cache_dir


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
    reports: tuple[tuple[str, Path], ...]  # (format, path)
    images: ImageMode  # what reports may show
    strict: bool  # a deselected gate fails the run
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

    def of_concepts(self) -> tuple[Config, ...]:
        """The settings for each fine-tune of a set."""
        return tuple(
            replace(
                self,
                model=each.model,
                kind=known_kind(each.model),
                base=each.base or self.base,
                base_origin=self.base_origin if each.base is None else self.label,
                concepts=(),
                train_source=each.train_source,
                prompt_source=each.prompt_source,
                caption=each.caption,
            )
            for each in self.concepts
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
            scans=self.scans,
            is_set=bool(self.concepts),
        )

    def batch_size(self, kind: Kind) -> int:
        """Images in every denoiser call."""
        return self.given_batch_size or DEFAULT_BATCH_SIZE[kind]

    @property
    def label(self) -> str:
        """The checkpoint as people name it, without a private path."""
        return checkpoint_label(self.model)

    @property
    def base_label(self) -> str:
        """The base likewise."""
        return "none" if self.base is None else checkpoint_label(self.base)


def checkpoint_label(model: str) -> str:
    """What was typed after ``--memscan``; of an absolute path, only the last part."""
    path = Path(os.path.expanduser(model))  # Path.expanduser raises for ~nobody
    return f".../{path.name}" if path.is_absolute() else model


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
    base = _base_of_all(given_base) if concepts else _base(model, given_base, scans)
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
        reports=take(
            "report", lambda given: parse_reports(given, rootdir), default_reports(rootdir)
        ),
        images=take("images", parse_one_of(IMAGE_MODES), "blurred"),
        strict=take("strict", parse_boolean, in_ci),
        sources=sources,
    )
    config = replace(
        config, thresholds=whole_policy(config.thresholds, subjects_of(config.situation))
    )
    _check_set(config)
    _check_scans(config)
    if config.kind != "unconditional":
        check_stopping_rule(config)
    check_measured(config.thresholds, config.situation)
    sources |= _shown(config)
    budget = config.budget or Budget(num_images=DEFAULT_IMAGES)
    if config.kind == "unconditional" and budget.num_images is not None:
        for threshold in config.thresholds:
            check_can_be_shown(threshold, num_images=budget.num_images)
    return config


@dataclass(frozen=True, kw_only=True)
class _Base:
    """The base, as far as it is known before anything is fetched."""

    spec: str | None = None
    origin: str
    is_known: bool | None


def _base_of_all(given: str | None) -> _Base:
    """Of the fine-tunes of a set that name no other; one without any is found out later."""
    return _Base(spec=given, origin="" if given is None else "--memscan-base", is_known=True)


def _base(model: str, given: str | None, scans: tuple[str, ...] | None) -> _Base:
    """As given, else as the files of the checkpoint claim.

    A whole pipeline that names a base is only compared with it where that is asked for: fetching
    and sampling another model is nothing to do unasked.

    Raises:
        OptionError: A LoRA or a single file without a base, which nothing can be made of.
    """
    if given is not None:
        return _Base(spec=given, origin="--memscan-base", is_known=True)
    form = known_form(model)
    claims = known_claims(model)
    if form is None or claims is None:
        return _Base(origin="", is_known=None if known_kind(model) is None else False)
    needs_it = form != "pipeline"
    if claims.base is not None and (needs_it or "finextract" in (scans or ())):
        return _Base(spec=claims.base, origin=claims.base_origin, is_known=True)
    if needs_it:
        note = f" ({claims.base_note})" if claims.base_note else ""
        raise OptionError(
            f"--memscan {checkpoint_label(model)} is a {form}, and its files do not say which "
            f"checkpoint it belongs to{note}; pass the one it was trained from with "
            "--memscan-base MODEL"
        )
    return _Base(origin="", is_known=False)


def check_stopping_rule(config: Config) -> None:
    """So few images that memorised prompts would be missed are refused before any is made.

    Raises:
        OptionError: Names both options.
    """
    from pytest_memscan.sequential import StoppingRule

    try:
        StoppingRule(
            max_images=config.images_per_prompt,
            batch=config.batch_size("text-to-image"),
            copy_rate=config.copy_rate,
        )
    except ValueError:
        raise OptionError(
            f"--memscan-images-per-prompt {config.images_per_prompt}: so few images (or one batch "
            f"of {config.batch_size('text-to-image')}) would miss prompts that give one image at "
            f"a rate of {config.copy_rate:g} too often; raise it, or --memscan-copy-rate"
        ) from None


def _check_set(config: Config) -> None:
    """What a set says of each fine-tune cannot be said of all of them, nor of some only."""
    if not config.concepts:
        return
    for name in ("train_data", "prompts"):
        source = config.sources[name][1]
        if source != "default":
            raise OptionError(
                f"{source}: each fine-tune of {config.label} has its own; write {name} under its "
                "[[concept]] instead"
            )
    known = [each.has_train_data for each in config.of_concepts()]
    if any(known) and not all(known):
        raise OptionError(
            f"--memscan {config.label}: concept {known.index(False) + 1} has no training images, "
            "and others have, so that no limit would hold for all of them; write train_data there, "
            "or scan it on its own"
        )


def _check_scans(config: Config) -> None:
    """A scan asked for by name that cannot be done is never passed over."""
    for name in config.scans or ():
        if config.kind is not None and (
            reason := why_not(name, config.kind, situation=config.situation)
        ):
            raise OptionError(
                f"{config.sources['scans'][1]}: {name} cannot scan {config.label}: {reason}"
            )


def _shown(config: Config) -> dict[str, tuple[str, str]]:
    """Settings whose default depends on the checkpoint, or that hold paths, as reports show them.

    The folder of a person is nobody else's business; reports are shared.
    """
    shown = _shown_paths(config)
    lines = "; ".join(line.expression for line in config.thresholds)
    shown["fail"] = lines
    if config.budget is None and "finextract" in config.checks and config.has_base:
        shown["budget"] = "50 for each training image, of each method,"
    elif config.budget is None:
        shown["budget"] = {
            "unconditional": f"{DEFAULT_IMAGES}img",
            "text-to-image": "what the sequential rule needs",
            None: "by kind of checkpoint",
        }[config.kind]
    if config.given_batch_size is None:
        shown["batch_size"] = (
            "by kind of checkpoint" if config.kind is None else str(config.batch_size(config.kind))
        )
    if config.scans is None:
        shown["scans"] = "every one that applies"
    if config.guidance_scale is None:
        shown["guidance_scale"] = "the pipeline's own"
    if not config.model_guidance:
        shown["model_guidance"] = "the authors' for the kind of fine-tune"
    sources = {name: config.sources[name][1] for name in shown}
    return {name: (text, sources[name]) for name, text in shown.items()}


def _shown_paths(config: Config) -> dict[str, str]:
    """Settings that hold paths, as a report may show them."""
    shown = {
        "cache_dir": "(hidden)",
        "report": "; ".join(f"{kind}:{shown_path(path)}" for kind, path in config.reports),
    }
    if os.path.isabs(config.descriptor):
        shown["descriptor"] = shown_path(Path(config.descriptor))
    shown["base"] = "None"
    if config.base is not None:
        shown["base"] = f"{config.base_label} ({config.base_origin})"
    for name, source in (
        ("train_data", config.train_source),
        ("holdout", config.holdout_source),
        ("prompts", config.prompt_source),
        ("canaries", config.canary_source),
    ):
        shown[name] = "None" if source is None else source.label
    return shown


def json_report_path(
    options: Mapping[str, Any], *, ini: Mapping[str, Any], rootdir: Path, invocation_dir: Path
) -> Path:
    """Where the verdict file goes, even when other settings are wrong."""
    try:
        given = options.get("report")
        if given:
            raw = Given(value=given, source="--memscan-report", base=invocation_dir)
        else:
            raw = collect(options, ini=ini, rootdir=rootdir, invocation_dir=invocation_dir)[
                "report"
            ]
        return dict(parse_reports(raw, rootdir))["json"]
    except (OptionError, KeyError):
        return dict(default_reports(rootdir))["json"]


def _is_offline(environ: Mapping[str, str]) -> bool:
    names = ("MEMSCAN_OFFLINE", "HF_HUB_OFFLINE")
    return any(environ.get(name, "").lower() in ("1", "true", "yes", "on") for name in names)
