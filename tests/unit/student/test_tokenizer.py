"""The tokenizer of students from scratch: whole words, characters as the fallback."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tinyllm.student.tokenizer import END, PAD, UNKNOWN, train_tokenizer

TEXTS = [
    "Which tool measures a plank?\nAnswer Choices:\n(a) a ruler\n(b) a whisk\n(c) a bell",
    "A ruler has marks, so it measures length; a whisk doesn't. The plank is 2.5 metres long!",
    "The bell rings (loudly) at noon, and nobody measures it - it's only a bell.",
    'They said: "measure twice, cut once". A plank costs $5, or 10% less on Monday.',
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, 1000)


def ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def back(tokenizer: PreTrainedTokenizerFast, text: str) -> str:
    return tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True)


@pytest.mark.parametrize(
    "text",
    [
        "A ruler measures a plank.",
        "The bell (loudly) rings; it's 2.5 metres, isn't it?",
        'They said: "measure twice, cut once".',
        "10% less: $5 - only on Monday!",
        "(b) a whisk",
        "sandcastles metrical (c)",  # words that the texts do not hold
        "",
    ],
)
def test_english_comes_back_as_it_was(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert back(tokenizer, text) == text


def test_spaces_and_newlines_become_single_spaces(tokenizer: PreTrainedTokenizerFast) -> None:
    assert back(tokenizer, "  The  bell\n\trings. ") == "The bell rings."
    assert ids(tokenizer, "The bell\n(b) rings") == ids(tokenizer, " The   bell (b) rings ")


def test_special_tokens_have_t5s_numbers_and_the_end_is_added(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.convert_tokens_to_ids([PAD, END, UNKNOWN]) == [0, 1, 2]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    assert tokenizer("The bell")["input_ids"] == [*ids(tokenizer, "The bell"), 1]


@pytest.mark.parametrize("word", ["measures", "ruler", "Answer", "(a)", "(b)", "(c)"])
def test_a_known_word_and_an_options_letter_are_one_token(tokenizer: PreTrainedTokenizerFast, word: str) -> None:
    (token,) = tokenizer.tokenize(word)
    assert token == f"\u2581{word}"


def test_signs_are_tokens_of_their_own(tokenizer: PreTrainedTokenizerFast) -> None:
    """Or `bell.` and `bell` would be two words."""
    assert ids(tokenizer, "The bell.")[:2] == ids(tokenizer, "The bell")
    assert ids(tokenizer, "bell, ruler; plank!")[::2] == [ids(tokenizer, w)[0] for w in ("bell", "ruler", "plank")]


def test_a_letter_outside_of_options_is_no_options_letter(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(ids(tokenizer, "(loudly)")) == 4  # a space, two signs and a word
    assert len(ids(tokenizer, "(B)")) == 4


def test_unknown_words_fall_back_to_their_characters(tokenizer: PreTrainedTokenizerFast) -> None:
    tokens = tokenizer.tokenize("sandcastles")
    assert len(tokens) == len("\u2581sandcastles")
    assert UNKNOWN not in tokens
    assert ids(tokenizer, "a sandcastles bell") == [i for w in ("a", "sandcastles", "bell") for i in ids(tokenizer, w)]


def test_a_long_unknown_word_is_not_lost(tokenizer: PreTrainedTokenizerFast) -> None:
    """WordPiece gives up on words over 100 characters unless told otherwise."""
    assert back(tokenizer, "lo" * 300) == "lo" * 300


def test_unknown_characters_become_unknown_tokens_and_harm_no_neighbour(tokenizer: PreTrainedTokenizerFast) -> None:
    assert "\u2603" not in "".join(TEXTS)
    whole = ids(tokenizer, "The bell\u2603 rings")
    assert whole == [i for w in ("The", "bell") for i in ids(tokenizer, w)] + [2, *ids(tokenizer, "rings")]
    assert tokenizer.decode(whole, skip_special_tokens=True) == "The bell rings"
    inside = ids(tokenizer, "be\u00e9ll")
    assert 2 in inside and 2 not in ids(tokenizer, "bell")


def test_size_is_bounded_and_the_most_frequent_words_stay() -> None:
    characters = train_tokenizer(TEXTS, 1000).get_vocab()
    least = 3 + sum(len(token.removeprefix("\u2040")) == 1 for token in characters if token not in (PAD, END, UNKNOWN))
    sizes = {}
    for size in (least, least + 1, least + 5, 1000):
        tokenizer = train_tokenizer(TEXTS, size)
        assert len(tokenizer) <= size
        sizes[size] = set(tokenizer.get_vocab())
        assert back(tokenizer, TEXTS[1]) == TEXTS[1]
    assert sizes[least + 1] - sizes[least] == {"\u2581a"}  # five of them, more than of any other word
    assert sizes[least] < sizes[least + 1] < sizes[least + 5] < sizes[1000]
    with pytest.raises(ValueError, match=rf"\b{least}\b.*found {least - 1}$"):
        train_tokenizer(TEXTS, least - 1)


def test_ids_are_dense(tokenizer: PreTrainedTokenizerFast) -> None:
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))


def test_it_loads_through_auto_tokenizer(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(str(tmp_path))
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert (loaded.pad_token, loaded.eos_token, loaded.unk_token) == (PAD, END, UNKNOWN)
    for text in (*TEXTS, "sandcastles \u2603 (b)", "  two  spaces"):
        assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert back(loaded, text) == back(tokenizer, text)


def test_the_order_of_the_texts_does_not_matter(tokenizer: PreTrainedTokenizerFast) -> None:
    assert train_tokenizer(reversed(TEXTS), 1000).get_vocab() == tokenizer.get_vocab()


def test_another_process_builds_the_same_one(tokenizer: PreTrainedTokenizerFast) -> None:
    """Its content names the token cache, and every process of a DDP run builds its own."""
    code = (
        "import hashlib, json, sys; from tinyllm.student.tokenizer import train_tokenizer; "
        "t = train_tokenizer(json.load(sys.stdin), 1000); "
        "print(hashlib.sha256(t.backend_tokenizer.to_str().encode()).hexdigest())"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(TEXTS), capture_output=True, text=True, check=True
    )
    own = train_tokenizer(TEXTS, 1000).backend_tokenizer.to_str()
    assert found.stdout.strip() == hashlib.sha256(own.encode()).hexdigest()
