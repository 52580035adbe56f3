"""What a run measures, each thing once: generated, compared and kept by the first that asks.

Under xdist every worker has its own object; a lock and a shared result file make sure that only
one of them scans.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pytest_memscan.config import Config
from pytest_memscan.errors import MemscanError
from pytest_memscan.generating import Recipe
from pytest_memscan.inputs import Inputs, ProgressDisplay
from pytest_memscan.policy import check_can_be_shown
from pytest_memscan.results import (
    Duplicates,
    FinetuneScan,
    PromptResults,
    Repeats,
    ScanResult,
    SideScan,
    SplittingScan,
)
from pytest_memscan.settings import DEFAULT_IMAGES, PIXELS, Budget

if TYPE_CHECKING:
    from pytest_memscan.finetune_scanning import FinetuneScanner
    from pytest_memscan.generation import ProgressCallback
    from pytest_memscan.prompt_inputs import PromptInputs
    from pytest_memscan.prompt_scanning import PromptScanner
    from pytest_memscan.sampler import Sampler
    from pytest_memscan.side_scanning import SideScanner
    from pytest_memscan.splitting_scanning import SplittingScanner
    from pytest_memscan.store import ImageStore

T = TypeVar("T")


def _silent(_: str) -> AbstractContextManager[ProgressCallback]:
    return nullcontext(lambda _: None)


@dataclass(kw_only=True)
class Measurements:
    """Every scan of a run, done when it is first asked for.

    Attributes:
        config: What the user asked for.
        session_id: Shared by the controller and the workers of one pytest run.
        progress: Shows generation; given a title, returns a context with a callback.
    """

    config: Config
    session_id: str
    progress: ProgressDisplay = _silent
    _failures: dict[str, MemscanError] = field(default_factory=dict)

    @property
    def work_dir(self) -> Path:
        """Shared by the processes of this run only; removed when it ends."""
        return self.config.cache_dir / "sessions" / self.session_id

    @property
    def cache_dir(self) -> Path:
        """Where generated images and converted training images are kept."""
        return self.config.cache_dir if self.config.use_cache else self.work_dir / "cache"

    @cached_property
    def inputs(self) -> Inputs:
        """Checkpoint, training images, and what they are compared by."""
        return Inputs(config=self.config, cache_dir=self.cache_dir, progress=self.progress)

    @cached_property
    def prompt_inputs(self) -> PromptInputs:
        """Prompts of a text-to-image checkpoint, planted strings and negatives."""
        from pytest_memscan.prompt_inputs import PromptInputs

        return PromptInputs(inputs=self.inputs)

    @cached_property
    def carlini(self) -> ScanResult:
        """The scan, computed once in this run whatever the number of processes.

        Raises:
            MemscanError: It could not be done.
        """
        return self._once("carlini", ScanResult, self._scan)

    @cached_property
    def splitting(self) -> SplittingScan:
        """Rare copies and their price, likewise.

        Raises:
            MemscanError: It could not be done.
        """
        return self._once("splitting", SplittingScan, self._split)

    @cached_property
    def side(self) -> SideScan:
        """What surrogate conditions bring out, likewise.

        Raises:
            MemscanError: It could not be done.
        """
        return self._once("side", SideScan, self._condition)

    @cached_property
    def repeats(self) -> Repeats:
        """What comes up again and again among generated images, likewise.

        Raises:
            MemscanError: It could not be done.
        """
        return self._once("repeats", Repeats, self._find_repeats)

    @cached_property
    def prompt_results(self) -> PromptResults:
        """Every scan of a text-to-image checkpoint, likewise.

        Raises:
            MemscanError: It could not be done.
        """
        return self._once("prompts", PromptResults, self._scan_prompts)

    @cached_property
    def finetunes(self) -> FinetuneScan:
        """What comes out of a fine-tune, given its base, likewise.

        Raises:
            MemscanError: It could not be done.
        """
        return self._once("finetunes", FinetuneScan, self._scan_finetunes)

    @cached_property
    def duplicates(self) -> Duplicates:
        """What is more than once among the training images, also computed once.

        Raises:
            MemscanError: The training images cannot be read or compared.
        """
        return self._once("duplicates", Duplicates, self._find_duplicates)

    def _once(self, name: str, kind: type[T], compute: Callable[[], T]) -> T:
        """What the first process of this run computed, under the lock of the scan.

        What could not be done is not tried again for the next check that needs it.
        """
        from pytest_memscan.reports.json import dump, load, write_text_atomically
        from pytest_memscan.store import exclusive

        if name in self._failures:
            raise self._failures[name]
        shared = self.work_dir / f"{name}.json"
        try:
            with exclusive(self._locked(name), session=self.session_id):
                if shared.exists():
                    return load(shared.read_text(encoding="utf-8"), kind)
                result = compute()
                self._keep_names(name)
                write_text_atomically(shared, dump(result))
        except MemscanError as error:
            self._failures[name] = error
            raise
        return result

    def _keep_names(self, name: str) -> None:
        """What people call what reports number, only where somebody asks for that."""
        from pytest_memscan.evidence.names import save_texts, save_train_names

        outputs = self.config.outputs
        if outputs.evidence is not None:
            for place, inputs in enumerate(self._of_concepts):
                if inputs.config.has_train_data and not inputs.train_is_index:
                    save_train_names(self.work_dir, inputs.train_data.names, concept=place)
        has_prompts = name in ("prompts", "splitting") and self.inputs.kind == "text-to-image"
        if has_prompts and (outputs.evidence is not None or outputs.show_prompts):
            texts = self.prompt_inputs.texts
            save_texts(self.work_dir, texts.prompts, texts.canaries)

    def _locked(self, name: str) -> Path:
        """The folder that only one run may use for this."""
        if name == "finetunes":
            return self._finetune_scanners[0].folder
        if name == "duplicates" and self.inputs.situation.has_base:
            return self.work_dir / name  # nothing is generated for it
        if name == "splitting":
            return self._splitting_scanner.recipe.store_dir
        if name == "side":
            return self._side_scanner.recipe.store_dir
        return self._recipe.store_dir

    def _scan(self) -> ScanResult:
        from pytest_memscan.reports.pairs import save_pairs
        from pytest_memscan.scans.carlini import carlini

        inputs = self.inputs
        reference, holdout, coverage = inputs.reference, inputs.holdout, inputs.coverage()
        with self._sampler("carlini: generating") as sampler:
            result = carlini(
                sampler,
                reference,
                holdout=None if holdout is None else holdout.pixels,
                coverage=coverage,
                provenance=self._recipe.provenance(),
            )
            inputs.require_unchanged()
            pairs = self.work_dir / "pairs"
            save_pairs(pairs, result.findings, sampler.pixels_of, inputs.train_pixels)
        return result

    def _split(self) -> SplittingScan:
        with self.progress("splitting") as report:
            return self._splitting_scanner.scan(self.work_dir / "splitting", report)

    def _condition(self) -> SideScan:
        with self.progress("side") as report:
            return self._side_scanner.scan(self.work_dir / "side", report)

    def _find_repeats(self) -> Repeats:
        from pytest_memscan.reports.pairs import save_repeats
        from pytest_memscan.scans.repeats import repeats

        by_pixels = self.config.descriptor == PIXELS
        with self._sampler("repeats: generating") as sampler:
            found = repeats(
                sampler,
                descriptor=None if by_pixels else self.inputs.descriptor,
                provenance=self._recipe.provenance(),
            )
            save_repeats(self.work_dir / "repeats", found, sampler.pixels_of)
        return found

    def _scan_prompts(self) -> PromptResults:
        from pytest_memscan.reports.pairs import save_keys, save_prompts

        scanner, train = self._prompt_scanner, None
        if self.config.has_train_data:
            train = self.inputs.train_pixels
        store = self._open_store()
        try:
            with self.progress("text-to-image") as report:
                judged = scanner.scan(store, report)
                result = PromptResults(
                    screening=judged.screening, prompts=judged.prompts, keys=judged.keys
                )
            if train is not None:
                self.inputs.require_unchanged()
            save_prompts(
                self.work_dir / "prompts", result.prompts.findings, judged.images_of, train
            )
            save_keys(self.work_dir / "keys", result.keys.findings, judged.mean_image_of, train)
        finally:
            store.close()
        return result

    @cached_property
    def _finetune_scanners(self) -> list[FinetuneScanner]:
        """One for each fine-tune."""
        from pytest_memscan.finetune_scanning import FinetuneScanner

        return [
            FinetuneScanner(inputs=inputs, cache_dir=self.cache_dir) for inputs in self._of_concepts
        ]

    @cached_property
    def _of_concepts(self) -> list[Inputs]:
        """The fine-tunes of a set, or the checkpoint alone."""
        if not self.config.concepts:
            return [self.inputs]
        return [
            Inputs(config=config, cache_dir=self.cache_dir, progress=self.progress)
            for config in self.config.of_concepts()
        ]

    def _scan_finetunes(self) -> FinetuneScan:
        from pytest_memscan.finetune_scanning import scan_finetunes

        with self.progress("finextract: generating") as report:
            return scan_finetunes(
                self._finetune_scanners,
                self.work_dir / "finetunes",
                label=self.config.label,
                session_id=self.session_id,
                report=report,
            )

    def _find_duplicates(self) -> Duplicates:
        from pytest_memscan.reports.pairs import save_groups
        from pytest_memscan.scans.duplicates import find_duplicates

        pixels = self.inputs.train_pixels
        found = find_duplicates(
            self.inputs.reference, self.inputs.index.descriptors if pixels is None else pixels
        )
        save_groups(self.work_dir / "groups", found, pixels)
        return found

    @contextmanager
    def _sampler(self, title: str) -> Iterator[Sampler]:
        """Draws as many images as the budget allows."""
        store = self._open_store()
        try:
            with self.progress(title) as report:
                budget = self.config.budget or Budget(num_images=DEFAULT_IMAGES)
                num_images = self._recipe.images_of(budget, store)
                for threshold in self.config.thresholds:
                    check_can_be_shown(threshold, num_images=num_images)
                yield self._recipe.sampler(store, num_images=num_images, report=report)
        finally:
            store.close()

    def _open_store(self) -> ImageStore:
        from pytest_memscan.store import ImageStore

        return ImageStore(self._recipe.store_dir, spec=self._recipe.spec)

    @cached_property
    def _prompt_scanner(self) -> PromptScanner:
        from pytest_memscan.prompt_scanning import PromptScanner

        base = Recipe(inputs=self.inputs, cache_dir=self.cache_dir)
        return PromptScanner(inputs=self.inputs, texts_in=self.prompt_inputs, base=base)

    @cached_property
    def _splitting_scanner(self) -> SplittingScanner:
        from pytest_memscan.splitting_scanning import SplittingScanner

        return SplittingScanner(inputs=self.inputs, cache_dir=self.cache_dir)

    @cached_property
    def _side_scanner(self) -> SideScanner:
        from pytest_memscan.side_scanning import SideScanner

        return SideScanner(inputs=self.inputs, cache_dir=self.cache_dir)

    @cached_property
    def _recipe(self) -> Recipe:
        if self.inputs.kind == "text-to-image":
            return self._prompt_scanner.recipe
        return Recipe(inputs=self.inputs, cache_dir=self.cache_dir)
