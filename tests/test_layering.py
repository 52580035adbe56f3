"""Which room may import which: arrows point down this list only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "pytest_memscan"
# Highest first. A module may import modules of its own room, and of rooms further down.
ROOMS = (
    "plugin",
    "fixtures",
    "fixture_results",
    "activation",
    "start_checks",
    "index",
    "github",
    "items",
    "controller",
    "publishing",
    "progress",
    "session",
    "measurements",
    "side_scanning",
    "side_variants",
    "side_lora",
    "splitting_scanning",
    "splitting_prompts",
    "finetune_scanning",
    "finetune_methods",
    "prompt_scanning",
    "caption_inputs",
    "prompt_inputs",
    "generating",
    "inputs",
    "models",
    "gate",
    "baselines",
    "regression",
    "comparability",
    "policy_files",
    "privacy",
    "config",
    "config_base",
    "config_checks",
    "config_shown",
    "config_sources",
    "concept_sets",
    "checks",
    "waivers",
    "output_settings",
    "side_settings",
    "settings",
    "policy",
    "scans",
    "sampler",
    "generation",
    "store",
    "surrogates",
    "guidance",
    "detectors",
    "splitting",
    "denoising",
    "checkpoints",
    "data",
    "similarity",
    "hub",
    "metrics",
    "sequential",
    "prompt_statistics",
    "paired",
    "tails",
    "clustering",
    "cliques",
    "extraction_metrics",
    "prices",
    "comparisons",
    "memorisation",
    "statistics",
    "rarefaction",
    "evidence",
    "reports",
    "results",
    "errors",
)
HEAVY = {"torch", "diffusers", "transformers", "huggingface_hub", "numpy", "scipy", "pydantic"}
PURE = (
    "metrics",
    "statistics",
    "rarefaction",
    "cliques",
    "clustering",
    "extraction_metrics",
    "prices",
    "sequential",
    "prompt_statistics",
    "tails",
    "results",
    "gate",
    "policy",
    "paired",
    "regression",
    "comparability",
)
FILES = sorted(path for path in PACKAGE.rglob("*.py") if "builtin" not in path.parts)


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path, *, only_at_import: bool = False) -> set[str]:
    """Modules named by import statements; lazily imported ones too unless told otherwise."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree))
    if only_at_import:
        nodes = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}


def is_type_checking_only(path: Path, module: str) -> bool:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guarded: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            guarded |= {each.module or "" for each in node.body if isinstance(each, ast.ImportFrom)}
    return module in guarded


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        assert not imports_of(path)
        return
    for module in imports_of(path):
        if module.startswith("pytest_memscan.") and not is_type_checking_only(path, module):
            other = module.split(".")[1]
            assert ROOMS.index(room) <= ROOMS.index(other), f"{room} imports {other}"


@pytest.mark.parametrize("room", ["plugin", "fixtures", "fixture_results", "errors", "__init__"])
def test_what_every_pytest_run_imports_is_light(room: str) -> None:
    roots = {
        module.partition(".")[0]
        for module in imports_of(PACKAGE / f"{room}.py", only_at_import=True)
    }
    assert not roots & HEAVY


@pytest.mark.parametrize("room", PURE)
def test_pure_rooms_know_no_files_devices_or_pytest(room: str) -> None:
    files = [path for path in FILES if room_of(path) == room]
    roots = {module.partition(".")[0] for path in files for module in imports_of(path)}
    assert files
    assert not roots & {"pytest", "torch", "os", "pathlib", "io", "tempfile", "shutil"}


@pytest.mark.parametrize(
    "room",
    [
        "checkpoints/resolve",
        "checkpoints/adapter_files",
        "checkpoints/adapter_names",
        "checkpoints/claims",
        "checkpoints/single_file",
        "checkpoints/pairing_configs",
        "checkpoints/integrity",
        "concept_sets",
        "checkpoints/verify",
        "checkpoints/hub",
        "hub/errors",
        "hub/snapshot",
        "data/listing",
        "data/prompts",
        "data/readers/hub_files",
        "data/readers/prompt_lists",
        "data/readers/hub",
        "data/readers/parquet",
        "data/readers/webdataset",
    ],
)
def test_fetching_and_vetting_know_no_torch(room: str) -> None:
    roots = {module.partition(".")[0] for module in imports_of(PACKAGE / f"{room}.py")}
    assert not roots & {"torch", "diffusers", "transformers"}


# Opens published SSCD weights, by command, after the sha256 of the very bytes was confirmed.
CONVERTER = "similarity/convert.py"


def test_no_module_unpickles() -> None:
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        calls = ["torch.load(", "pickle.load", "jit.load(", "dill.", "joblib.load", "eval("]
        if path.relative_to(PACKAGE).as_posix() == CONVERTER:
            calls = [call for call in calls if call not in ("torch.load(", "jit.load(")]
        for call in calls:
            assert call not in text.replace(".eval()", ""), f"{path.name} calls {call}"


def test_the_converter_unpickles_tensors_only_and_nothing_imports_it() -> None:
    tree = ast.parse((PACKAGE / CONVERTER).read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    opened = [call for call in calls if ast.unparse(call.func) == "torch.load"]
    assert len(opened) == 1
    assert "weights_only=True" in ast.unparse(opened[0])
    importers = [path for path in FILES if "pytest_memscan.similarity.convert" in imports_of(path)]
    assert importers == []
