"""All pictures of a run together, as the process that scanned kept them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_memscan.reports import pairs
from pytest_memscan.reports.finetune_pictures import FinetunePicture
from pytest_memscan.reports.html import Group, Pair, to_html
from pytest_memscan.reports.pictures import ImagePolicy
from pytest_memscan.reports.prompt_pictures import KeyPicture, PromptPicture, RepeatPicture
from pytest_memscan.reports.side_pictures import GuidedPicture
from pytest_memscan.reports.splitting_pictures import SteeredPicture
from pytest_memscan.results import RunResult


@dataclass(frozen=True, kw_only=True, eq=False)
class Pictures:
    """What the HTML report draws, each kind in the order of its findings."""

    pairs: Sequence[Pair] = ()
    groups: Sequence[Group] = ()
    prompts: Sequence[PromptPicture] = ()
    keys: Sequence[KeyPicture] = ()
    repeats: Sequence[RepeatPicture] = ()
    finetunes: Sequence[FinetunePicture] = ()
    splitting: Sequence[SteeredPicture] = ()
    side: Sequence[GuidedPicture] = ()

    @classmethod
    def load(cls, folder: Path) -> Pictures:
        """Everything that was kept in the working folder of a run; nothing where nothing was."""
        return cls(
            pairs=pairs.load_pairs(folder / "pairs"),
            groups=pairs.load_groups(folder / "groups"),
            prompts=pairs.load_prompts(folder / "prompts"),
            keys=pairs.load_keys(folder / "keys"),
            repeats=pairs.load_repeats(folder / "repeats"),
            finetunes=pairs.load_finetunes(folder / "finetunes"),
            splitting=pairs.load_splitting(folder / "splitting"),
            side=pairs.load_side(folder / "side"),
        )

    def draw(self, result: RunResult, *, images: ImagePolicy) -> str:
        """The HTML report with these pictures, shown as `to_html` says."""
        return to_html(
            result,
            self.pairs,
            groups=self.groups,
            prompts=self.prompts,
            keys=self.keys,
            repeats=self.repeats,
            finetunes=self.finetunes,
            splitting=self.splitting,
            side=self.side,
            images=images,
        )
