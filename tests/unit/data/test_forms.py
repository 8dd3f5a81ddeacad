"""What a decoder reads and writes: the tokens of the parts are the tokens of the whole, in plain and in chat form."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.conftest import byte_level
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tinyllm.data.tokens import Form, Perturbation, SourceTokens, has_seams, tokenize
from tinyllm.errors import UserError
from tinyllm.records import Question
from tinyllm.student import decoder, encoder_decoder

QUESTIONS = [
    Question("plain", "What hums in the kitchen?", ("a kettle", "a lamp"), "a kettle"),
    Question("stops", "It hums. What is it?", ("A kettle.", "A lamp."), "A lamp."),
    Question(
        "passage", " Is the roof white? ", ("yes", "no "), "yes",
        context="Snow falls on the roof (all night).\nThe lamp hums; a kettle hums too.",
    ),
    Question("odd", "5 > 4\nor 3?", ("(b)", "50%"), "(b)", context="  A\ttab, caf\u00e9 \u2026 \n"),
]  # fmt: skip
RATIONALES = {
    "plain": ("A kettle hums when it boils.", "Lamps may hum"),
    "stops": ("Kettles hum. ", " \nLamps do not.\n"),
    "passage": ("", "Night is dark, and 12 roofs are white!"),
    "odd": ("b", "%"),
}
PREFIXES = ("predict: ", "explain: ", "smollm: ")
TARGETS = ("a kettle", " Snow falls.\nThe roof is white. ", "50%")
TOKENIZERS = {
    "gpt2": lambda: byte_level(TEXTS),
    "qwen": lambda: byte_level(TEXTS, "qwen"),
    "qwen, with a first token": lambda: byte_level(TEXTS, "qwen", bos_token="<|first|>"),
}
TEXTS = [
    f"{q.context}\n{q.question}\nAnswer Choices:\n(a) x.\n(b) y.\nRationale: z.\nAnswer: Explain:" for q in QUESTIONS
]
each_tokenizer = pytest.mark.parametrize("make", TOKENIZERS.values(), ids=TOKENIZERS)
each_form = pytest.mark.parametrize("chat", [False, True], ids=["plain", "chat"])


def whole(question: Question, rationale: str, prefix: str, target: str, form: Form, chat: bool) -> str:
    """The text as a person would write it down."""
    context = f"{question.context.strip()}\n" if question.context else ""
    options = "".join(f"({'abc'[i]}) {choice}\n" for i, choice in enumerate(question.choices)).rstrip()
    tail = f"Rationale: {rationale.strip()}\n" if rationale.strip() else ""
    words = {"predict: ": "Answer:", "explain: ": "Explain:", "smollm: ": "Smollm:"}[prefix]
    asked = f"{context}{question.question.strip()}\nAnswer Choices:\n{options}\n{tail}{words}"
    if not chat:
        return f"{form.start}{asked} {target.strip()}"
    first = form.start.partition("<|im_start|>")[0]
    return f"{first}<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n{target.strip()}"


def check_parts(tokenizer: PreTrainedTokenizerBase, chat: bool, cache: Path) -> None:
    form = decoder.form(tokenizer, chat=chat)
    for rationales in (None, RATIONALES):
        sources = SourceTokens(QUESTIONS, tokenizer, 10_000, cache, rationales, form)
        for question in QUESTIONS:
            for option in range(len(question.choices) if rationales else 1):
                for prefix in PREFIXES:
                    for target in TARGETS:
                        parts = [*sources.source(question.id, prefix, option), *sources.lead(prefix)]
                        (ids,) = tokenize([form.target(target)], tokenizer, cache)
                        text = RATIONALES[question.id][option] if rationales else ""
                        expected = whole(question, text, prefix, target, form, chat)
                        assert [*parts, *ids] == tokenizer(expected, add_special_tokens=False)["input_ids"]
            assert len({sources.source(question.id, prefix) for prefix in PREFIXES}) == 1  # it is shared


@each_tokenizer
@each_form
def test_the_parts_have_the_tokens_of_the_whole(make, chat: bool, tmp_path: Path) -> None:
    check_parts(make(), chat, tmp_path)
    tokenizer = make()
    assert not has_seams(tokenizer, decoder.form(tokenizer, chat=chat))


def test_a_tokenizer_that_marks_the_first_word_of_every_part_is_noticed() -> None:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>", "</s>"]))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")
    assert has_seams(fast, decoder.form(fast, chat=False))


@each_form
def test_the_start_of_a_text_stands_there_once(chat: bool, tmp_path: Path) -> None:
    tokenizer = byte_level(TEXTS, bos_token="<|first|>")
    sources = SourceTokens(QUESTIONS, tokenizer, 10_000, tmp_path, None, decoder.form(tokenizer, chat=chat))
    ids = sources.source("plain", "predict: ")
    assert ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.bos_token_id) == 1


def test_what_ends_a_target() -> None:
    tokenizer = byte_level(TEXTS)
    assert decoder.form(tokenizer, chat=False).end == tokenizer.eos_token_id
    assert decoder.form(tokenizer, chat=True).end == tokenizer.convert_tokens_to_ids("<|im_end|>")
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\\n' }}{% endfor %}"
    assert decoder.form(tokenizer, chat=True).end == tokenizer.eos_token_id


def test_a_template_with_a_date_gives_the_same_text_every_day() -> None:
    """As Llama 3.2's does: today's date, unless it is given one."""
    tokenizer = byte_level(TEXTS)
    turns = tokenizer.chat_template
    tokenizer.chat_template = (
        "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y %H:%M:%S') %}{% endif %}"
        "Today: {{ date_string }}\n" + turns
    )
    assert decoder.form(tokenizer, chat=True).start == "Today: 26 Jul 2024\n<|im_start|>user\n"
    tokenizer.chat_template = "Today: {{ strftime_now('%d %B %Y') }}\n" + turns  # whatever it is given
    assert decoder.form(tokenizer, chat=True).start == "Today: 26 Jul 2024\n<|im_start|>user\n"


def test_a_model_that_would_think_first_does_not() -> None:
    tokenizer = byte_level(TEXTS)
    tokenizer.chat_template += "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
    template = decoder.form(tokenizer, chat=True)
    assert template.turn == "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "has no chat template"),
        ("{{ messages[0]['content'] | upper }}", "changes, repeats or drops"),
        ("{{ raise_exception('a system message is needed') }}", "a system message is needed"),
    ],
)
def test_a_chat_without_a_usable_template_is_refused(template: str | None, message: str) -> None:
    tokenizer = byte_level(TEXTS)
    tokenizer.chat_template = template
    with pytest.raises(UserError, match=message):
        decoder.form(tokenizer, chat=True)


def test_a_prefix_without_words_is_refused() -> None:
    with pytest.raises(UserError, match="a prefix with words for every stream of a decoder"):
        decoder.form(byte_level(TEXTS), chat=False).lead(" ")


@each_tokenizer
def test_what_is_cut_still_ends_with_its_newline(make, tmp_path: Path) -> None:
    tokenizer = make()
    form = decoder.form(tokenizer, chat=False)
    question, text = QUESTIONS[2], RATIONALES["passage"][1]
    rest = tokenizer("Is the roof white?\nAnswer Choices:\n(a) yes\n(b) no\n", add_special_tokens=False)["input_ids"]
    full = len(SourceTokens(QUESTIONS, tokenizer, 10_000, tmp_path, RATIONALES, form).source("passage", "predict: ", 1))
    for length in range(len(rest), full + 1):
        sources = SourceTokens(QUESTIONS, tokenizer, length, tmp_path, RATIONALES, form)
        ids = sources.source("passage", "predict: ", 1)
        assert len(ids) <= max(length, len(rest) + bool(form.start))
        read = tokenizer.decode(ids)
        before, between, after = read.removeprefix(form.start).partition(
            "Is the roof white?\nAnswer Choices:\n(a) yes\n(b) no\n"
        )
        assert between and before.rstrip("\n") == question.context[: len(before.rstrip("\n"))]
        assert not before or before.endswith("\n")
        assert not after or (after.startswith("Rationale: ") and after.endswith("\n"))
        assert f"Rationale: {text}".startswith(after.rstrip("\n"))
        assert ("passage" in sources.truncated("predict: ")) == (length < full)


def test_a_spoilt_rationale_keeps_its_newline(tmp_path: Path) -> None:
    tokenizer = byte_level(TEXTS, "qwen")
    form = decoder.form(tokenizer, chat=False)
    sources = SourceTokens(QUESTIONS, tokenizer, 10_000, tmp_path, RATIONALES, form)
    clean = sources.source("plain", "predict: ")
    spoilt = sources.source("plain", "predict: ", 0, Perturbation(1.0, 0.0, "0/0"))
    assert len(spoilt) == len(clean) and spoilt[-1] == clean[-1]
    changed = [i for i, (a, b) in enumerate(zip(clean, spoilt, strict=True)) if a != b]
    assert {tokenizer.decode([spoilt[i]]) for i in changed} == {"_"}
    assert tokenizer.decode(spoilt[: changed[0]]).endswith("\nRationale:")


def test_a_tokenizer_without_an_end_token_is_refused() -> None:
    tokenizer = byte_level([q.question for q in QUESTIONS])
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="end token"):
        decoder.form(tokenizer, chat=False)
    with pytest.raises(UserError, match="end token"):
        encoder_decoder.form(tokenizer, chat=False)
    assert decoder.form(tokenizer, chat=True).end == tokenizer.convert_tokens_to_ids("<|im_end|>")
