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
from typing import TYPE_CHECKING

from pytest_memscan.checkpoints.resolve import ResolvedCheckpoint, resolve
from pytest_memscan.checkpoints.verify import verify
from pytest_memscan.config import Config
from pytest_memscan.errors import MemscanError, OptionError, TrainDataError
from pytest_memscan.gate import judge_integrity, judge_scan, judge_status
from pytest_memscan.policy import check_can_be_shown
from pytest_memscan.results import CheckOutcome, Coverage, ScanResult, Verdict

if TYPE_CHECKING:
    from pytest_memscan.data.conversion import ImageShape
    from pytest_memscan.data.images import ImageSet
    from pytest_memscan.generation import Pipeline, ProgressCallback
    from pytest_memscan.reports.html import Pair
    from pytest_memscan.sampler import Sampler
    from pytest_memscan.store import ImageStore

SECONDS_LEFT_BEHIND = 2 * 24 * 3600
CHECKS = ("integrity", "carlini", "status")
ProgressDisplay = Callable[[str], AbstractContextManager["ProgressCallback"]]


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
            self._load(self.config.dtype)
            return judge_integrity(verify(self.checkpoint.folder))
        if name == "carlini":
            return judge_scan(self.carlini, self.config.thresholds)
        return judge_status([self.check(other) for other in CHECKS if other != "status"])

    @cached_property
    def checkpoint(self) -> ResolvedCheckpoint:
        """The checkpoint on disk, vetted.

        Raises:
            CheckpointError: It cannot be found, or must not be loaded.
        """
        checkpoint = resolve(self.config.model, offline=self.config.offline)
        verify(checkpoint.folder)
        return checkpoint

    @cached_property
    def device(self) -> str:
        """cpu, cuda or cuda:N."""
        from pytest_memscan.checkpoints.load import resolve_device

        return resolve_device(self.config.device)

    @cached_property
    def shape(self) -> ImageShape:
        """What the checkpoint makes."""
        from pytest_memscan.data.conversion import ImageShape

        unet = self._load(self.config.dtype).unet.config
        size = unet.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        if unet.in_channels not in (1, 3):
            raise TrainDataError(
                f"the checkpoint makes images of {unet.in_channels} channels; training images "
                "can be compared with 1 (grey) or 3 (RGB)"
            )
        return ImageShape(height=height, width=width, channels=unet.in_channels)

    @cached_property
    def train_data(self) -> ImageSet:
        """Training images at the checkpoint's size.

        Raises:
            TrainDataError: None given, or none usable.
        """
        path = self.config.train_data or self.checkpoint.train_data
        if path is None:
            raise TrainDataError(
                "no training images to compare with; pass --memscan-train-data DIR "
                "(PNG, JPEG or WebP, searched in subfolders)"
            )
        return self._images(path)

    @cached_property
    def holdout(self) -> ImageSet | None:
        """Held-out images, when given."""
        return None if self.config.holdout is None else self._images(self.config.holdout)

    @cached_property
    def carlini(self) -> ScanResult:
        """The scan, computed once in this run whatever the number of processes.

        Raises:
            MemscanError: It could not be done.
        """
        from pytest_memscan.reports.json import scan_from_json, scan_to_json, write_text_atomically
        from pytest_memscan.store import exclusive

        shared = self.work_dir / "carlini.json"
        with exclusive(self._store_dir, session=self.session_id):
            if shared.exists():
                return scan_from_json(shared.read_text(encoding="utf-8"))
            result = self._scan()
            write_text_atomically(shared, scan_to_json(result))
        return result

    def pairs(self) -> list[Pair]:
        """Generated and training image of each finding, as kept by the process that scanned."""
        from pytest_memscan.reports.pairs import load_pairs

        return load_pairs(self.work_dir / "pairs")

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
        from pytest_memscan.similarity.reference import prepare
        from pytest_memscan.store import ImageStore

        train, holdout = self.train_data, self.holdout
        store = ImageStore(self._store_dir, spec=self._generation_spec)
        try:
            with self.progress("carlini: generating") as report:
                sampler = self._sampler(store, report)
                result = carlini(
                    sampler,
                    prepare(train.pixels, device=self.device),
                    holdout=None if holdout is None else holdout.pixels,
                    coverage=self._train_coverage(train, holdout),
                    provenance=self._provenance(train, holdout),
                    device=self.device,
                )
            save_pairs(self.work_dir / "pairs", result.findings, sampler.pixels_of, train.pixels)
        finally:
            store.close()
        return result

    def _sampler(self, store: ImageStore, report: ProgressCallback) -> Sampler:
        from pytest_memscan.sampler import Sampler

        return Sampler(
            load_pipeline=self._load,
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
                self._load(self.config.dtype),
                batch_size=self.config.batch_size,
                steps=self.config.steps,
                plan_seed=self.config.seed,
            )
            kept = str(min(2**32, max(1, int(rate * seconds))))
            store.set_note(note, kept)
        for threshold in self.config.thresholds:
            check_can_be_shown(threshold, num_images=int(kept))
        return int(kept)

    def _load(self, dtype: str) -> Pipeline:
        from pytest_memscan.checkpoints.load import load_unconditional

        if dtype not in self._pipelines:
            self._pipelines[dtype] = load_unconditional(
                self.checkpoint, device=self.device, dtype=dtype
            )
        return self._pipelines[dtype]

    def _images(self, path: Path) -> ImageSet:
        from pytest_memscan.data.images import load_images

        return load_images(path, self.shape, cache_dir=self.cache_dir / "train")

    @cached_property
    def _store_dir(self) -> Path:
        from pytest_memscan.store import canonical_hash

        return self.cache_dir / "generated" / canonical_hash(self._generation_spec)

    @cached_property
    def _generation_spec(self) -> dict[str, object]:
        """All that an image depends on besides its plan row: another spec, another folder."""
        import torch

        pipeline = self._load(self.config.dtype)
        num_timesteps = pipeline.scheduler.config.num_train_timesteps
        if self.config.steps > num_timesteps:
            raise OptionError(
                f"--memscan-steps {self.config.steps}: the checkpoint was trained with "
                f"{num_timesteps} timesteps; ask for at most that many"
            )
        device = self.device.partition(":")[0]
        return {
            "files": verify(self.checkpoint.folder).files,
            "pipeline": type(pipeline).__name__,
            "scheduler": type(pipeline.scheduler).__name__,
            "steps": self.config.steps,
            "eta": 0.0,
            "seed": self.config.seed,
            "batch size": self.config.batch_size,
            "dtype": self.config.dtype,
            "device": torch.cuda.get_device_name(self.device) if device == "cuda" else device,
            "torch": version("torch"),
            "diffusers": version("diffusers"),
        }

    def _train_coverage(self, train: ImageSet, holdout: ImageSet | None) -> Coverage:
        unusable = dict(train.unusable)
        if holdout is not None:
            unusable |= {f"held-out: {why}": names for why, names in holdout.unusable.items()}
        return Coverage(
            planned=0,
            generated=0,
            valid=0,
            train_found=train.num_found,
            train_used=len(train.names),
            train_resized=train.num_resized,
            train_unusable=unusable,
        )

    def _provenance(self, train: ImageSet, holdout: ImageSet | None) -> dict[str, str]:
        spec = {name: str(value) for name, value in self._generation_spec.items()}
        del spec["files"]
        return {
            "checkpoint": self.checkpoint.label,
            "checkpoint commit": self.checkpoint.commit or "local files",
            "training images": train.fingerprint,
            "held-out images": "none" if holdout is None else holdout.fingerprint,
            "image size": str(self.shape),
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
