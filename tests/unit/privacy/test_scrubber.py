"""What a scrubber takes out of a text, and what it leaves alone."""

from __future__ import annotations

import html
import json
import time
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_memscan.privacy.scrubber import PrivatePath, Scrubber

TOKEN = "s3cr3t-Token&Value<01>"  # noqa: S105  # a marker, not a token
FOLDER = "/mnt/data/custömer one/portraits"
PATHS = (
    PrivatePath(value=FOLDER, shown=".../portraits", hides_files=True),
    PrivatePath(value="/mnt/data/custömer one", shown="..."),
    PrivatePath(value="/home/jane", shown="~", is_short=True),
)
SCRUBBER = Scrubber(
    tokens=(TOKEN, "hf_shortToken"),
    paths=PATHS,
    texts=(("zebra qwx seven", "(planted string)"),),
    user="jane",
)
SECRETS = (TOKEN, FOLDER, "hf_shortToken", "zebra qwx seven")
WRITTEN = {
    "as it is": str,
    "JSON": json.dumps,
    "repr": repr,
    "address": quote,
    "whole address": lambda text: quote(text, safe=""),
    "HTML": html.escape,
}


@pytest.mark.parametrize("form", WRITTEN)
@pytest.mark.parametrize("secret", [TOKEN, FOLDER, "zebra qwx seven"])
def test_a_value_goes_in_every_form_of_writing(form: str, secret: str) -> None:
    written = WRITTEN[form](secret)
    scrubbed = SCRUBBER.scrub(f"before {written} after")
    assert written.strip("'\"") not in scrubbed
    assert scrubbed.startswith("before ")
    assert scrubbed.endswith(" after")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"cannot open {FOLDER}", "cannot open .../portraits"),
        (f"cannot open '{FOLDER}/alice at sea.png'", "cannot open '.../portraits/(file)'"),
        (f"{FOLDER}/sub/alice.jpeg: broken", ".../portraits/(file): broken"),
        (f"{FOLDER}/list", ".../portraits/(file)"),
        ("in /mnt/data/custömer one there is", "in ... there is"),
        ("File /home/jane/lib/x.py", "File ~/lib/x.py"),
        ("/home/jane", "~"),
        ("/home/janet/x", "/home/janet/x"),
        ("https://site/home/jane/x", "https://site/home/jane/x"),
        ("\x1b[33m/home/jane/x\x1b[0m", "\x1b[33m~/x\x1b[0m"),
        ("/big/pytest-of-jane/pytest-0/x", "/big/pytest-of-(user)/pytest-0/x"),
        ("/scratch/jane/x, by jane", "/scratch/(user)/x, by jane"),
        ("https://huggingface.co/jane/model", "https://huggingface.co/jane/model"),
        ("jane/model", "jane/model"),
    ],
)
def test_a_place_is_told_by_its_last_part_at_most(text: str, shown: str) -> None:
    assert SCRUBBER.scrub(text) == shown


@pytest.mark.parametrize(
    "secret",
    [
        "hf_" + "a1B2" * 8,
        "ghp_" + "a1B2" * 9,
        "github_pat_" + "a1B2_" * 9,
    ],
)
def test_a_token_goes_by_its_look(secret: str) -> None:
    assert Scrubber().scrub(f"x={secret};") == "x=(token);"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Authorization: Bearer abcdefghijklmnop.qrst", "Authorization: Bearer (token)"),
        ("https://me:pass@host/x", "https://(token)@host/x"),
        ("https://h/f?X-Amz-Signature=00ff&a=1", "https://h/f?X-Amz-Signature=(token)&a=1"),
        ("https://h/f?Policy=x&Signature=00ff", "https://h/f?Policy=x&Signature=(token)"),
    ],
)
def test_what_opens_an_address_goes_too(text: str, shown: str) -> None:
    assert Scrubber().scrub(text) == shown


def test_what_is_left_of_a_long_value_that_pytest_cut_goes_too() -> None:
    for size in range(6, len(TOKEN)):
        assert SCRUBBER.scrub(f"{{'a': '{TOKEN[:size]}...'}}") == "{'a': '(token)...'}"
        assert SCRUBBER.scrub(f"...{TOKEN[-size:]}'") == "...(token)'"
    alone = Scrubber(paths=PATHS[:1])
    assert alone.scrub(f"('{FOLDER[:-3]}...x')") == "('.../portraits...x')"
    assert alone.scrub(f"(...{FOLDER[-15:]}')") == "(....../portraits')"


def test_json_and_html_stay_what_they_are() -> None:
    folder = PrivatePath(value='/mnt/a/of "x" <b>', shown='.../of "x" <b>', hides_files=True)
    scrub = Scrubber(paths=(folder,)).scrub
    assert json.loads(scrub(json.dumps({"at": f"{folder.value}/a.png"}))) == {
        "at": f"{folder.shown}/(file)"
    }
    page = f"<td>{html.escape(folder.value)}</td>"
    assert scrub(page) == f"<td>{html.escape(folder.shown)}</td>"


REPORT = {
    "schema_version": 7,
    "verdict": "fail",
    "sentence": "extracted is 8, over the limit of 0",
    "checks": [{"name": "carlini", "value": 0.00000001, "count": 12345678, "note": "a 12345678"}],
    "provenance": {"rows per prompt": "2"},
}


@pytest.mark.parametrize(
    "private",
    [
        "schema_version",
        '"verdict": "fail"',
        '"verdict"',
        'fail",\n  "sentence": "',
        "12345678",
        "1e-08,\n",
        "{\n  ",
        "],\n",
        ": [\n",
        '": 7,',
    ],
)
@pytest.mark.parametrize("dumped", [json.dumps(REPORT, indent=2) + "\n"])
def test_whatever_is_private_a_report_stays_true(private: str, dumped: str) -> None:
    for scrubber in (Scrubber(tokens=(private,)), Scrubber(texts=((private, '"pass"'),))):
        clean = json.loads(scrubber.scrub(dumped))
        for check in clean["checks"]:
            check["note"] = REPORT["checks"][0]["note"]  # type: ignore[index]
        assert clean == REPORT
        assert scrubber.scrub(scrubber.scrub(dumped)) == scrubber.scrub(dumped)


def test_a_text_in_a_report_is_private_in_every_form() -> None:
    texts = {f"a {secret} b": [secret, {"c": f"{secret}{secret}"}] for secret in SECRETS}
    dumped = json.dumps(texts, indent=2) + "\n"
    for text in (dumped, dumped[:-3]):  # the second is cut off
        clean = SCRUBBER.scrub(text)
        assert not any(json.dumps(secret)[1:-1] in clean for secret in SECRETS)


def test_an_embedded_picture_is_no_text() -> None:
    picture = 'src="data:image/png;base64,AAA+/home/jane/AAA=" alt="/home/jane"'
    assert SCRUBBER.scrub(picture) == picture.replace('"/home/jane"', '"~"')
    planted = Scrubber(texts=(("AAAAAAAA", "(planted string)"),))
    picture = 'src="data:image/png;base64,AAAAAAAAAAAA=" alt="AAAAAAAA"'
    assert planted.scrub(picture) == picture.replace('"AAAAAAAA"', '"(planted string)"')


def test_a_scrubber_does_not_show_what_it_hides() -> None:
    assert not any(secret in repr(SCRUBBER) for secret in SECRETS)


# Whatever surrounds them: pieces of secrets, quotes, escapes, ordinary words.
PIECES = st.sampled_from(
    [*SECRETS, "...", "/", "'", '"', " ", "\n", "a.png", "~", "/home/jane", "jane", "hf_", "data"]
)
TEXTS = st.lists(st.one_of(PIECES, st.text(max_size=5)), max_size=12).map("".join)


@given(TEXTS)
def test_no_text_keeps_a_secret_and_twice_is_as_good_as_once(text: str) -> None:
    scrubbed = SCRUBBER.scrub(text)
    assert not any(secret in scrubbed for secret in SECRETS)
    assert SCRUBBER.scrub(scrubbed) == scrubbed


@given(st.text(alphabet=st.characters(exclude_characters="/_:.=&z"), max_size=200))
def test_ordinary_text_comes_back_as_it_is(text: str) -> None:
    assert SCRUBBER.scrub(text) == text


def test_a_report_full_of_ordinary_paths_comes_back_as_it_is() -> None:
    text = (
        "tests/test_a.py:12: in test_x\n  assert train#00013 == generated#00017 ... 3/4 (75 %)\n"
        "/usr/lib/python3/site-packages/torch/nn.py::f org/model@1f2e3d4c hub:org/data sha256:00ff "
        "hf_hub_download hf_transfer Signature: x data/portraits .../portraits /home ~/x\n"
    )
    assert SCRUBBER.scrub(text) == text


@pytest.mark.parametrize("piece", ["/", "/a", "5m/a", "hf_", FOLDER + "/a ", "...", "://a:", "@/a"])
def test_the_time_grows_with_the_length(piece: str) -> None:
    def seconds(count: int) -> float:
        text = piece * count
        started = time.perf_counter()
        SCRUBBER.scrub(text)
        return time.perf_counter() - started

    few = min(seconds(2_000) for _ in range(3))
    assert seconds(16_000) < 8 * 6 * few + 0.1  # a quadratic one would take 64 times as long
