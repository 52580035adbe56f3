"""Everything that a scan kept comes back together, and is drawn as if it had been passed on."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from unit.reports import kinds, samples

from pytest_memscan.reports import pairs
from pytest_memscan.reports.html import to_html
from pytest_memscan.reports.json import from_json, to_json
from pytest_memscan.reports.kept import keep
from pytest_memscan.reports.picture_files import Pictures
from pytest_memscan.reports.render import FORMATS, render


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = samples.pairs(samples.failed())
    generated = {each.finding.sample_id: each.generated for each in made}
    train = {each.finding.train_id: each.train for each in made}
    picture = samples.picture(0)
    pairs.save_pairs(
        tmp_path / "pairs",
        [each.finding for each in made[:3]],
        lambda sample_id: generated[sample_id],
        train=_stacked(train, picture),
    )
    return tmp_path


def _stacked(train: dict[int, pairs.Pixels], other: pairs.Pixels) -> pairs.Pixels:
    return np.stack([train.get(index, other) for index in range(max(train) + 1)])


def test_what_was_kept_is_drawn(folder: Path) -> None:
    result = from_json(to_json(samples.failed()))
    pictures = Pictures.load(folder)
    drawn = render("html", samples.failed(), pictures=pictures, images="blurred")
    assert drawn == to_html(result, pairs.load_pairs(folder / "pairs"), images="blurred")
    assert drawn.count("data:image/png") == 6


def test_no_other_format_has_pictures(folder: Path) -> None:
    pictures = Pictures.load(folder)
    for kind in set(FORMATS) - {"html"}:
        shown = render(kind, kinds.whole(), pictures=pictures, images="clear")
        assert shown == render(kind, kinds.whole())
        assert "data:image" not in shown


def test_pictures_are_not_shown_unless_asked(folder: Path) -> None:
    assert "data:image" not in render("html", samples.failed(), pictures=Pictures.load(folder))


def test_a_folder_without_pictures_gives_none(tmp_path: Path) -> None:
    pictures = Pictures.load(tmp_path)
    assert not any(vars(pictures).values())
    assert render("html", samples.failed(), pictures=pictures) == render("html", samples.failed())


def test_a_worker_that_is_killed_leaves_whole_pictures_only(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, savez = len(pairs.load_pairs(folder / "pairs")), np.savez

    def killed(file: IO[bytes], **arrays: Any) -> None:
        savez(file, **arrays)
        file.truncate(300)
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", killed)
    made = samples.pairs(samples.failed())
    with pytest.raises(KeyboardInterrupt):
        keep(folder / "pairs", made)
    assert len(pairs.load_pairs(folder / "pairs")) == whole
