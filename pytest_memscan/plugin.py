"""Hooks and options. Nothing heavy is imported, and nothing happens without ``--memscan``."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_memscan.fixtures import (
    memscan,
    memscan_base,
    memscan_checkpoint,
    memscan_prompts,
    memscan_result,
    memscan_train_data,
)

__all__ = [
    "memscan",
    "memscan_base",
    "memscan_checkpoint",
    "memscan_prompts",
    "memscan_result",
    "memscan_train_data",
]

_OPTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    (
        "base",
        {
            "metavar": "MODEL",
            "help": "the checkpoint it was fine-tuned from, for memscan::finextract (default: "
            "what a LoRA's own files say)",
        },
    ),
    (
        "train-data",
        {
            "metavar": "PATH",
            "help": "training images: folder, parquet, Arrow or tar shards, .npz, hub:ORG/NAME, "
            "or index:FOLDER",
        },
    ),
    (
        "prompts",
        {
            "metavar": "PATH",
            "help": "prompts for a text-to-image checkpoint: txt, jsonl, csv, parquet, a folder "
            "with captions, hub:ORG/NAME or builtin:probe (default: captions of the training "
            "images, else the built-in probe list)",
        },
    ),
    (
        "canaries",
        {"metavar": "PATH", "help": "strings planted before fine-tuning, a list as for prompts"},
    ),
    ("holdout", {"metavar": "PATH", "help": "the same of real images that were not trained on"}),
    ("scans", {"metavar": "A,B", "help": "scans to run (default: every one the inputs allow)"}),
    (
        "descriptor",
        {
            "metavar": "NAME",
            "help": "compare by pixels (default), sscd, sscd-crop224, sscd-large, "
            "sscd-large-crop224, builtin:copy, or an image encoder (Hub id or folder)",
        },
    ),
    (
        "fail",
        {
            "metavar": "THRESHOLD",
            "action": "append",
            "help": 'policy line such as "ums_high <= 0.001"; repeatable, replaces the default',
        },
    ),
    (
        "budget",
        {
            "metavar": "N",
            "help": "5000img, or time such as 30m (default: 320img; with prompts, what the "
            "sequential rule needs)",
        },
    ),
    (
        "images-per-prompt",
        {"metavar": "N", "help": "of the fixed protocol, which the rule cuts short (default: 500)"},
    ),
    (
        "copy-rate",
        {
            "metavar": "SHARE",
            "help": "find prompts that give one image at least this often (default: 0.1; training "
            "images of a fine-tune: 0.02)",
        },
    ),
    (
        "reach",
        {
            "metavar": "N",
            "help": "a training image whose first copy memscan::splitting expects within so many "
            "ordinary images counts (default: 1000000)",
        },
    ),
    (
        "side-variants",
        {
            "metavar": "A,B",
            "help": "of memscan::side: side_c, side_c_rest, side_o, side_a, ol_ti, random_labels "
            "(default: all that the inputs allow, but for the last); with prompts side_lora",
        },
    ),
    (
        "side-scales",
        {
            "metavar": "X,Y",
            "help": "lambdas of memscan::side (default: 1,2,3,5,6,7,8,9), or guidance scales of "
            "side_lora (default: 3)",
        },
    ),
    (
        "side-samples",
        {"metavar": "N", "help": "images that memscan::side labels and learns (default: 4096)"},
    ),
    (
        "side-clusters",
        {"metavar": "K", "help": "of SIDE-C, at most (default: 100, or a tenth of the samples)"},
    ),
    (
        "side-cohesion",
        {"metavar": "COSINE", "help": "clusters below it are dropped (default: by variant)"},
    ),
    (
        "side-training",
        {"metavar": "N", "help": "steps that a classifier or LoRA is trained for (default: 1500)"},
    ),
    ("side-rank", {"metavar": "N", "help": "of the LoRA of side_lora (default: 8)"}),
    (
        "auxiliary",
        {"metavar": "PATH", "help": "labelled images that were not trained on, for SIDE-A"},
    ),
    (
        "labeller",
        {"metavar": "MODEL", "help": "image classifier for SIDE-A: Hub id or folder"},
    ),
    ("guidance-scale", {"metavar": "X", "help": "of a text-to-image pipeline (default: its own)"}),
    (
        "model-guidance",
        {
            "metavar": "W[:K],...",
            "help": "scales w' and k of memscan::finextract (default: 3:-0.02, for a LoRA 5)",
        },
    ),
    (
        "clustering",
        {
            "metavar": "RULE",
            "help": "how memscan::finextract chooses its images: plateau (default), null or "
            "finextract_compat",
        },
    ),
    ("steps", {"metavar": "N", "help": "denoiser calls per image (default: 50)"}),
    ("seed", {"metavar": "N", "help": "seed of the first image (default: 0)"}),
    ("device", {"metavar": "NAME", "help": "auto, cpu, cuda or cuda:N (default: auto)"}),
    ("dtype", {"metavar": "NAME", "help": "float32, bfloat16 or float16 (default: float32)"}),
    (
        "batch-size",
        {"metavar": "N", "help": "images in every denoiser call (default: 32, with prompts 10)"},
    ),
    ("cache-dir", {"metavar": "DIR", "help": "where generated images are kept"}),
    (
        "report",
        {
            "metavar": "FMT[:PATH]",
            "action": "append",
            "help": "json, html, sarif, md or model-card; repeatable (default: json and html, in "
            ".memscan/)",
        },
    ),
    ("images", {"metavar": "MODE", "help": "none, blurred or clear in reports (default: blurred)"}),
    ("evidence", {"metavar": "DIR", "help": "private folder for clear images of what was found"}),
    (
        "baseline",
        {"metavar": "FILE", "help": "report of an earlier run: fail on a significant increase"},
    ),
    (
        "save-baseline",
        {"metavar": "FILE", "help": "where to save a run that passes, for later ones"},
    ),
    ("config", {"metavar": "FILE", "help": "policy file (default: memscan.toml, pyproject.toml)"}),
)
_FLAGS = (
    ("only", "run the gate alone and import no test module"),
    ("offline", "never use the network"),
    ("no-cache", "keep nothing after the run"),
    ("strict", "fail when the gate was deselected (default in CI)"),
    ("show-prompts", "let reports show the text of memorised prompts"),
    ("show-policy", "print the effective settings and where each was set, and stop"),
)
_INI = (
    ("fail", "linelist", "policy lines, as --memscan-fail"),
    ("report", "linelist", "reports, as --memscan-report"),
    ("cache_dir", "string", "where generated images are kept"),
    ("strict", "string", "true or false, as --memscan-strict"),
    ("junit_properties", "string", "true or false: metrics in JUnit files (default: true)"),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare ``--memscan...`` and ``memscan_...``."""
    group = parser.getgroup(
        "memscan", "memscan: does a diffusion checkpoint leak its training images?"
    )
    group.addoption(
        "--memscan",
        metavar="MODEL[@REV]",
        help="checkpoint to scan: folder, LoRA, .safetensors file, Hub id or builtin:NAME",
    )
    for name, settings in _OPTIONS:
        group.addoption(f"--memscan-{name}", default=None, **settings)
    for name, text in _FLAGS:
        group.addoption(f"--memscan-{name}", action="store_true", default=None, help=text)
    for name, kind, text in _INI:
        parser.addini(f"memscan_{name}", text, type=kind, default=None)  # type: ignore[arg-type]


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """With ``--memscan-show-policy``, print the effective settings and stop."""
    if config.option.memscan is None or not config.option.memscan_show_policy:
        return None
    from pytest_memscan.activation import show_policy

    return show_policy(config)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Register the marker; with ``--memscan``, check the options and add the gate."""
    config.addinivalue_line(
        "markers", "memscan: part of the memscan gate, or a test of a scan's results"
    )
    if config.option.memscan is None:
        stray = [name for name, _ in (*_OPTIONS, *_FLAGS) if getattr(config.option, _dest(name))]
        if stray:
            raise pytest.UsageError(
                f"--memscan-{stray[0]} has no effect without --memscan MODEL; name the checkpoint "
                "to scan, as in --memscan builtin:leaky"
            )
        return
    from pytest_memscan.activation import activate

    activate(config)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Refuse arguments of the marker, which takes none: nobody would ever read them."""
    for marker in metafunc.definition.iter_markers("memscan"):
        given = [*map(repr, marker.args), *(f"{k}={v!r}" for k, v in marker.kwargs.items())]
        if given:
            # Not a UsageError: in an xdist worker that is an internal error.
            pytest.fail(
                f"{metafunc.definition.nodeid}: @pytest.mark.memscan takes no arguments, got "
                f"{', '.join(given)}; settings are options such as --memscan-budget",
                pytrace=False,
            )


def _dest(name: str) -> str:
    return "memscan_" + name.replace("-", "_")
