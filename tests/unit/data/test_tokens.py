"""The token cache on disk, and sources whose context alone gives way."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.hub_layout import flan_t5, sharded_decoder
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tinyllm.data import tokens
from tinyllm.data.tokens import Perturbation, SourceTokens, mask_id, tokenize, word_ids
from tinyllm.prompts import student_source
from tinyllm.records import Question
from tinyllm.student.tokenizer import train_tokenizer

TEXTS = ["The kettle hums.", "A lamp, then a second lamp!", "", "snow falls  on\nthe roof"]
QUESTIONS = [
    Question("plain", "What hums in the kitchen?", ("a kettle", "a lamp"), "a kettle"),
    Question(
        "passage",
        "Is the roof white?",
        ("yes", "no", "maybe"),
        "yes",
        context="Snow falls on the roof (all night). The lamp hums; a second kettle hums too.\nThen the snow stays",
    ),
    Question("odd", "(b) or the lamp?", ("(b)", "50% of it"), "(b)", context="  A\ttab, and   spaces \u2026 "),
]
PREFIXES = ("predict: ", "explain: ", "rationale: ")


def scratch() -> PreTrainedTokenizerBase:
    texts = [*TEXTS, *PREFIXES, *("".join(student_source(q, "")) for q in QUESTIONS[:2])]
    return train_tokenizer(texts, 400)


def unigram() -> PreTrainedTokenizerBase:
    """Built as FLAN-T5's fast tokenizer is: spaces split first, then Metaspace before every word."""
    pieces = ["<pad>", "</s>", "<unk>", "\u2581", "\u2581the", "\u2581lamp", "\u2581hum", "\u2581predict", "\u2581Snow"]
    letters = sorted({c for q in QUESTIONS for part in student_source(q, "") for c in part if not c.isspace()})
    entries = pieces + [c for c in letters if c not in pieces] + ["s", "(a", "ex", "plain"]
    unique = list(dict.fromkeys(entries))
    inner = Tokenizer(models.Unigram([(piece, -float(i) / 10) for i, piece in enumerate(unique)], unk_id=2))
    inner.normalizer = normalizers.NFKC()
    inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


class Locked:
    """A tokenizer of the same content that may not be run."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.backend_tokenizer = tokenizer.backend_tokenizer
        self.eos_token_id = tokenizer.eos_token_id
        self.added_tokens_decoder = tokenizer.added_tokens_decoder

    def __call__(self, *_: object, **__: object) -> None:
        raise AssertionError("the texts were tokenized again")


def folders(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir())


def test_ids_are_the_tokenizers_own_without_an_end_token(tmp_path: Path) -> None:
    tokenizer = scratch()
    ids = tokenize(TEXTS, tokenizer, tmp_path)
    assert ids == [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS]
    assert ids[2] == [] and all(tokenizer.eos_token_id not in row for row in ids)


def test_the_second_call_reads_the_disk(tmp_path: Path) -> None:
    tokenizer = scratch()
    first = tokenize(TEXTS, tokenizer, tmp_path / "new" / "cache")
    assert tokenize(TEXTS, Locked(tokenizer), tmp_path / "new" / "cache") == first
    with pytest.raises(AssertionError, match="tokenized again"):
        tokenize(TEXTS, Locked(tokenizer), tmp_path / "other")


def test_other_texts_or_another_tokenizer_are_another_folder(tmp_path: Path) -> None:
    tokenizer = scratch()
    tokenize(TEXTS, tokenizer, tmp_path)
    changed = [
        TEXTS[::-1],
        [*TEXTS, ""],
        ["The kettle hums", ".A lamp, then a second lamp!", *TEXTS[2:]],  # the same characters, cut elsewhere
    ]
    for number, texts in enumerate(changed, start=2):
        assert tokenize(texts, tokenizer, tmp_path) == [tokenizer.encode(t, add_special_tokens=False) for t in texts]
        assert len(folders(tmp_path)) == number
    other = train_tokenizer(TEXTS, 90)
    assert tokenize(TEXTS, other, tmp_path) == [other.encode(t, add_special_tokens=False) for t in TEXTS]
    assert len(folders(tmp_path)) == 5


def test_no_texts_write_nothing(tmp_path: Path) -> None:
    assert tokenize([], Locked(scratch()), tmp_path / "cache") == []
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("damage", ["empty folder", "cut arrow", "empty arrow", "cut state", "no info"])
def test_a_broken_folder_is_made_anew(tmp_path: Path, damage: str) -> None:
    tokenizer = scratch()
    first = tokenize(TEXTS, tokenizer, tmp_path)
    (folder,) = tmp_path.iterdir()
    (arrow,) = folder.glob("*.arrow")
    match damage:
        case "empty folder":
            for file in folder.iterdir():
                file.unlink()
        case "cut arrow":
            arrow.write_bytes(arrow.read_bytes()[: arrow.stat().st_size // 2])
        case "empty arrow":
            arrow.write_bytes(b"")
        case "cut state":
            state = folder / "state.json"
            state.write_text(state.read_text()[:20])
        case "no info":
            (folder / "dataset_info.json").unlink()
    assert tokenize(TEXTS, tokenizer, tmp_path) == first
    assert tokenize(TEXTS, Locked(tokenizer), tmp_path) == first
    assert folders(tmp_path) == [folder.name]


def test_another_process_that_was_first_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder appears between the look and the renaming: it stays, and no draft is left behind."""
    tokenizer = scratch()
    rename = tokens.os.rename

    def late(source: str, target: Path) -> None:
        monkeypatch.setattr(tokens.os, "rename", rename)
        tokenize(TEXTS, tokenizer, tmp_path)
        (Path(target) / "mark").touch()
        rename(source, target)

    monkeypatch.setattr(tokens.os, "rename", late)
    ids = tokenize(TEXTS, tokenizer, tmp_path)
    (folder,) = tmp_path.iterdir()
    assert (folder / "mark").exists()
    assert tokenize(TEXTS, Locked(tokenizer), tmp_path) == ids


def _in_a_process(cache: str, barrier, results) -> None:  # type: ignore[no-untyped-def]
    tokenizer = scratch()
    barrier.wait(20)
    results.put(tokenize(TEXTS * 50, tokenizer, Path(cache)))


def test_two_processes_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(2), context.Queue()
    workers = [context.Process(target=_in_a_process, args=(str(tmp_path), barrier, results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    first, second = results.get(timeout=30), results.get(timeout=30)
    for worker in workers:
        worker.join(20)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len(folders(tmp_path)) == 1
    assert first == second == tokenize(TEXTS * 50, Locked(scratch()), tmp_path)


@pytest.mark.parametrize("make", [scratch, unigram])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_source_equals_its_joined_text_in_tokens(make, prefix: str, tmp_path: Path) -> None:
    """Parts are tokenized apart, so that the context can be cut: nothing may change at the seams."""
    tokenizer = make()
    sources = SourceTokens(QUESTIONS, tokenizer, 10_000, tmp_path)
    for question in QUESTIONS:
        joined = tokenizer("".join(student_source(question, prefix)), add_special_tokens=False)["input_ids"]
        assert sources.source(question.id, prefix) == (*joined, tokenizer.eos_token_id)
    assert sources.truncated(prefix) == []


@pytest.mark.parametrize("make", [scratch, unigram])
def test_the_context_is_cut_from_its_end_and_nothing_else(make, tmp_path: Path) -> None:
    tokenizer, prefix = make(), "explain: "
    whole = SourceTokens(QUESTIONS, tokenizer, 10_000, tmp_path)
    head = tokenizer(prefix, add_special_tokens=False)["input_ids"]
    for question in QUESTIONS:
        rest = tokenizer(student_source(question, "")[2], add_special_tokens=False)["input_ids"]
        fixed, full = len(head) + len(rest) + 1, whole.source(question.id, prefix)
        context = list(full[len(head) : len(full) - len(rest) - 1])
        for length in range(fixed, len(full) + 3):
            cut = SourceTokens(QUESTIONS, tokenizer, length, tmp_path)
            source = cut.source(question.id, prefix)
            assert len(source) == min(length, len(full))
            assert source == (*head, *context[: length - fixed], *rest, tokenizer.eos_token_id)
            assert (question.id in cut.truncated(prefix)) == (length < len(full))


def test_question_and_options_stay_whole_in_any_room(tmp_path: Path) -> None:
    tokenizer = scratch()
    whole = SourceTokens(QUESTIONS, tokenizer, 10_000, tmp_path)
    tight = SourceTokens(QUESTIONS, tokenizer, 1, tmp_path)
    assert tight.source("plain", "predict: ") == whole.source("plain", "predict: ")
    bare = Question("passage", QUESTIONS[1].question, QUESTIONS[1].choices, "yes")
    alone = SourceTokens([bare], tokenizer, 10_000, tmp_path)
    assert tight.source("passage", "predict: ") == alone.source("passage", "predict: ")
    assert tight.truncated("predict: ") == ["passage", "odd"]  # without a context nothing is lost


def test_a_longer_prefix_leaves_less_room(tmp_path: Path) -> None:
    """So the same question may lose context in one stream alone."""
    tokenizer = scratch()
    questions = QUESTIONS[:2]
    length = len(SourceTokens(questions, tokenizer, 10_000, tmp_path).source("passage", "predict: "))
    sources = SourceTokens(questions, tokenizer, length, tmp_path)
    longer = "explain: rationale: "
    assert sources.truncated("predict: ") == []
    assert sources.truncated(longer) == ["passage"]
    assert len(sources.source("passage", longer)) == length


def test_sources_are_found_by_id(tmp_path: Path) -> None:
    tokenizer = scratch()
    forth = SourceTokens(QUESTIONS, tokenizer, 40, tmp_path)
    back = SourceTokens(QUESTIONS[::-1], tokenizer, 40, tmp_path)
    for question in QUESTIONS:
        assert forth.source(question.id, "predict: ") == back.source(question.id, "predict: ")
    with pytest.raises(KeyError):
        forth.source("unknown", "predict: ")


RATIONALES = {
    "plain": ("Water boils in a kettle,\nand then it hums (b). Indeed (a kettle).", "A lamp may hum."),
    "passage": ("(a) Snow is white.", " \n", "The lamp hums in the snow, too."),
}


def rationale(question: Question, option: int) -> str:
    return RATIONALES[question.id][option] if question.id in RATIONALES else ""


def size(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    return len(tokenizer(text.strip(), add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("make", [scratch, unigram])
def test_every_option_has_the_source_of_its_own_rationale(make, tmp_path: Path) -> None:
    tokenizer = make()
    sources = SourceTokens(QUESTIONS, tokenizer, 10_000, tmp_path, RATIONALES)
    plain = SourceTokens(QUESTIONS, tokenizer, 10_000, tmp_path)
    assert sources.by_option and not plain.by_option
    assert not SourceTokens(QUESTIONS, tokenizer, 10_000, tmp_path, {}).by_option
    for question in QUESTIONS:
        expected = []
        for option in range(len(question.choices)):
            whole = "".join(student_source(question, "predict: ", rationale(question, option)))
            joined = tokenizer(whole, add_special_tokens=False)["input_ids"]
            expected.append((*joined, tokenizer.eos_token_id))
            assert sources.source(question.id, "predict: ", option) == expected[option]
            assert plain.source(question.id, "predict: ", option) == plain.source(question.id, "predict: ")
        assert sources.sources(question.id, "predict: ") == tuple(expected)
        assert plain.sources(question.id, "predict: ") == (plain.source(question.id, "predict: "),)
    assert sources.source("passage", "predict: ", 1) == plain.source("passage", "predict: "), "an empty text"
    assert sources.source("odd", "predict: ", 1) == plain.source("odd", "predict: ")
    assert len(set(sources.sources("passage", "predict: "))) == 3


def test_a_question_has_as_many_rationales_as_options(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"plain: .*2 options, found 1"):
        SourceTokens(QUESTIONS, scratch(), 100, tmp_path, {**RATIONALES, "plain": ("Water boils.",)})


def test_the_context_gives_way_first_and_the_rationale_after_it(tmp_path: Path) -> None:
    tokenizer = scratch()
    label = tokenizer("\nRationale:", add_special_tokens=False)["input_ids"]
    parts = {
        (question, option): [
            tokenizer(part, add_special_tokens=False)["input_ids"]
            for part in student_source(question, "predict: ", rationale(question, option))
        ]
        for question in QUESTIONS[:2]
        for option in range(len(question.choices))
    }
    for length in range(1, max(sum(map(len, own)) for own in parts.values()) + 3):
        sources = SourceTokens(QUESTIONS, tokenizer, length, tmp_path, RATIONALES)
        lost: set[str] = set()
        for (question, option), (prefix, context, rest, tail) in parts.items():
            room = max(0, length - len(prefix) - len(rest) - 1)
            kept_tail = tail[:room] if room > len(label) else []
            kept_context = context[: room - len(kept_tail)]
            expected = (*prefix, *kept_context, *rest, *kept_tail, tokenizer.eos_token_id)
            assert sources.source(question.id, "predict: ", option) == expected
            if (kept_context, kept_tail) != (context, tail):
                lost.add(question.id)
        assert set(sources.truncated("predict: ")) - {"odd"} == lost, "of one option or more"


def changes(sources: SourceTokens, option: int, how: Perturbation) -> dict[int, int]:
    """Position -> new token, where the source of "plain" is changed."""
    clear, spoilt = (sources.source("plain", "predict: ", option, each) for each in (None, how))
    return {i: b for i, (a, b) in enumerate(zip(clear, spoilt, strict=True)) if a != b}


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_a_share_of_the_rationale_is_masked_and_nothing_else(share: float, tmp_path: Path) -> None:
    tokenizer = scratch()
    sources = SourceTokens(QUESTIONS, tokenizer, 10_000, tmp_path, RATIONALES)
    for option, text in enumerate(RATIONALES["plain"]):
        count, length = size(tokenizer, text), len(sources.source("plain", "predict: ", option))
        hidden: set[int] = set()
        for draw in range(30):
            how = Perturbation(share, 0.0, f"0/{draw}")
            changed = changes(sources, option, how)
            assert set(changed.values()) <= {tokenizer.unk_token_id}
            assert len(changed) == round(share * count)
            assert all(length - 1 - count <= i < length - 1 for i in changed)
            assert changed == changes(sources, option, how)
            hidden.update(changed)
        assert len(hidden) == (count if share else 0), "every token has its turn"
    assert sources.source("odd", "predict: ", 0, how) == sources.source("odd", "predict: ")


def test_a_share_of_the_rationale_is_replaced_with_random_words(tmp_path: Path) -> None:
    tokenizer = scratch()
    sources = SourceTokens(QUESTIONS, tokenizer, 10_000, tmp_path, RATIONALES)
    count = size(tokenizer, RATIONALES["plain"][0])
    found = [changes(sources, 0, Perturbation(0.0, 0.5, f"0/{draw}")) for draw in range(200)]
    new = [token for changed in found for token in changed.values()]
    # A word may stand in for itself, now and then.
    assert 0.97 * 200 * round(0.5 * count) < len(new) <= 200 * round(0.5 * count)
    assert len(set(new)) > 0.9 * (len(tokenizer) - 3) and not set(new) & {0, 1, 2}


def test_a_question_is_masked_or_replaced_with_equal_chance(tmp_path: Path) -> None:
    """All options of a question alike, each with a draw of its own."""
    tokenizer = scratch()
    sources = SourceTokens(QUESTIONS, tokenizer, 10_000, tmp_path, {**RATIONALES, "plain": ("A lamp may hum.",) * 2})
    masked = []
    for draw in range(200):
        how = Perturbation(1.0, 1.0, f"0/{draw}")
        first, second = (changes(sources, option, how) for option in (0, 1))
        masked.append(set(first.values()) == {tokenizer.unk_token_id})
        assert masked[-1] == (set(second.values()) == {tokenizer.unk_token_id}) == (first == second)
    assert 70 < sum(masked) < 130


def test_words_of_the_vocabulary_are_all_but_special_tokens() -> None:
    tokenizer = scratch()
    assert word_ids(tokenizer) == list(range(3, len(tokenizer)))
    assert mask_id(tokenizer) == tokenizer.unk_token_id
    tokenizer.add_tokens(["<extra_id_0>"], special_tokens=True)
    assert mask_id(tokenizer) == tokenizer.convert_tokens_to_ids("<extra_id_0>") != tokenizer.unk_token_id
    assert word_ids(tokenizer) == list(range(3, len(tokenizer) - 1))


@pytest.mark.parametrize("files", [flan_t5, sharded_decoder])
def test_a_special_token_that_a_text_names_is_split(tmp_path: Path, files: Callable[[Path], Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(files(tmp_path / "model"))
    named = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    texts = [f"a{name}b" for name in named]
    assert all(set(tokenizer(text, add_special_tokens=False)["input_ids"]) & special_ids(tokenizer) for text in texts)
    for name, ids in zip(named, tokenize(texts, tokenizer, tmp_path / "cache"), strict=True):
        assert not set(ids) & (special_ids(tokenizer) - {tokenizer.unk_token_id}), name
    assert tokenize(["a < b"], tokenizer, tmp_path / "cache") == [
        tokenizer("a < b", add_special_tokens=False)["input_ids"]
    ]


def special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    return set(tokenizer.all_special_ids) | {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
