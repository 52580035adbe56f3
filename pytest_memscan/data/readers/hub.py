"""A dataset on the Hugging Face Hub -> the Parquet shards of one commit in the local Hub cache.

Only Parquet files are fetched, and of these only the training split, where there is one by name.
"""

from __future__ import annotations

from collections.abc import Iterable

from pytest_memscan.data.readers.columns import require_pyarrow
from pytest_memscan.data.readers.hub_files import Wanted, fetch_files, of_training_split
from pytest_memscan.data.readers.parquet import read_shards
from pytest_memscan.data.records import Reading
from pytest_memscan.data.sources import DataSource


def open_hub(source: DataSource, *, offline: bool) -> Reading:
    """Every row of the training split of a dataset.

    Args:
        source: Repository and revision.
        offline: Use the local cache only. ``HF_HUB_OFFLINE=1`` means the same.

    Raises:
        TrainDataError: Not found, no access, not reachable, no Parquet files, or they differ from
            the hashes that the Hub gives for them.
        NotCachedError: Offline, and not or not completely in the cache.
    """
    repo = source.repo or ""
    require_pyarrow(source.label)
    wanted = Wanted(
        choose=training_files,
        noun="Parquet files",
        remedy=f"the Hub converts many datasets itself: try hub:{repo}@refs/convert/parquet, or "
        "download the images and name their folder",
    )
    fetched = fetch_files(repo, source.revision, wanted, offline=offline)
    num_files = len(_parquet_files(fetched.listed))
    is_whole = len(fetched.files) == num_files
    split = "all" if is_whole else f"training split, {len(fetched.files)} of"
    origin = f"hub:{repo}@{fetched.commit[:7]} ({split} {num_files} Parquet files)"
    return read_shards({name: fetched.folder / name for name in fetched.files}, origin=origin)


def training_files(names: Iterable[str]) -> list[str]:
    """The Parquet files of the training split, or all of them where none is called so.

    Example:
        >>> training_files(["README.md", "data/test-0.parquet", "data/train-0.parquet"])
        ['data/train-0.parquet']
    """
    return of_training_split(_parquet_files(names))


def _parquet_files(names: Iterable[str]) -> list[str]:
    return [name for name in names if name.lower().endswith(".parquet")]
