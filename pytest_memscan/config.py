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
from pytest_memscan.checks import check_measured, checks_of, subjects_of, why_not
from pytest_memscan.config_sources import collect
from pytest_memscan.data.prompts import PromptSource
from pytest_memscan.data.sources import DataSource
from pytest_memscan.errors import OptionError, shown_path
from pytest_memscan.policy import Threshold, check_can_be_shown, whole_policy
from pytest_memscan.settings import (
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
    parse_boolean,
    parse_budget,
    parse_descriptor,
    parse_device,
    parse_guidance_scale,
    parse_integer,
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
    train_source: DataSource | None
    holdout_source: DataSource | None
    prompt_source: PromptSource | None
    canary_source: PromptSource | None
    thresholds: tuple[Threshold, ...]
    budget: Budget | None  # None for what the kind of checkpoint needs
    images_per_prompt: int  # of the fixed protocol
    copy_rate: float  # a prompt that gives one image this often must be found
    guidance_scale: float | None  # None for the pipeline's own
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
        return self.train_source is not None or has_builtin_train_data(self.model)

    @property
    def checks(self) -> tuple[str, ...]:
        """The checks of this run, as far as can be told before the checkpoint is fetched."""
        return checks_of(self.kind, has_train_data=self.has_train_data, scans=self.scans)

    def batch_size(self, kind: Kind) -> int:
        """Images in every denoiser call."""
        return self.given_batch_size or DEFAULT_BATCH_SIZE[kind]

    @property
    def label(self) -> str:
        """The checkpoint as people name it, without a private path."""
        return checkpoint_label(self.model)


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
    config = Config(
        model=options["model"],
        kind=known_kind(options["model"]),
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
        steps=take("steps", parse_integer(1, 1000), 50),
        seed=take("seed", parse_integer(0, 2**32 - 1), 0),
        device=take("device", parse_device, "auto"),
        dtype=take("dtype", parse_one_of(DTYPES), "float32"),
        given_batch_size=take("batch_size", parse_integer(1, 4096), None),
        scans=take("scans", parse_scans, None),
        descriptor=take("descriptor", parse_descriptor, PIXELS),
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
        config, thresholds=whole_policy(config.thresholds, subjects_of(config.kind, config.checks))
    )
    _check_scans(config)
    if config.kind != "unconditional":
        check_stopping_rule(config)
    check_measured(
        config.thresholds, config.kind, has_train_data=config.has_train_data, scans=config.scans
    )
    sources |= _shown(config)
    budget = config.budget or Budget(num_images=DEFAULT_IMAGES)
    if config.kind == "unconditional" and budget.num_images is not None:
        for threshold in config.thresholds:
            check_can_be_shown(threshold, num_images=budget.num_images)
    return config


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


def _check_scans(config: Config) -> None:
    """A scan asked for by name that cannot be done is never passed over."""
    for name in config.scans or ():
        if config.kind is not None and (
            reason := why_not(name, config.kind, has_train_data=config.has_train_data)
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
    if config.budget is None:
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
