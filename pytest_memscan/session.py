"""One run, from checkpoint to check outcomes: resolve, vet, plan, generate, judge.

The same object serves the collected items and the fixtures. Under xdist every worker has its
own; a lock and a shared result file make sure that only one of them scans.
"""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pytest_memscan.checkpoints.verify import verify
from pytest_memscan.config import Config
from pytest_memscan.errors import MemscanError, OptionError
from pytest_memscan.gate import judge_duplicates, judge_integrity, judge_scan, judge_status
from pytest_memscan.inputs import Inputs, ProgressDisplay
from pytest_memscan.policy import check_can_be_shown
from pytest_memscan.results import CheckOutcome, Duplicates, ScanResult, Verdict

if TYPE_CHECKING:
    from pytest_memscan.generation import Pipeline, ProgressCallback
    from pytest_memscan.reports.html import Group, Pair
    from pytest_memscan.sampler import Sampler
    from pytest_memscan.store import ImageStore

T = TypeVar("T")
SECONDS_LEFT_BEHIND = 2 * 24 * 3600
CHECKS = ("integrity", "duplicates", "carlini", "status")


def _silent(_: str) -> AbstractContextManager[ProgressCallback]:
    return nullcontext(lambda _: None)


@dataclass(kw_only=True)
class Session:
    """Runs each check at most once and remembers how it ended.

    Attributes:
        config: What the user asked for.
        session_id: Shared by the controller and the workers of one pytest run.
        progress: Shows generation; given a title, returns a context with a callback.
        crashes: Errors of ours rather than the user's, by check.
    """

    config: Config
    session_id: str
    progress: ProgressDisplay = _silent
    crashes: dict[str, Exception] = field(default_factory=dict)
    _outcomes: dict[str, CheckOutcome] = field(default_factory=dict)
    _pipelines: dict[str, Pipeline] = field(default_factory=dict)

    @property
    def work_dir(self) -> Path:
        """Shared by the processes of this run only; removed when it ends."""
        return self.config.cache_dir / "sessions" / self.session_id

    @property
    def cache_dir(self) -> Path:
        """Where generated images and converted training images are kept."""
        return self.config.cache_dir if self.config.use_cache else self.work_dir / "cache"

    def check(self, name: str) -> CheckOutcome:
        """How one check ended; errors become outcomes, so that every item says its own."""
        if name not in self._outcomes:
            try:
                with _third_party_warnings_kept_out():
                    self._outcomes[name] = self._run(name)
            except MemscanError as error:
                self._outcomes[name] = _error(name, str(error))
            except Exception as error:  # shown with its traceback by the item
                self.crashes[name] = error
                self._outcomes[name] = _error(
                    name, f"unexpected {type(error).__name__}; please report it with its traceback"
                )
        return self._outcomes[name]

    def _run(self, name: str) -> CheckOutcome:
        if name == "integrity":
            self.inputs.pipeline(self.config.dtype)
            return judge_integrity(verify(self.inputs.checkpoint.folder))
        if name == "duplicates":
            return judge_duplicates(self.duplicates, self.config.thresholds)
        if name == "carlini":
            return judge_scan(self.carlini, self.config.thresholds)
        return judge_status([self.check(other) for other in CHECKS if other != "status"])

    @cached_property
    def inputs(self) -> Inputs:
        """Checkpoint, training images, and what they are compared by."""
        return Inputs(config=self.config, cache_dir=self.cache_dir, progress=self.progress)

    @cached_property
    def carlini(self) -> ScanResult:
        """The scan, computed once in this run whatever the number of processes.

        Raises:
            MemscanError: It could not be done.
        """
        return self._once("carlini", ScanResult, self._scan)

    @cached_property
    def duplicates(self) -> Duplicates:
        """What is more than once among the training images, also computed once.

        Raises:
            MemscanError: The training images cannot be read or compared.
        """
        return self._once("duplicates", Duplicates, self._find_duplicates)

    def _once(self, name: str, kind: type[T], compute: Callable[[], T]) -> T:
        """What the first process of this run computed, under the lock of the scan."""
        from pytest_memscan.reports.json import dump, load, write_text_atomically
        from pytest_memscan.store import exclusive

        shared = self.work_dir / f"{name}.json"
        with exclusive(self._store_dir, session=self.session_id):
            if shared.exists():
                return load(shared.read_text(encoding="utf-8"), kind)
            result = compute()
            write_text_atomically(shared, dump(result))
        return result

    def pairs(self) -> list[Pair]:
        """Generated and training image of each finding, as kept by the process that scanned."""
        from pytest_memscan.reports.pairs import load_pairs

        return load_pairs(self.work_dir / "pairs")

    def groups(self) -> list[Group]:
        """The first images of the largest groups of duplicates, kept likewise."""
        from pytest_memscan.reports.pairs import load_groups

        return load_groups(self.work_dir / "groups")

    def close(self) -> None:
        """Remove what only this run needed, and what killed runs left behind days ago."""
        shutil.rmtree(self.work_dir, ignore_errors=True)
        for left_behind in self.work_dir.parent.glob("*"):
            with suppress(OSError):
                if time.time() - left_behind.stat().st_mtime > SECONDS_LEFT_BEHIND:
                    shutil.rmtree(left_behind, ignore_errors=True)

    def _scan(self) -> ScanResult:
        from pytest_memscan.reports.pairs import save_pairs
        from pytest_memscan.scans.carlini import carlini
        from pytest_memscan.store import ImageStore

        inputs = self.inputs
        reference, holdout, coverage = inputs.reference, inputs.holdout, inputs.coverage()
        store = ImageStore(self._store_dir, spec=self._generation_spec)
        try:
            with self.progress("carlini: generating") as report:
                sampler = self._sampler(store, report)
                result = carlini(
                    sampler,
                    reference,
                    holdout=None if holdout is None else holdout.pixels,
                    coverage=coverage,
                    provenance=self._provenance(),
                )
            inputs.require_unchanged()
            pairs = self.work_dir / "pairs"
            save_pairs(pairs, result.findings, sampler.pixels_of, inputs.train_pixels)
        finally:
            store.close()
        return result

    def _find_duplicates(self) -> Duplicates:
        from pytest_memscan.reports.pairs import save_groups
        from pytest_memscan.scans.duplicates import find_duplicates

        pixels = self.inputs.train_pixels
        found = find_duplicates(
            self.inputs.reference, self.inputs.index.descriptors if pixels is None else pixels
        )
        save_groups(self.work_dir / "groups", found, pixels)
        return found

    def _sampler(self, store: ImageStore, report: ProgressCallback) -> Sampler:
        from pytest_memscan.sampler import Sampler

        return Sampler(
            load_pipeline=self.inputs.pipeline,
            store=store,
            num_images=self._planned_images(store),
            seed=self.config.seed,
            batch_size=self.config.batch_size,
            steps=self.config.steps,
            dtype=self.config.dtype,
            progress=report,
        )

    def _planned_images(self, store: ImageStore) -> int:
        """Images to generate; a time budget is turned into a number once and remembered."""
        budget = self.config.budget
        if budget.num_images is not None:
            return budget.num_images
        seconds = budget.seconds or 0.0
        note = f"images in {seconds:g} s"
        kept = store.note(note)
        if kept is None:
            from pytest_memscan.generation import images_per_second

            rate = images_per_second(
                self.inputs.pipeline(self.config.dtype),
                batch_size=self.config.batch_size,
                steps=self.config.steps,
                plan_seed=self.config.seed,
            )
            kept = str(min(2**32, max(1, int(rate * seconds))))
            store.set_note(note, kept)
        for threshold in self.config.thresholds:
            check_can_be_shown(threshold, num_images=int(kept))
        return int(kept)

    @cached_property
    def _store_dir(self) -> Path:
        from pytest_memscan.store import canonical_hash

        return self.cache_dir / "generated" / canonical_hash(self._generation_spec)

    @cached_property
    def _generation_spec(self) -> dict[str, object]:
        """All that an image depends on besides its plan row: another spec, another folder."""
        import torch

        pipeline = self.inputs.pipeline(self.config.dtype)
        num_timesteps = pipeline.scheduler.config.num_train_timesteps
        if self.config.steps > num_timesteps:
            raise OptionError(
                f"--memscan-steps {self.config.steps}: the checkpoint was trained with "
                f"{num_timesteps} timesteps; ask for at most that many"
            )
        device = self.inputs.device
        return {
            "files": verify(self.inputs.checkpoint.folder).files,
            "pipeline": type(pipeline).__name__,
            "scheduler": type(pipeline.scheduler).__name__,
            "steps": self.config.steps,
            "eta": 0.0,
            "seed": self.config.seed,
            "batch size": self.config.batch_size,
            "dtype": self.config.dtype,
            "device": torch.cuda.get_device_name(self.inputs.device)
            if device == "cuda"
            else device,
            "torch": version("torch"),
            "diffusers": version("diffusers"),
        }

    def _provenance(self) -> dict[str, str]:
        spec = {name: str(value) for name, value in self._generation_spec.items()}
        del spec["files"]
        return {
            "checkpoint": self.inputs.checkpoint.label,
            "checkpoint commit": self.inputs.checkpoint.commit or "local files",
            **self.inputs.fingerprints,
            "image size": str(self.inputs.shape),
            **spec,
            "pytest-memscan": version("pytest-memscan"),
        }


def _error(name: str, sentence: str) -> CheckOutcome:
    return CheckOutcome(name=name, verdict=Verdict.ERROR, sentence=sentence)


@contextmanager
def _third_party_warnings_kept_out() -> Iterator[None]:
    """Under ``-W error`` somebody else's deprecation must not end a scan."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
