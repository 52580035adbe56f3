"""What settings must not say together, found when pytest starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_memscan.checkpoints.resolve import known_form
from pytest_memscan.checks import why_not
from pytest_memscan.errors import OptionError
from pytest_memscan.side_settings import check_variants

if TYPE_CHECKING:
    from pytest_memscan.config import Config

_OF_PROMPTS = ("prompt_detectors", "carlini", "extended_side")
OF_SIDE = (
    "side_variants",
    "side_scales",
    "side_samples",
    "side_clusters",
    "side_cohesion",
    "side_training",
    "side_rank",
    "auxiliary",
    "labeller",
)
OF_ONE_SCAN = {"splitting": ("reach",), "side": OF_SIDE}  # settings that mean nothing without it
_USED_BY = {
    "reach": ("splitting",),
    **dict.fromkeys(OF_SIDE, ("side",)),
    "canaries": _OF_PROMPTS,
    "guidance_scale": (*_OF_PROMPTS, "splitting", "side"),
    "base": ("finextract",),
    "model_guidance": ("finextract",),
    "clustering": ("finextract",),
}
_NEEDS = {
    "finextract": "--memscan-base",
    "splitting": "training images, not an index of them",
    "side": "training images, and to be asked for",
}


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


def check_set(config: Config) -> None:
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
    concepts = config.of_concepts()
    for number, each in enumerate(concepts, start=1):
        if each.has_base is False:
            raise OptionError(
                f"--memscan {config.label}: concept {number} ({each.label}) names no base; write "
                'base = "MODEL" under it, or above all of them'
            )
        if any(each.model == other.model for other in concepts[: number - 1]):
            raise OptionError(
                f"--memscan {config.label}: concept {number} is {each.label} again; a fine-tune "
                "that counts twice makes intervals too narrow"
            )
    known = [each.has_train_data for each in concepts]
    if any(known) and not all(known):
        raise OptionError(
            f"--memscan {config.label}: concept {known.index(False) + 1} has no training images, "
            "and others have, so that no limit would hold for all of them; write train_data there, "
            "or scan it on its own"
        )


def check_scans(config: Config) -> None:
    """A scan asked for by name that cannot be done is never passed over."""
    for name in config.scans or ():
        if config.kind is not None and (
            reason := why_not(name, config.kind, situation=config.situation)
        ):
            raise OptionError(
                f"{config.sources['scans'][1]}: {name} cannot scan {config.label}: {reason}"
            )
    if config.kind is not None and "side" in config.checks:
        check_variants(config.side.variants, config.kind)


def check_clustering(config: Config) -> None:
    """The authors' rule stops at the number of training images, which has to be known."""
    is_authors = config.clustering == "finextract_compat" and "finextract" in config.checks
    if is_authors and not config.has_train_data:
        raise OptionError(
            f"{config.sources['clustering'][1]}: finextract_compat needs the number of training "
            "images; pass them with --memscan-train-data, or choose plateau or null"
        )


def check_used(config: Config) -> None:
    """What is asked for must not seem done when no check of the run does it.

    A policy file may serve several runs; planted strings in it are asked for in every one.
    """
    for name, users in _USED_BY.items():
        if config.kind == "unconditional" and users not in (("splitting",), ("side",)):
            continue
        option, source = f"--memscan-{name.replace('_', '-')}", config.sources[name][1]
        is_given = source == option or (name == "canaries" and source != "default")
        if name == "base" and known_form(config.model) != "pipeline":
            continue  # nothing of it can be loaded without one
        if is_given and not set(users) & set(config.checks):
            scan = users[0] if len(users) == 1 else "finextract"
            raise OptionError(
                f"{option} has no effect: it is for {' or '.join(users)}, and this run has only "
                f"{', '.join(config.checks)}; leave it out, or ask for those scans with "
                f"--memscan-scans (memscan::{scan} needs {_NEEDS[scan]})"
            )
