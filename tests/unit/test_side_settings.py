"""Settings of memscan::side: how each is written, what is refused, and where it counts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.conftest import Resolve

from pytest_memscan.errors import OptionError
from pytest_memscan.settings import Given
from pytest_memscan.side_settings import (
    CONTROLS,
    DEFAULT_COHESION,
    DEFAULT_SCALES,
    MAX_SCALE,
    VARIANTS,
    SideSettings,
    parse_cohesion,
    parse_scales,
    parse_variants,
)

NAMES = [*VARIANTS]
SCALES = st.floats(0, MAX_SCALE, exclude_min=True)


def value(given: Any) -> Given:
    return Given(value=given, source="here", base=Path(), key="key")


# --- variants -----------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(NAMES), min_size=1), st.booleans())
def test_variants_run_in_their_order_and_once(names: list[str], is_list: bool) -> None:
    parsed = parse_variants(value(names if is_list else " , ".join(names)))
    assert set(parsed) == set(names)
    assert [NAMES.index(name) for name in parsed] == sorted({NAMES.index(each) for each in names})


@given(st.text(max_size=12).filter(lambda text: text.strip() not in VARIANTS and "," not in text))
def test_what_is_no_variant_is_named_with_all_there_are(name: str) -> None:
    for given_value in (name, [name], ["side_c", name], f"side_c,{name}"):
        with pytest.raises(OptionError) as raised:
            parse_variants(value(given_value))
        message = str(raised.value)
        assert message.startswith(f"here: key: there is no variant {name.strip()!r}; available: ")
        assert all(each in message for each in NAMES)


@pytest.mark.parametrize("given", ["", [], ",", "side_c,", "SIDE_C", "side-c", None, 3, ["", "x"]])
def test_empty_and_other_spellings_are_refused(given: Any) -> None:
    with pytest.raises(OptionError, match="here: key: there is no variant"):
        parse_variants(value(given))


def test_a_table_is_no_variant() -> None:
    with pytest.raises(OptionError, match="not a table"):
        parse_variants(value({"side_c": True}))


def test_controls_are_variants_and_not_all_of_them() -> None:
    assert set(CONTROLS) < set(VARIANTS)
    assert not set(DEFAULT_COHESION) & set(CONTROLS)


# --- lambdas ------------------------------------------------------------------------------------


@given(st.lists(SCALES, min_size=1, unique=True), st.booleans())
def test_lambdas_that_are_written_out_are_read_back_ascending(
    scales: list[float], is_list: bool
) -> None:
    written = [repr(scale) for scale in scales]
    parsed = parse_scales(value(written if is_list else ", ".join(written)))
    assert parsed == tuple(sorted(scales))


@given(st.floats(max_value=0) | st.floats(MAX_SCALE, exclude_min=True) | st.just(math.nan))
def test_other_numbers_are_no_lambdas(scale: float) -> None:
    for given_value in (scale, repr(scale), f"1,{scale!r}", [1.0, scale]):
        with pytest.raises(OptionError, match=r"here: key: .* is no lambda; write numbers above 0"):
            parse_scales(value(given_value))


@pytest.mark.parametrize("given", ["", ",", "1,,2", "x", "1;2", None, True, [[1]], "1e999", "²"])
def test_what_is_no_number_is_no_lambda(given: Any) -> None:
    with pytest.raises(OptionError, match=r"here: key: .* is no lambda"):
        parse_scales(value(given))


@pytest.mark.parametrize("given", ["2,2", "2,2.0", ["2", "20e-1"], [3, 1, 3.0]])
def test_the_same_lambda_twice_is_a_mistake(given: Any) -> None:
    with pytest.raises(OptionError, match="the same lambda is there twice"):
        parse_scales(value(given))


def test_lambdas_of_a_file_are_numbers() -> None:
    assert parse_scales(value([9, 0.5])) == (0.5, 9.0)
    assert parse_scales(value(7)) == (7.0,)


def test_no_lambda_at_all_is_a_mistake() -> None:
    with pytest.raises(OptionError):
        parse_scales(value([]))


# --- cohesion -----------------------------------------------------------------------------------


@given(st.floats(0, 1, exclude_max=True))
def test_a_cosine_below_one_is_a_cohesion(cohesion: float) -> None:
    assert parse_cohesion(value(cohesion)) == cohesion
    assert parse_cohesion(value(repr(cohesion))) == cohesion


@given(st.floats(max_value=0, exclude_max=True) | st.floats(1) | st.just(math.nan))
def test_what_no_cluster_or_every_cluster_has_is_none(cohesion: float) -> None:
    with pytest.raises(OptionError, match=r"here: key: .* is no cohesion"):
        parse_cohesion(value(cohesion))


@pytest.mark.parametrize("given", ["", "x", None, [], "50%", {"a": 1}])
def test_what_is_no_number_is_no_cohesion(given: Any) -> None:
    with pytest.raises(OptionError, match=r"here: key: .* is no cohesion"):
        parse_cohesion(value(given))


def test_cohesion_is_of_the_variant_unless_one_is_given() -> None:
    for name, cohesion in DEFAULT_COHESION.items():
        assert SideSettings().cohesion_of(name) == cohesion
        assert SideSettings(least_cohesion=0.3).cohesion_of(name) == 0.3
        assert SideSettings(least_cohesion=0.0).cohesion_of(name) == 0.0  # 0 is given, too


# --- all of them --------------------------------------------------------------------------------


def test_defaults(resolve: Resolve) -> None:
    side = resolve(scans="side").side
    assert side == SideSettings()
    assert side.variants == ()
    assert side.scales == DEFAULT_SCALES
    assert {5, 6, 7, 8, 9} < set(side.scales)  # that the paper averages


def test_every_setting_reaches_the_scan_from_a_file_and_from_options(resolve: Resolve) -> None:
    toml = """
    scans = ["side"]
    side_variants = ["random_labels", "side_c"]
    side_scales = [9, 0.5]
    side_samples = 64
    side_clusters = 7
    side_cohesion = 0.25
    side_training = 12
    """
    from_file = resolve(toml=toml)
    expected = SideSettings(
        variants=("side_c", "random_labels"),
        scales=(0.5, 9.0),
        num_samples=64,
        num_clusters=7,
        least_cohesion=0.25,
        training=12,
    )
    assert from_file.side == expected
    assert from_file.sources["side_scales"][1] == "memscan.toml"
    over = resolve(toml=toml, side_scales="3", side_variants="side_a")
    assert (over.side.scales, over.side.variants) == ((3.0,), ("side_a",))
    assert over.side.num_samples == 64
    assert over.sources["side_scales"][1] == "--memscan-side-scales"


@pytest.mark.parametrize("key", ["side_scale", "side_lambda", "side-scales", "side_seed"])
def test_an_unknown_key_of_the_file_is_refused(resolve: Resolve, key: str) -> None:
    with pytest.raises(OptionError, match=key):
        resolve(toml=f'scans = ["side"]\n{key} = 3\n')


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"side_samples": "31"}, "--memscan-side-samples: 31 is not between 32 and"),
        ({"side_samples": "99999999"}, "--memscan-side-samples: 99999999 is not between"),
        ({"side_samples": "many"}, "--memscan-side-samples: expected a whole number"),
        ({"side_clusters": "1"}, "--memscan-side-clusters: 1 is not between 2 and"),
        ({"side_clusters": "-5"}, "--memscan-side-clusters: -5 is not between 2 and"),
        ({"side_training": "9"}, "--memscan-side-training: 9 is not between 10 and"),
        ({"side_training": "1.5"}, "--memscan-side-training: expected a whole number"),
        ({"side_cohesion": "-1"}, "--memscan-side-cohesion: '-1' is no cohesion"),
        ({"side_scales": "200"}, "--memscan-side-scales: '200' is no lambda"),
        ({"side_variants": "all"}, "--memscan-side-variants: there is no variant 'all'"),
        ({"auxiliary": ""}, "--memscan-auxiliary: expected a path"),
        ({"labeller": ""}, "--memscan-labeller: expected"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(
    resolve: Resolve, options: dict[str, str], complaint: str
) -> None:
    with pytest.raises(OptionError) as raised:
        resolve(scans="side", **options)
    assert str(raised.value).startswith(complaint)


@pytest.mark.parametrize(
    "options",
    [
        {"side_variants": "side_c"},
        {"side_scales": "1"},
        {"side_samples": "64"},
        {"side_clusters": "9"},
        {"side_cohesion": "0.5"},
        {"side_training": "99"},
        {"labeller": "org/name"},
    ],
)
def test_settings_of_side_need_side(resolve: Resolve, options: dict[str, str]) -> None:
    (name,) = options
    with pytest.raises(OptionError, match=f"--memscan-{name.replace('_', '-')} has no effect"):
        resolve(**options)


def test_where_images_and_labeller_are_is_not_shown(resolve: Resolve, tmp_path: Path) -> None:
    for name in ("faces", "labeller"):
        (tmp_path / "dr-miller" / name).mkdir(parents=True)
    config = resolve(
        scans="side",
        auxiliary=str(tmp_path / "dr-miller" / "faces"),
        labeller=str(tmp_path / "dr-miller" / "labeller"),
    )
    assert "dr-miller" not in repr(config.sources) + repr(config)
    assert config.labeller_label == ".../labeller"
