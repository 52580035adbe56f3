"""Where a line of the policy stands in its file."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_memscan.policy import parse_threshold
from pytest_memscan.policy_files import locate, with_locations
from pytest_memscan.results import CheckOutcome, Location, ThresholdOutcome, Verdict


def found(folder: Path, text: str, expression: str, *, name: str = "memscan.toml") -> str:
    """What stands at the place that is told, or only where that is."""
    file = folder / name
    file.write_text(text, encoding="utf-8")
    place = locate(expression, file, folder)
    assert place.file == name
    line = text.splitlines()[place.line - 1] if text else ""
    return f"{place.line}: {line[place.column - 1 : place.end_column - 1]}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('fail = "extracted <= 0"', "1: extracted <= 0"),
        ('seed = 3\nfail = ["leak_rate <= 0.1", "extracted <= 0"]', "2: extracted <= 0"),
        ('fail = [\n  # "extracted <= 0",\n  "extracted<=0",\n]', "3: extracted<=0"),
        (
            'fail = [ # "extracted <= 0"\n"leak_rate <= 0.1", \'extracted  <=  0.0\' ]',
            "2: extracted  <=  0.0",
        ),
        ('fail = ["""extracted <= 0"""]', "1: extracted <= 0"),
        ("fail = ['''extracted <= 0''']", "1: extracted <= 0"),
        ('fail = ["extracted \\u003c= 0"]', "1: extracted \\u003c= 0"),
        ('"fail" = ["\\textracted <= 0"]', "1: \\textracted <= 0"),
        ('base = "extracted <= 0" # fail\nfail = "extracted <= 0"', "2: extracted <= 0"),
        ('# fail = "extracted <= 0"\nfail = "extracted <= 0"', "2: extracted <= 0"),
        ('fail = "extracted <= 0"\r\n', "1: extracted <= 0"),
        ('\ufeffseed = 3\nfail = "extracted <= 0"', "2: extracted <= 0"),
        ('base = """\nfail = "extracted <= 0"\n"""\nfail = "extracted <= 0"', "4: extracted <= 0"),
        ('side_scales = [\n1,\n2]\nfail = "extracted <= 0"', "4: extracted <= 0"),
        ('fail = ["leak_rate <= 0.1"]\n[[suppress]]\nreason = "extracted <= 0"', "1: fail"),
        ('[[suppress]]\nfail = "extracted <= 0"', "1: ["),
        ('[other]\nfail = "extracted <= 0"', "1: ["),
        ("seed = 3", "1: s"),
        ("", "1: "),
    ],
)
def test_in_a_file_of_its_own(tmp_path: Path, text: str, expected: str) -> None:
    assert found(tmp_path, text, "extracted <= 0") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[tool.memscan]\nfail = "extracted <= 0"', "2: extracted <= 0"),
        ('fail = "extracted <= 0"\n[tool.memscan]\nfail = ["extracted <= 0"]', "3: extracted <= 0"),
        ('[ tool . "memscan" ] # here\nfail = "extracted <= 0"', "2: extracted <= 0"),
        ('[tool]\nmemscan.fail = "extracted <= 0"', "2: extracted <= 0"),
        ('tool.memscan.fail = "extracted <= 0"', "1: extracted <= 0"),
        ('[tool.memscan.suppress]\nfail = "extracted <= 0"', "1: ["),
        ('[tool.memscanner]\nfail = "extracted <= 0"', "1: ["),
        ('[tool.x]\nfail = "extracted <= 0"\n[tool.memscan]\nfail = "leak_rate < 0.1"', "4: fail"),
        ('[tool]\nmemscan = {fail = "extracted <= 0"}', "1: ["),
    ],
)
def test_in_pyproject_it_is_the_table_of_the_tool(tmp_path: Path, text: str, expected: str) -> None:
    assert found(tmp_path, text, "extracted <= 0", name="pyproject.toml") == expected


@given(
    before=st.integers(0, 3),
    space=st.sampled_from(["", " ", "  "]),
    quote=st.sampled_from(['"', "'", '"""', "'''"]),
    limit=st.sampled_from(["0.01", "1e-2", ".01", "0.010"]),
)
def test_however_it_is_spaced_it_is_found(
    tmp_path_factory: pytest.TempPathFactory, before: int, space: str, quote: str, limit: str
) -> None:
    written = f"{space}leak_rate{space}<={space}{limit}"
    others = "".join(f'  "extracted <= {each}", # leak_rate <= 0.01\n' for each in range(before))
    text = f"fail = [\n{others}  {quote}{written}{quote}]\n"
    expression = parse_threshold(written).expression
    place = found(tmp_path_factory.mktemp("x"), text, expression)
    assert place == f"{before + 2}: {written}"


def test_a_text_of_several_lines_is_told_by_its_first(tmp_path: Path) -> None:
    text = 'fail = ["""\\\n   extracted <= 0"""]'
    assert found(tmp_path, text, "extracted <= 0") == '1: """\\'


def outcome(expression: str, source: str) -> ThresholdOutcome:
    return ThresholdOutcome(
        expression=expression, source=source, verdict=Verdict.PASS, sentence="fine"
    )


def test_lines_from_elsewhere_belong_to_the_beginning_of_the_policy_file(tmp_path: Path) -> None:
    file = tmp_path / "memscan.toml"
    file.write_text('seed = 1\nfail = ["extracted <= 0", "leak_rate <= 0.5"]\n')
    lines = tuple(
        outcome("leak_rate <= 0.5", source)
        for source in ("memscan.toml", "--memscan-fail", "ini memscan_fail", "default")
    )
    check = CheckOutcome(name="carlini", verdict=Verdict.PASS, sentence="", thresholds=lines)
    placed = with_locations(check, policy_file=file, root=tmp_path)
    assert placed.thresholds[0].location == Location(
        file="memscan.toml", line=2, column=28, end_column=44
    )
    assert {each.location for each in placed.thresholds[1:]} == {Location(file="memscan.toml")}
    assert [each.expression for each in placed.thresholds] == ["leak_rate <= 0.5"] * 4


def test_paths_start_from_the_root_and_tell_nothing_of_what_is_above_it(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "repository", tmp_path / "private"
    for folder in (root / "release" / "gate", elsewhere):
        folder.mkdir(parents=True)
        (folder / "policy.toml").write_text('fail = "extracted <= 0"')
    inside = locate("extracted <= 0", root / "release" / "gate" / "policy.toml", root)
    assert (inside.file, inside.column) == ("release/gate/policy.toml", 9)
    assert locate("extracted <= 0", elsewhere / "policy.toml", root).file == "policy.toml"


def test_a_file_that_is_not_there_is_told_by_its_name(tmp_path: Path) -> None:
    missing = locate("extracted <= 0", tmp_path / "memscan.toml", tmp_path)
    assert missing == Location(file="memscan.toml", line=1, column=1, end_column=2)


def test_a_file_that_is_no_text_is_told_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "memscan.toml").write_bytes(b"\xff\xfe")
    place = locate("extracted <= 0", tmp_path / "memscan.toml", tmp_path)
    assert place == Location(file="memscan.toml")
