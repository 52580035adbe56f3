"""Prompts that were never trained on: exchangeable with the given ones, and never one of them."""

from __future__ import annotations

import itertools
import string
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_memscan.data.negatives import random_strings, recombined


def classes(text: str) -> str:
    """The pattern of a string: a class for each ASCII letter or digit, everything else itself."""
    known = {**dict.fromkeys(string.ascii_lowercase, "a"), **dict.fromkeys(string.digits, "0")}
    known |= dict.fromkeys(string.ascii_uppercase, "A")
    return "".join(known.get(letter, letter) for letter in text)


def same(text: str) -> str:
    return " ".join(text.casefold().split())


def test_random_strings_are_keys_of_lower_case_letters_and_digits() -> None:
    made = random_strings(500, seed=3)
    assert len(set(made)) == 500
    assert {len(text) for text in made} == {12}
    counts = Counter("".join(made))
    assert set(counts) == set(string.ascii_lowercase + string.digits)
    expected = 500 * 12 / 36
    statistic = sum((count - expected) ** 2 / expected for count in counts.values())
    assert statistic < 66.6  # chi-square, 35 degrees of freedom: exceeded once in 1,000 seeds


def test_random_strings_depend_on_the_seed_alone() -> None:
    assert random_strings(3, seed=1) == ("ieqh524yng5b", "y1a2rogubbb8", "ayn1b7o259ow")
    assert random_strings(5, seed=1)[:3] == random_strings(3, seed=1)
    assert not set(random_strings(9, seed=1)) & set(random_strings(9, seed=2))
    assert random_strings(0, seed=1) == ()


def test_random_strings_like_keys_take_their_patterns_in_turn() -> None:
    keys = ["zkq7-XB", "photo of a 9tq é", "zkq7-XB"]
    made = random_strings(7, seed=0, like=keys)
    assert [classes(text) for text in made] == [classes(keys[n % 3]) for n in range(7)]


@given(
    keys=st.lists(st.text(max_size=8), max_size=4),
    exclude=st.lists(st.text(max_size=3), max_size=4),
    count=st.integers(0, 30),
    seed=st.integers(0, 2**32),
)
def test_random_strings_are_new_and_of_the_patterns(
    keys: list[str], exclude: list[str], count: int, seed: int
) -> None:
    made = random_strings(count, seed=seed, like=keys, exclude=exclude)
    assert made == random_strings(count, seed=seed, like=keys, exclude=exclude)
    assert len(made) <= count
    folded = [text.casefold() for text in made]
    assert len(set(folded)) == len(folded)
    assert not set(folded) & {text.casefold() for text in (*keys, *exclude)}
    patterns = {classes(key) for key in keys} or {classes(text) for text in made}
    assert {classes(text) for text in made} <= patterns


def test_a_pattern_that_has_no_other_strings_gives_fewer() -> None:
    assert sorted(random_strings(30, seed=0, like=["7"])) == [*"012345689"]
    assert random_strings(5, seed=0, like=["--", ""]) == ()
    assert sorted(random_strings(20, seed=0, like=["7", "!"], exclude=["0", "1"])) == [*"2345689"]
    made = random_strings(12, seed=0, like=["7", "abcdef"])
    assert Counter(map(len, made)) == {1: 6, 6: 6}


def test_a_key_may_not_come_back_in_capitals() -> None:
    assert len(random_strings(100, seed=0, like=["a"], exclude=["B", "C"])) == 23


def cuts(prompt: str) -> set[tuple[str, str]]:
    """Both parts of a prompt, for every cut between words in its middle third."""
    words = prompt.split()
    return {
        (" ".join(words[:at]), " ".join(words[at:]))
        for at in range(1, len(words))
        if len(words) <= 3 * at <= 2 * len(words)
    }


WORDS = st.lists(st.sampled_from(["red", "cat", "dog", "the", "7"]), min_size=1, max_size=6)
PROMPTS = st.lists(WORDS.map(" ".join), max_size=7, unique=True)


@given(prompts=PROMPTS, count=st.integers(0, 60), seed=st.integers(0, 2**32))
def test_recombined_prompts_are_halves_of_different_prompts_and_new(
    prompts: list[str], count: int, seed: int
) -> None:
    made = recombined(prompts, count, seed=seed)
    assert made == recombined(prompts, count, seed=seed)
    assert len(made) <= count
    assert len({same(text) for text in made}) == len(made)
    assert not {same(text) for text in made} & {same(prompt) for prompt in prompts}
    possible = {
        f"{head} {tail}"
        for one, other in itertools.permutations(prompts, 2)
        for head, _ in cuts(one)
        for _, tail in cuts(other)
    }
    assert set(made) <= possible


@given(
    prompts=st.lists(
        st.tuples(*[st.sampled_from("abc")] * 2).map(" ".join), max_size=9, unique=True
    ),
    seed=st.integers(0, 99),
)
def test_of_prompts_with_one_cut_every_combination_is_found(prompts: list[str], seed: int) -> None:
    halves = [tuple(prompt.split()) for prompt in prompts]
    every = {f"{one[0]} {other[1]}" for one in halves for other in halves} - set(prompts)
    assert set(recombined(prompts, 1000, seed=seed)) == every
    assert len(recombined(prompts, 3, seed=seed)) == min(3, len(every))


@pytest.mark.parametrize(
    "prompts", [[], ["one two three"], ["cat", "dog"], ["cat", "red dog"], ["a b", "A  B"]]
)
def test_where_nothing_can_be_recombined_there_is_nothing(prompts: list[str]) -> None:
    assert recombined(prompts, 5, seed=0) == ()


def test_words_are_cut_in_the_middle_third() -> None:
    long = " ".join(f"w{n}" for n in range(30))
    heads = {len(recombined([long, "x y"], 1, seed=seed)[0].split()) for seed in range(400)}
    # w0 .. w(k-1) y with 10 <= k <= 20, or x with the 10 to 20 words that are left.
    assert heads == set(range(11, 22))


def test_a_long_list_gives_what_is_asked_for_and_every_prompt_may_take_part() -> None:
    prompts = [f"alpha{n} beta{n} gamma{n} delta{n}" for n in range(12_000)]
    made = recombined(prompts, 2000, seed=0)
    assert len(set(made)) == 2000
    used = {int(word.strip(string.ascii_lowercase)) for text in made for word in text.split()}
    assert len(used) > 3000  # of at most 4,000
    assert min(used) < 100
    assert max(used) > 11_900


def test_a_long_list_with_few_combinations_ends() -> None:
    prompts = [f"same {n}" for n in range(400)]
    assert recombined(prompts, 50, seed=0) == ()


@pytest.mark.parametrize(
    "make", [random_strings, lambda count, seed: recombined([], count, seed=seed)]
)
def test_a_negative_count_is_refused(make: object) -> None:
    with pytest.raises(ValueError, match="count must not be negative, got -1"):
        make(-1, seed=0)  # type: ignore[operator]
