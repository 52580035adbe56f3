"""Settings as reports show them: without private paths, and with what a default came to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_memscan.errors import shown_path
from pytest_memscan.settings import DEFAULT_IMAGES

if TYPE_CHECKING:
    from pytest_memscan.config import Config


def shown_settings(config: Config) -> dict[str, tuple[str, str]]:
    """Settings whose default depends on the checkpoint, or that hold paths, as reports show them.

    The folder of a person is nobody else's business; reports are shared.
    """
    shown = _shown_paths(config)
    lines = "; ".join(line.expression for line in config.thresholds)
    shown["fail"] = lines
    if config.budget is None and "finextract" in config.checks and config.has_base:
        shown["budget"] = "50 for each training image, of each method,"
    elif config.budget is None and config.kind == "text-to-image" and _only_steers(config):
        shown["budget"] = f"{DEFAULT_IMAGES}img a prompt"
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
    if "splitting" in config.checks:
        shown["reach"] = f"{config.reach:,} images"
    if config.side.labeller is not None:
        shown["labeller"] = config.labeller_label
    if not config.side.variants:
        shown["side_variants"] = "every one that the inputs allow"
    if config.side.num_clusters is None:
        shown["side_clusters"] = "by variant"
    if config.side.least_cohesion is None:
        shown["side_cohesion"] = "by variant"
    shown["side_scales"] = ", ".join(f"{scale:g}" for scale in config.side.scales)
    if config.guidance_scale is None:
        shown["guidance_scale"] = "the pipeline's own"
    if not config.model_guidance:
        shown["model_guidance"] = "the authors' for the kind of fine-tune"
    sources = {name: config.sources[name][1] for name in shown}
    return {name: (text, sources[name]) for name, text in shown.items()}


def _only_steers(config: Config) -> bool:
    return "splitting" in config.checks and not {"carlini", "extended_side"} & set(config.checks)


def _shown_paths(config: Config) -> dict[str, str]:
    """Settings that hold paths, as a report may show them."""
    shown = {
        "cache_dir": "(hidden)",
        "report": "; ".join(f"{kind}:{shown_path(path)}" for kind, path in config.outputs.reports),
    }
    if os.path.isabs(config.descriptor):
        shown["descriptor"] = shown_path(Path(config.descriptor))
    shown["base"] = "None"
    if config.base is not None:
        shown["base"] = f"{config.base_label} ({config.base_origin})"
    for name, path in (
        ("baseline", config.baseline),
        ("evidence", config.outputs.evidence),
        ("save_baseline", config.outputs.save_baseline),
    ):
        shown[name] = "None" if path is None else shown_path(path)
    shown["suppress"] = "; ".join(each.id for each in config.waivers) or "None"
    for name, source in (
        ("train_data", config.train_source),
        ("holdout", config.holdout_source),
        ("prompts", config.prompt_source),
        ("canaries", config.canary_source),
        ("auxiliary", config.side.auxiliary),
    ):
        shown[name] = "None" if source is None else source.label
    return shown
