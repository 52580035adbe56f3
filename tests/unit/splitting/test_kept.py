"""What an island keeps on disk: whole or made again, and read back as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pytest_memscan.errors import StoreError
from pytest_memscan.splitting.kept import Arrays, KeptIsland, read_arrays, write_arrays

ARRAYS: Arrays = {
    "scores": np.arange(6.0).reshape(2, 3),
    "number": np.array(3),
    "finite": np.ones(2, dtype=bool),
}


def equal(found: Arrays, expected: Arrays) -> bool:
    return found.keys() == expected.keys() and all(
        found[name].dtype == expected[name].dtype and np.array_equal(found[name], expected[name])
        for name in expected
    )


def test_arrays_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "a.state.npz"
    assert read_arrays(path) is None
    write_arrays(path, ARRAYS)
    found = read_arrays(path)
    assert found is not None
    assert equal(found, ARRAYS)
    assert [each.name for each in tmp_path.iterdir()] == ["a.state.npz"]


@pytest.mark.filterwarnings("ignore::UserWarning")  # of zipfile, about what was damaged
def test_a_damaged_file_is_as_good_as_missing_wherever_the_damage_is(tmp_path: Path) -> None:
    """Cut short anywhere, or with any one byte changed: what is read is right, or nothing is."""
    path = tmp_path / "a.npz"
    write_arrays(path, ARRAYS)
    whole = path.read_bytes()
    damaged = [whole[:length] for length in range(0, len(whole), 20)]
    directory = whole.index(b"PK\x01\x02")
    for place in [*range(0, directory, 8), *range(directory, len(whole))]:
        changed = bytearray(whole)
        changed[place] ^= (0x01, 0x80, 0xFF)[place % 3]
        damaged.append(bytes(changed))
    num_lost = 0
    for content in damaged:
        path.write_bytes(content)
        found = read_arrays(path)
        assert found is None or equal(found, ARRAYS)
        num_lost += found is None
        assert path.exists() == (found is not None)
    assert num_lost > len(damaged) / 4


def test_steps_are_followed_back_along_a_lineage(tmp_path: Path) -> None:
    kept = KeptIsland(folder=tmp_path, name="island")
    random = np.random.default_rng(0)
    noise, clean = random.normal(size=(2, 3, 4, 1, 2, 2)).astype(np.float32)
    for number in range(3):
        kept.keep_step(number, noise[number], clean[number])
    kept.keep_step(1, noise[1], clean[1])  # once more, after an interruption
    lineage = np.array([[0, 0, 2], [3, 1, 1]])
    found_noise, found_clean = kept.steps_of(lineage, (4, 1, 2, 2))
    for step in range(3):
        for row in range(2):
            assert np.array_equal(found_noise[step, row], noise[step, lineage[row, step]])
            assert np.array_equal(found_clean[step, row], clean[step, lineage[row, step]])


def test_a_state_without_its_steps_is_nothing_to_go_on_from(tmp_path: Path) -> None:
    kept = KeptIsland(folder=tmp_path, name="island")
    kept.save_state(**ARRAYS)
    assert kept.state() is None
    kept.keep_step(0, np.zeros((1, 1), np.float32), np.zeros((1, 1), np.float32))
    state = kept.state()
    assert state is not None
    assert equal(state, ARRAYS)


def test_only_the_end_of_a_finished_island_stays(tmp_path: Path) -> None:
    kept = KeptIsland(folder=tmp_path, name="island")
    kept.save_state(**ARRAYS)
    kept.keep_step(0, np.zeros((1, 1), np.float32), np.zeros((1, 1), np.float32))
    assert kept.result() is None
    kept.finish(**ARRAYS)
    assert [each.name for each in tmp_path.iterdir()] == ["island.result.npz"]
    result = kept.result()
    assert result is not None
    assert equal(result, ARRAYS)


def test_a_folder_that_is_gone_is_an_error_that_says_so(tmp_path: Path) -> None:
    kept = KeptIsland(folder=tmp_path / "gone", name="island")
    with pytest.raises(StoreError, match=r"cannot keep its trajectories in .*cache-dir") as raised:
        kept.save_state(**ARRAYS)
    assert str(tmp_path) not in str(raised.value)
    with pytest.raises(StoreError, match="No such file"):
        kept.keep_step(0, np.zeros((1, 1), np.float32), np.zeros((1, 1), np.float32))
