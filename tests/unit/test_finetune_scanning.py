"""How a fine-tune is asked: which ways, which rows in which order, how many, and when to stop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from unit.conftest import Resolve

from pytest_memscan.checkpoints.finetunes import Finetune
from pytest_memscan.errors import OptionError
from pytest_memscan.finetune_methods import without_adapters
from pytest_memscan.finetune_scanning import FinetuneScanner
from pytest_memscan.inputs import Inputs
from pytest_memscan.scans.finetune_plan import RATE, Target

LORA, FULL, BASE = (
    "builtin:leaky-t2i-lora",
    "builtin:leaky-t2i-full",
    "builtin:clean-t2i",
)
Scan = Callable[..., Target]


@pytest.fixture(scope="module")
def loaded() -> dict[str, Finetune]:
    """Models are loaded once for all tests, as they are for all methods of a scan."""
    return {}


@pytest.fixture
def scanner(
    resolve: Resolve, tmp_path: Path, loaded: dict[str, Finetune]
) -> Callable[..., FinetuneScanner]:
    """The scanner of a run with these options; nothing is generated."""

    def make(model: str = LORA, **options: Any) -> FinetuneScanner:
        config = resolve(model=model, base=BASE, steps="4", **options)
        progress: Any = lambda _: nullcontext(lambda _: None)  # noqa: E731
        inputs = Inputs(config=config, cache_dir=tmp_path, progress=progress)
        if model not in loaded:
            loaded[model] = inputs.finetune("float32")
        inputs._finetunes["float32"] = loaded[model]
        return FinetuneScanner(inputs=inputs, cache_dir=tmp_path)

    return make


@pytest.fixture
def target(scanner: Callable[..., FinetuneScanner]) -> Any:
    """The target of a run with these options; its stores are closed at the end."""
    with ExitStack() as stores:
        yield lambda *model, **options: scanner(*model, **options).target(lambda _: None, stores)


def ways(target: Target) -> list[tuple[str, str, int]]:
    methods = (*target.baselines, *target.guided, target.base)
    return [(each.name, each.settings, each.calls_per_image) for each in methods]


@pytest.mark.parametrize(("model", "authors"), [(LORA, "w' 5"), (FULL, "w' 3, k -0.02")])
def test_every_kind_has_the_values_of_the_authors(target: Scan, model: str, authors: str) -> None:
    found = target(model)
    assert ways(found) == [
        ("direct", "no guidance", 4),
        ("cfg", "guidance scale 3", 8),
        ("finextract", authors, 8),
        ("base", "the base alone", 4),
    ]
    stores = {each.sampler.store.folder for each in (*found.baselines, *found.guided, found.base)}
    assert len(stores) == 4
    assert len({folder.parent for folder in stores}) == 1
    for each in (*found.baselines, *found.guided, found.base):
        pipeline: Any = each.sampler.load_pipeline("float32")
        assert type(pipeline.scheduler).__name__ == "DDIMScheduler"


def test_without_a_caption_there_is_no_cfg_and_no_k(target: Scan) -> None:
    found = target(FULL, prompts="builtin:none")
    assert [way[:2] for way in ways(found)] == [
        ("direct", "no guidance"),
        ("finextract", "w 3"),
        ("base", "the base alone"),
    ]


def test_settings_that_are_given_are_all_tried(target: Scan) -> None:
    found = target(model_guidance="1.5,2:-0.1")
    assert [each.settings for each in found.guided] == ["w' 1.5", "w' 2, k -0.1"]


def test_rows_of_every_caption_come_in_turn_in_whole_batches(target: Scan, tmp_path: Path) -> None:
    captions = tmp_path / "captions.txt"
    captions.write_text("one\ntwo\nthree\n")
    order = target(prompts=str(captions), batch_size="4", budget="60img").order
    assert len(order) == len(set(order)) == 60
    rows = 2**16
    for stop in (12, 24, 60):
        assert set(Counter(row // rows for row in order[:stop]).values()) == {stop // 3}
    for start in range(0, 60, 4):
        assert order[start] % 4 == 0
        assert list(order[start : start + 4]) == list(range(order[start], order[start] + 4))
    # A larger budget begins with the same images.
    more = target(prompts=str(captions), batch_size="4", budget="100img").order
    assert list(more[:60]) == list(order)


def test_there_are_fifty_images_for_each_training_image_unless_a_budget_says_else(
    target: Scan,
) -> None:
    assert target().stopping.planned == 500
    assert target(batch_size="8").stopping.planned == 504
    assert target(budget="33img").stopping.planned == 33
    with pytest.raises(OptionError, match="9 images of each method are too few; at least 10"):
        target(budget="9img")


@pytest.mark.parametrize(
    ("options", "limit", "rate"),
    [
        ({}, 0, RATE),
        ({"fail": ["copied_images <= 3"]}, 3, RATE),
        ({"fail": ["copied_images < 3"]}, 2, RATE),
        ({"copy_rate": "0.1"}, 0, 0.1),
        ({"budget": "40img"}, None, RATE),  # what was asked for is made
        ({"fail": ["esr_strict <= 0.5"]}, None, RATE),  # a rate gets no surer by stopping
        ({"fail": ["copied_images <= 3", "esr_strict <= 0.5"]}, None, RATE),
    ],
)
def test_only_a_limit_on_a_count_may_stop_a_scan_early(
    target: Scan, options: dict[str, Any], limit: int | None, rate: float
) -> None:
    stopping = target(**options).stopping
    assert (stopping.limit, stopping.rate) == (limit, rate)


def test_a_lora_switched_off_is_its_base_text_encoder_and_all(
    scanner: Callable[..., FinetuneScanner],
) -> None:
    lora = scanner(LORA)
    plain: Any = replace(lora.inputs.config, model=BASE, base=None)
    base = Inputs(config=plain, cache_dir=lora.cache_dir, progress=lora.inputs.progress)
    tuned, other = lora.finetune.pipeline, base.pipeline("float32")

    def answers(pipeline: Any) -> list[torch.Tensor]:
        with torch.no_grad():
            text = torch.arange(24)[None] % 50
            hidden = pipeline.text_encoder(text)[0]
            latents = torch.ones(1, 4, 8, 8)
            return [hidden, pipeline.unet(latents, 7, encoder_hidden_states=hidden).sample]

    with without_adapters(tuned):
        for one, same in zip(answers(tuned), answers(other), strict=True):
            assert torch.equal(one, same)
    for one, same in zip(answers(tuned), answers(other), strict=True):
        assert not torch.equal(one, same)
