"""Class labels in Parquet and Arrow shards: the right column, and names where it has any."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from image_factory import save_arrow, save_parquet
from unit.data.pictures import encode, noise

from pytest_memscan.data.conversion import ImageShape
from pytest_memscan.data.images import ImageSet, load_images
from pytest_memscan.data.sources import parse_source
from pytest_memscan.errors import TrainDataError

SHAPE = ImageShape(height=8, width=8, channels=3)
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
KINDS = {".parquet": save_parquet, ".arrow": save_arrow}


def load(path: Path) -> ImageSet:
    return load_images(parse_source(str(path), path), SHAPE, cache_dir=path.parent / "cache")


@pytest.fixture(params=KINDS)
def save(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Path]:
    """Write a table as the shard ``shard`` of one of the two kinds."""
    kind = request.param
    return lambda table, name="shard": KINDS[kind](tmp_path / f"{name}{kind}", table)


def images_of(count: int) -> pa.Table:
    cells = [{"bytes": encode(noise(seed=row))} for row in range(count)]
    return pa.table({"image": pa.array(cells, IMAGE)})


def labelled(*labels: object, kind: pa.DataType, column: str = "label") -> pa.Table:
    return images_of(len(labels)).append_column(column, pa.array(list(labels), kind))


def with_features(table: pa.Table, features: object) -> pa.Table:
    """As `datasets` describes its columns."""
    described = json.dumps({"info": {"features": features}}).encode()
    return table.replace_schema_metadata({"huggingface": described})


@pytest.mark.parametrize("column", ["label", "labels", "class"])
@pytest.mark.parametrize(
    ("given", "kind", "labels"),
    [
        ((3, None, -1), pa.int64(), ("3", None, "-1")),
        ((3, 0, 200), pa.uint8(), ("3", "0", "200")),
        (("cat", None, " "), pa.string(), ("cat", None, None)),
        (("cat", "", "dog\n"), pa.large_string(), ("cat", None, "dog")),
        (("a", None, "b"), pa.dictionary(pa.int8(), pa.string()), ("a", None, "b")),
    ],
    ids=str,
)
def test_labels_stand_in_a_column(
    save: Callable[..., Path],
    column: str,
    given: tuple[object, ...],
    kind: pa.DataType,
    labels: tuple[str | None, ...],
) -> None:
    images = load(save(labelled(*given, kind=kind, column=column)))
    assert images.labels == labels
    plain = load(save(labelled(*given, kind=kind, column="other")))
    assert plain.labels == (None,) * 3
    assert plain.fingerprint == images.fingerprint


@pytest.mark.parametrize(
    ("given", "kind"),
    [([1.5], pa.float64()), ([[1]], pa.list_(pa.int64())), ([True], pa.bool_()), ([b"a"], IMAGE)],
    ids=str,
)
def test_a_column_of_another_type_is_no_label(
    save: Callable[..., Path], given: list[object], kind: pa.DataType
) -> None:
    given = [{"bytes": encode(noise())}] if kind == IMAGE else given
    table = labelled(*given, kind=kind)
    assert load(save(table)).labels == (None,)
    assert load(save(table.append_column("class", pa.array(["cat"])))).labels == ("cat",)


def test_two_columns_with_the_name_of_a_label_are_none(save: Callable[..., Path]) -> None:
    table = labelled(1, kind=pa.int64()).append_column("label", pa.array([2]))
    assert load(save(table)).labels == (None,)


def test_the_names_that_datasets_gives_to_classes_are_used(save: Callable[..., Path]) -> None:
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    table = with_features(labelled(1, 0, -1, None, kind=pa.int64()), features)
    assert load(save(table)).labels == ("dog", "cat", None, None)


@pytest.mark.parametrize(
    "features",
    [
        {"label": {"dtype": "int64", "_type": "Value"}},
        {"label": {"names": ["cat", "cat"]}},
        {"label": {"names": ["cat", 3]}},
        {"label": {"names": "cat"}},
        {"label": 3},
        [],
        None,
    ],
    ids=repr,
)
def test_without_names_that_tell_classes_apart_their_numbers_are_used(
    save: Callable[..., Path], features: object
) -> None:
    table = labelled(1, 0, kind=pa.int64())
    assert load(save(with_features(table, features))).labels == ("1", "0")
    broken = table.replace_schema_metadata({"huggingface": b"{"})
    assert load(save(broken)).labels == ("1", "0")


@pytest.mark.parametrize("number", [2, -2])
def test_a_number_that_is_none_of_the_named_classes_is_an_error_with_its_row(
    save: Callable[..., Path], number: int
) -> None:
    features = {"label": {"names": ["Ann", "Bob"]}}
    path = save(with_features(labelled(0, number, kind=pa.int64()), features))
    with pytest.raises(TrainDataError) as caught:
        load(path)
    message = str(caught.value)
    expected = f"{path.name}[1]: its class is number {number}, and only 2 classes have names"
    assert message.startswith(expected)
    assert "Ann" not in message


def test_shards_may_order_their_classes_in_other_ways(
    save: Callable[..., Path], tmp_path: Path
) -> None:
    table = labelled(0, 1, kind=pa.int64())
    save(with_features(table, {"label": {"names": ["cat", "dog"]}}), "a")
    save(with_features(table, {"label": {"names": ["dog", "cat"]}}), "b")
    save(labelled("cat", kind=pa.string()), "c")
    assert load(tmp_path).labels == ("cat", "dog", "dog", "cat", "cat")


def test_numbers_are_not_mixed_with_names_of_other_shards(
    save: Callable[..., Path], tmp_path: Path
) -> None:
    """Class 0 of one shard may be what another calls "cat": together they would be two."""
    table = labelled(0, 1, kind=pa.int64())
    save(table, "a")
    save(images_of(1), "b")
    assert load(tmp_path).labels == ("0", "1", None)
    save(with_features(table, {"label": {"names": ["cat", "dog"]}}), "c")
    assert load(tmp_path).labels == (None, None, None, "cat", "dog")
