"""Which lines are prompts, what is counted, and that no prompt's text stands in a message."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import unicodedata
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_memscan.data import prompt_rules
from pytest_memscan.data.prompts import (
    PROBE,
    PromptSet,
    PromptSource,
    check_prompt_source,
    count_truncated,
    has_captions,
    parse_prompt_source,
    prompts_of_captions,
    read_prompts,
)
from pytest_memscan.errors import OptionError, PromptError


def read(path: Path) -> PromptSet:
    return read_prompts(parse_prompt_source(str(path), path.parent), offline=True)


def of_text(folder: Path, content: str | bytes) -> PromptSet:
    file = folder / "list.txt"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read(file)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("a.txt", "txt"),
        ("a.TXT", "txt"),
        ("a.jsonl", "jsonl"),
        ("a.csv", "csv"),
        ("a.parquet", "parquet"),
        ("there.is", "folder"),
        ("images", "folder"),
    ],
)
def test_a_path_is_known_by_its_suffix(tmp_path: Path, text: str, kind: str) -> None:
    (tmp_path / "there.is").mkdir()
    source = parse_prompt_source(text, tmp_path)
    assert source == PromptSource(kind=kind, path=tmp_path / text)  # type: ignore[arg-type]
    assert source.label == f".../{text}"
    assert str(tmp_path) not in repr(source)


def test_a_dataset_and_the_built_in_list_are_known_by_their_prefix(tmp_path: Path) -> None:
    source = parse_prompt_source("hub:org/name@v1", tmp_path)
    assert source == PromptSource(kind="hub", repo="org/name", revision="v1")
    assert source.label == "hub:org/name@v1"
    assert parse_prompt_source("hub:org/name", tmp_path).label == "hub:org/name"
    assert parse_prompt_source("builtin:probe", tmp_path) == PROBE
    assert PROBE.label == "built-in probe list"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected a path"),
        ("hub:org", "is not a dataset on the Hub"),
        ("https://hub.test/list.txt", "is a URL"),
        ("builtin:probes", "there is no list of prompts 'builtin:probes'; there are builtin:probe"),
        ("index:saved", "holds descriptors and no prompts; expected a list of prompts (.txt"),
        ("a.png", ".../a.png cannot be read as prompts; expected a list"),
        ("a.json", ".../a.json cannot be read as prompts"),
        ("a.txt.gz", ".../a.txt.gz cannot be read as prompts"),
        ("nul\0.txt", "is not a usable path"),
    ],
)
def test_what_cannot_hold_prompts_is_refused_by_name(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(OptionError) as refused:
        parse_prompt_source(text, tmp_path)
    assert words in str(refused.value)


def test_prompts_are_stripped_and_otherwise_left_as_they_are(tmp_path: Path) -> None:
    lines = ["  a  cat\tsits ", "une fe\u0302te", "猫", "\u00a0👩\u200d🎨\u3000", "# not a comment"]
    found = of_text(tmp_path, "\r\n".join(lines))
    assert found.prompts == (
        "a  cat\tsits",
        "une fe\u0302te",
        "猫",
        "👩\u200d🎨",
        "# not a comment",
    )
    assert found.places == ("line 1", "line 2", "line 3", "line 4", "line 5")
    assert found.is_whole
    assert found.coverage.origin == ".../list.txt"
    assert not found.coverage.is_probe


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_the_last_line_may_end_or_not_and_a_byte_order_mark_is_no_text(
    tmp_path: Path, end: str
) -> None:
    found = of_text(tmp_path, "\ufeffa\nb" + end)
    assert found.prompts == ("a", "b")
    assert found.coverage.num_found == 2


def test_empty_lines_and_duplicates_are_dropped_and_counted(tmp_path: Path) -> None:
    found = of_text(tmp_path, "caf\u00e9\n\n \t\na\ncafe\u0301\nA\na\n a \n")
    assert found.prompts == ("caf\u00e9", "a", "A")
    assert found.places == ("line 1", "line 4", "line 6")
    assert found.coverage.dropped == {"empty": 2, "duplicate": 3}
    assert (found.coverage.num_found, found.coverage.num_used) == (8, 3)
    assert found.is_whole


def test_lines_that_cannot_be_used_are_named_by_place(tmp_path: Path) -> None:
    lines = [
        b"good",
        b"a \x00 b",
        b"caf\xe9",
        b"bell \x07",
        b"x" * 10_001,
        b"x" * 10_000,
        b"one\rtwo",
        b"c1 \xc2\x85 control",
        b"\x1f",
        b"\xed\xa0\x80 an encoded surrogate",
    ]
    found = of_text(tmp_path, b"\n".join(lines))
    assert found.prompts == ("good", "x" * 10_000)
    assert found.coverage.unusable == {
        "with a NUL character": ("line 2",),
        "not UTF-8 text": ("line 3", "line 10"),
        "with a control character": ("line 4", "line 7", "line 8", "line 9"),
        "longer than 10,000 characters": ("line 5",),
    }
    assert not found.is_whole


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ".../list.txt holds no prompts"),
        (b"\n \n", "no prompt in .../list.txt can be used: 2 empty"),
        (
            b"\n\x07 secret\ncaf\xe9 secret\n\xff\n\xff\n\xff",
            "no prompt in .../list.txt can be used: 1 empty; 1 with a control character (line 2); "
            "4 not UTF-8 text (line 3, line 4, line 5 and 1 more)",
        ),
        (b"x" * 2**20, "no prompt in .../list.txt can be used: 1 longer than 10,000 characters "
                       "(line 1)"),
        (b"x" * (2**20 + 1), ".../list.txt line 1 is longer than 1,048,576 bytes"),
        (b"secret\n" + b"x" * 2**21, ".../list.txt line 2 is longer than 1,048,576 bytes"),
    ],
)  # fmt: skip
def test_a_list_without_a_usable_prompt_is_one_sentence_now_or_later(
    tmp_path: Path, content: bytes, message: str
) -> None:
    with pytest.raises(PromptError) as later:
        of_text(tmp_path, content)
    with pytest.raises(OptionError) as now:
        check_prompt_source(parse_prompt_source("list.txt", tmp_path))
    assert str(later.value) == str(now.value) == message


def test_a_usable_list_passes_the_check_at_start_up_though_lines_are_lost(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"\xff\ngood\n")
    check_prompt_source(parse_prompt_source("list.txt", tmp_path))
    check_prompt_source(parse_prompt_source("hub:nobody/nothing", tmp_path))  # not asked yet
    check_prompt_source(PROBE)


def test_the_check_at_start_up_does_not_read_a_long_list_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_memscan.data.prompts._CHECKED_SECONDS", 0.0)
    (tmp_path / "list.txt").write_bytes(b"\n" * 1000)
    source = parse_prompt_source("list.txt", tmp_path)
    with pytest.raises(OptionError, match="1000 empty"):
        check_prompt_source(source)
    (tmp_path / "list.txt").write_bytes(b"\n" * 1001)
    check_prompt_source(source)


def test_more_prompts_than_a_scan_could_try_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match=r"^\.\.\./list\.txt holds more than 1,000,000 prompts"):
        of_text(tmp_path, b"a\n" * 1_000_001)


@pytest.mark.parametrize("check", [False, True])
def test_a_file_of_five_gigabytes_is_refused_before_it_is_read(tmp_path: Path, check: bool) -> None:
    with (tmp_path / "list.txt").open("wb") as file:
        file.write(b"a prompt\n" * 1000)
        file.truncate(5 * 10**9)  # takes no room
    source = parse_prompt_source("list.txt", tmp_path)
    with pytest.raises(
        (PromptError, OptionError), match=r"list\.txt has 5\.0 GB, and a list .* 1 GB"
    ):
        check_prompt_source(source) if check else read_prompts(source, offline=True)


def test_captions_of_training_images_are_named_by_the_image_s_number() -> None:
    found = prompts_of_captions(["a", None, "\ud800", " a", "", " b "], "data")
    assert found.prompts == ("a", "b")
    assert found.places == ("train#00000", "train#00005")
    assert found.coverage.origin == "data"
    assert found.coverage.dropped == {"empty": 2, "duplicate": 1}
    assert found.coverage.unusable == {"not UTF-8 text": ("train#00002",)}
    assert (found.coverage.num_found, found.coverage.is_probe) == (6, False)


def test_captions_of_which_none_can_be_used_are_an_error() -> None:
    with pytest.raises(PromptError, match=r"^no prompt in data can be used: 2 empty$"):
        prompts_of_captions([None, " "], "data")
    with pytest.raises(PromptError, match=r"^data holds no prompts$"):
        prompts_of_captions([], "data")


@pytest.mark.parametrize(
    ("captions", "expected"), [([], False), ([None, "", " \n"], False), ([None, "a"], True)]
)
def test_whether_there_are_captions(captions: list[str | None], expected: bool) -> None:
    assert has_captions(captions) is expected


def test_the_fingerprint_is_of_the_prompts_in_their_order_and_nothing_else(tmp_path: Path) -> None:
    one = of_text(tmp_path, "a\nb\n")
    assert one.fingerprint == of_text(tmp_path, "\n a\n\nb\na").fingerprint
    assert one.fingerprint == prompts_of_captions(["a", "b"], "elsewhere").fingerprint
    digests = [hashlib.sha256(prompt).digest() for prompt in (b"a", b"b")]
    assert one.fingerprint == hashlib.sha256(b"".join(digests)).hexdigest()
    assert len({of_text(tmp_path, text).fingerprint for text in ("a\nb", "b\na", "ab", "a")}) == 4


def test_prompts_and_places_stay_out_of_representations(tmp_path: Path) -> None:
    found = of_text(tmp_path, "a secret caption")
    assert "secret" not in repr(found)
    assert "line 1" not in repr(found)
    with pytest.raises(FrozenInstanceError):
        found.prompts = ()  # type: ignore[misc]


def prompts_or_sentence(folder: Path, content: bytes) -> PromptSet | str:
    try:
        return of_text(folder, content)
    except PromptError as error:
        return str(error)


@given(content=st.binary(max_size=300) | st.text(max_size=100).map(lambda text: text.encode()))
def test_any_bytes_are_prompts_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    found = prompts_or_sentence(tmp_path_factory.mktemp("any"), content)
    if isinstance(found, str):
        assert found.startswith(("no prompt in .../list.txt can be used", ".../list.txt "))
        return
    coverage = found.coverage
    lost = sum(coverage.dropped.values()) + sum(map(len, coverage.unusable.values()))
    assert coverage.num_found == lost + coverage.num_used
    assert coverage.num_used == len(found.prompts) == len(found.places) > 0
    normal = [unicodedata.normalize("NFC", prompt) for prompt in found.prompts]
    assert len(set(normal)) == len(normal)
    lines = content.split(b"\n")
    for prompt, place in zip(found.prompts, found.places, strict=True):
        assert prompt == prompt.strip() != ""
        number = int(place.removeprefix("line "))
        assert lines[number - 1].decode("utf-8-sig" if number == 1 else "utf-8").strip() == prompt


@given(st.lists(st.text(max_size=20) | st.none(), max_size=20))
def test_every_caption_is_used_dropped_or_named(captions: list[str | None]) -> None:
    try:
        found = prompts_of_captions(captions, "data")
    except PromptError:
        assert all(prompt_rules._problem_of(each or "", 0) or not (each or "").strip()
                   for each in captions)  # fmt: skip
        return
    assert found.coverage.num_found == len(captions)
    places = {place for named in found.coverage.unusable.values() for place in named}
    for index, caption in enumerate(captions):
        if caption and caption.strip() and f"train#{index:05d}" not in places:
            normal = unicodedata.normalize("NFC", caption.strip())
            assert normal in {unicodedata.normalize("NFC", prompt) for prompt in found.prompts}


def test_a_prompt_is_truncated_when_every_tokenizer_cuts_it() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    def reading(length: int) -> PreTrainedTokenizerFast:
        words = Tokenizer(models.WordLevel({"w": 0}))
        words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=length)

    prompts = [" ".join("w" * length) for length in (1, 3, 4, 5, 6, 9)]
    assert count_truncated(prompts, [reading(3)]) == 4
    assert count_truncated(prompts, [reading(3), reading(5)]) == 2
    assert count_truncated(prompts, [reading(5), reading(3)]) == 2
    assert count_truncated(prompts, [reading(3), reading(50)], limits=[3, 4]) == 3
    assert count_truncated(prompts * 500, [reading(3)]) == 2000
    assert count_truncated(prompts, []) == 0
    assert count_truncated([], [reading(3)]) == 0


def test_tokenizers_of_a_pipeline_are_asked_as_they_are() -> None:
    from transformers import CLIPTokenizer

    folder = Path(__file__).parents[3] / "fixtures" / "clean-t2i" / "tokenizer"
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    fits = "a " * (tokenizer.model_max_length - 2)  # start and end are tokens too
    assert len(tokenizer(fits)["input_ids"]) == tokenizer.model_max_length
    assert count_truncated([fits, fits + "a"], [tokenizer]) == 1


def test_start_up_imports_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "list.jsonl").write_text(json.dumps({"text": "a"}))
    script = (
        "import sys; from pathlib import Path; from pytest_memscan.data import prompts;"
        "prompts.check_prompt_source(prompts.parse_prompt_source(sys.argv[1], Path()));"
        "print(*{'torch', 'numpy', 'pandas', 'pyarrow', 'huggingface_hub'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "list.jsonl"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "\n"
