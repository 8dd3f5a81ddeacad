"""minilab: the facts are sound, the draw is fair, and the teachers err as often as they say."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from tinyllm.config import Knows, World
from tinyllm.data.minilab import (
    ERROR_SHARES,
    FAMILIES,
    FREE_ERROR_SHARES,
    VOICES,
    answer_freely,
    explain,
    facts_of,
    generate,
    is_wrong,
    knows_link,
)
from tinyllm.errors import UserError
from tinyllm.records import SPLITS, Question, Split

Draw = dict[Split, list[Question]]

STOP_WORDS = set(
    re.findall(
        r"\w+",
        """a an the of to in on at by for with from and or not no that which who is are be it its as if how what so than
        into out off up down over under while until have has had do does can may could will one two both each every
        some any more most this their our your his her he she you they them itself themselves without too very enough
        between among after before during through""",
    )
)


@pytest.fixture(scope="module", params=[0, 1])
def draw(request: pytest.FixtureRequest) -> Draw:
    return generate(request.param)


def groups(draw: Draw) -> Iterator[list[Question]]:
    """The questions of each split by subset, those of train by kind."""
    for split in SPLITS:
        names = {question.id: question.subset or facts_of(question).kind for question in draw[split]}
        for name in sorted(set(names.values())):
            yield [question for question in draw[split] if names[question.id] == name]


def content_words(text: str) -> set[str]:
    return {word for word in re.findall(r"[^\W\d_]+", text.lower()) if word not in STOP_WORDS and len(word) > 2}


def share_a_cue(one: str, other: str) -> bool:
    """Whether two texts share a content word, roughly by its stem: the first four letters, or one inside another."""
    for a, b in itertools.product(content_words(one), content_words(other)):
        same_stem = min(len(a), len(b)) >= 4 and (a[:4] == b[:4] or a in b or b in a)
        if a == b or same_stem:
            return True
    return False


# The knowledge base


def test_knowledge_base_has_its_shape() -> None:
    assert len(FAMILIES) == 8
    for family in FAMILIES.values():
        assert len(family.properties) == 7
        assert len(set(family.settings)) == 8
        assert len(family.questions) >= 2
        assert all("{situation}" in template for template in family.questions)
        assert all(template.startswith(family.questions) for template in family.templates("choice"))
        assert "{object}" in family.choice
        assert len(family.has) == len(VOICES) and all("{property}" in phrase for phrase in family.has)
        objects = [thing for prop in family.properties.values() for thing in prop.objects]
        assert len(objects) == len(set(objects)) == 28


def test_settings_say_nothing_about_properties() -> None:
    # One situation of each property in each setting: the mutual information of setting and property is zero.
    for family in FAMILIES.values():
        for prop in family.properties.values():
            assert list(prop.situations) == list(family.settings), (family.key, prop.key)


def test_situations_are_all_different() -> None:
    texts = [
        text for family in FAMILIES.values() for prop in family.properties.values() for text in prop.situations.values()
    ]
    assert len(texts) == len(set(texts)) == 448


def test_no_cue_words_between_situations_and_their_objects() -> None:
    clashes = [
        (family.key, situation, name)
        for family in FAMILIES.values()
        for prop in family.properties.values()
        for situation in prop.situations.values()
        for name in (*prop.objects, prop.name)
        if share_a_cue(situation, name)
    ]
    assert clashes == []


def test_situations_of_a_property_share_few_words() -> None:
    # Otherwise a hidden situation could be answered from its likeness to a visible one, without any rationale.
    for family in FAMILIES.values():
        for prop in family.properties.values():
            counts = Counter(word for text in prop.situations.values() for word in content_words(text))
            assert max(counts.values()) <= 2, (family.key, prop.key, counts.most_common(3))
            assert sum(count > 1 for count in counts.values()) <= 2, (family.key, prop.key, counts.most_common(4))


# The draw


def test_sizes(draw: Draw) -> None:
    assert {split: len(questions) for split, questions in draw.items()} == {"train": 9280, "valid": 192, "test": 512}
    assert Counter(question.subset for question in draw["valid"]) == {"visible": 64, "hidden": 128}
    assert Counter(question.subset for question in draw["test"]) == {"visible": 256, "hidden": 256}
    assert Counter(facts_of(question).kind for question in draw["train"]) == {"object": 6720, "choice": 2560}
    assert all(len(set(question.choices)) == 4 for split in SPLITS for question in draw[split])


def test_same_seed_gives_the_same_questions_in_another_process() -> None:
    code = (
        "from tinyllm.data.minilab import generate, explain; test = generate(3)['test']; "
        "print(test[:9], explain(test[0], 'wordy'))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    here = generate(3)["test"]
    assert outputs == {f"{here[:9]} {explain(here[0], 'wordy')}\n"}


def test_seeds_hide_different_situations() -> None:
    def hidden(seed: int) -> set[str]:
        return {facts_of(question).situation for question in generate(seed)["test"] if question.subset == "hidden"}

    assert len(hidden(0)) == len(hidden(1)) == 32
    assert len(hidden(0) & hidden(1)) < 20


def test_an_id_means_the_same_question_whatever_the_seed() -> None:
    seen: dict[str, Question] = {}
    for seed in range(4):
        for question in itertools.chain.from_iterable(generate(seed).values()):
            facts = facts_of(question)
            assert facts.question(question.subset) == question
            known = seen.setdefault(question.id, question)
            assert (known.question, known.choices, known.answer) == (
                question.question,
                question.choices,
                question.answer,
            )


def test_the_seed_gives_the_same_held_out_questions_in_both_worlds() -> None:
    for seed in (0, 1):
        first, second = generate(seed), generate(seed, World.answers_suffice)
        assert first["valid"] == second["valid"] and first["test"] == second["test"]
        assert set(first["train"]) < set(second["train"])
        assert len(second["train"]) == 13312


def test_no_question_twice_and_no_pair_in_two_splits(draw: Draw) -> None:
    asked = [(question.question, question.choices) for split in SPLITS for question in draw[split]]
    assert len(asked) == len(set(asked))
    ids = [question.id for split in SPLITS for question in draw[split]]
    assert len(ids) == len(set(ids))
    pairs = {split: {(facts_of(q).situation, q.answer) for q in draw[split]} for split in SPLITS}
    assert not pairs["valid"] & pairs["test"]
    suitable = {(facts_of(q).situation, facts_of(q).option_text(facts_of(q).suitable_option)) for q in draw["train"]}
    assert not suitable & (pairs["valid"] | pairs["test"]), "no question of either kind offers a held-out pair"


def test_questions_on_one_pair_are_a_group(draw: Draw) -> None:
    """A held-out pair is asked 4 times where it is visible, 8 times where it is hidden; a training pair 28 times."""
    for split in SPLITS:
        pairs: dict[tuple[str, str, str], list[Question]] = {}
        for question in draw[split]:
            facts = facts_of(question)
            pairs.setdefault((facts.situation, facts.kind, question.answer), []).append(question)
        groups = [{question.group for question in asked} for asked in pairs.values()]
        assert all(len(names) == 1 for names in groups) and len(set.union(*groups)) == len(pairs)
        sizes = {(asked[0].subset, len(asked)) for (_, kind, _), asked in pairs.items() if kind == "object"}
        assert sizes == ({("", 28)} if split == "train" else {("visible", 4), ("hidden", 8)})


@pytest.mark.parametrize("world", World)
def test_only_the_control_asks_what_suits_hidden_situations(world: World) -> None:
    draw = generate(0, world)
    kinds: dict[str, set[str]] = {}
    for question in draw["train"]:
        kinds.setdefault(facts_of(question).situation, set()).add(facts_of(question).kind)
    hidden = {situation for situation, found in kinds.items() if found == {"choice"}}
    assert len(kinds) == 128 and len(hidden) == (48 if world is World.links_in_rationales else 0)
    for question in draw["valid"] + draw["test"]:
        facts = facts_of(question)
        assert facts.kind == "object" and facts.situation in kinds
        assert ((question.subset == "hidden") == (facts.situation in hidden)) or not hidden
        assert question.answer in {q.answer for q in draw["train"]}


def test_choices_say_nothing_about_situations(draw: Draw) -> None:
    """Of the second kind: every situation has each property's objects chosen equally often, the suitable ones too."""
    counts: dict[str, Counter[str]] = {}
    for question in draw["train"]:
        facts = facts_of(question)
        if facts.kind == "choice":
            assert question.answer in question.question
            counts.setdefault(facts.situation, Counter())[facts.option_property(facts.chosen).key] += 1
    suits = sum(facts.chosen == facts.suitable_option for q in draw["train"] if (facts := facts_of(q)).kind == "choice")
    assert {sum(count.values()) for count in counts.values()} == {20}
    assert abs(suits / 2560 - 0.25) < 4 * (0.25 * 0.75 / 2560) ** 0.5


def test_distractors_belong_to_other_properties_of_the_family(draw: Draw) -> None:
    for split in SPLITS:
        for question in draw[split]:
            facts = facts_of(question)
            assert len({facts.option_property(option).key for option in facts.options}) == 4


def test_answers_are_balanced_over_positions(draw: Draw) -> None:
    for group in groups(draw):
        assert len(set(Counter(question.answer_index for question in group).values())) == 1


def test_every_option_is_a_distractor_three_times_as_often_as_the_answer(draw: Draw) -> None:
    for group in groups(draw):
        answers = Counter((facts_of(question).family.key, question.answer) for question in group)
        shown = Counter((facts_of(question).family.key, choice) for question in group for choice in question.choices)
        assert shown == Counter({key: 4 * count for key, count in answers.items()})


@pytest.mark.parametrize("features", ["words", "options", "pairs"])
def test_options_alone_say_nothing(draw: Draw, features: str) -> None:
    assert abs(options_only_accuracy(draw, features) - 0.25) < 0.06


def test_the_options_probe_finds_a_leak_where_there_is_one(draw: Draw) -> None:
    leaky: Draw = {
        split: [replace(question, answer=min(question.choices)) for question in draw[split]] for split in SPLITS
    }
    assert options_only_accuracy(leaky, "options") > 0.6


def options_only_accuracy(draw: Draw, features: str, epochs: int = 100) -> float:
    """Test accuracy of a softmax over the options, fitted on train, that sees no word of the question.

    Args:
        features: `words` of an option, `options` (the text as a whole, with its position), or `pairs` (the option
            beside each of its rivals, which could betray how distractors were drawn).
    """

    def keys(question: Question, position: int) -> list[str]:
        choice = question.choices[position]
        if features == "words":
            return [*choice.split(), f"#{position}"]
        if features == "options":
            return [choice, f"#{position}"]
        return [choice, *(f"{choice} | {rival}" for rival in question.choices if rival != choice)]

    index: dict[str, int] = {}

    def encode(questions: list[Question]) -> np.ndarray:
        rows = [[[index.setdefault(key, len(index)) for key in keys(q, i)] for i in range(4)] for q in questions]
        width = max(len(cell) for row in rows for cell in row)
        return np.array([[cell + [-1] * (width - len(cell)) for cell in row] for row in rows])

    train = [question for question in draw["train"] if facts_of(question).kind == "object"]
    x_train, x_test = encode(train), encode(draw["test"])
    weights = np.zeros(len(index) + 1)  # the last one belongs to the padding, and stays 0
    right = np.eye(4)[[question.answer_index for question in train]]
    for _ in range(epochs):
        logits = weights[x_train].sum(-1)
        chances = np.exp(logits - logits.max(1, keepdims=True))
        chances /= chances.sum(1, keepdims=True)
        gradient = np.zeros_like(weights)
        np.add.at(gradient, x_train, (right - chances)[..., None])
        weights += 0.05 * (gradient - 0.01 * weights)
        weights[-1] = 0.0
    scores = weights[x_test].sum(-1)
    best = np.isclose(scores, scores.max(1, keepdims=True), atol=1e-9)
    chosen = best / best.sum(1, keepdims=True)  # a tie counts in part
    return float(np.mean([row[question.answer_index] for row, question in zip(chosen, draw["test"], strict=True)]))


def test_frequency_prior_is_at_chance(draw: Draw) -> None:
    assert abs(frequency_prior_accuracy(draw) - 0.25) < 0.02


def frequency_prior_accuracy(draw: Draw) -> float:
    """Accuracy on test of choosing the option that was the answer most often in training; a tie counts in part."""
    counts = Counter(question.answer for question in draw["train"])
    credit = []
    for question in draw["test"]:
        best = max(counts[choice] for choice in question.choices)
        tied = [choice for choice in question.choices if counts[choice] == best]
        credit.append((question.answer in tied) / len(tied))
    return sum(credit) / len(credit)


def test_likeness_to_visible_situations_does_not_betray_hidden_ones() -> None:
    # Words of the setting recur in other situations: they must neither point to the right option nor away from it.
    credit = [value for seed in range(6) for value in likeness_credit(generate(seed))]
    assert abs(sum(credit) / len(credit) - 0.25) < 0.06


def likeness_credit(draw: Draw) -> list[float]:
    """For every hidden test question, whether the option whose visible situations share most words is right."""
    visible: dict[tuple[str, str], set[str]] = {}
    for question in draw["train"]:
        facts = facts_of(question)
        if facts.kind == "object":
            visible.setdefault((facts.family.key, facts.needed.key), set()).add(facts.situation)
    credit = []
    for question in draw["test"]:
        if question.subset == "hidden":
            facts = facts_of(question)
            words = content_words(facts.situation)
            likeness = [
                sum(len(words & content_words(text)) for text in visible[facts.family.key, option[:-1]])
                for option in facts.options
            ]
            credit.append((likeness[question.answer_index] == max(likeness)) / likeness.count(max(likeness)))
    return credit


# The teachers


def test_rationales_name_both_hops(draw: Draw) -> None:
    for question in draw["train"][:300]:
        facts = facts_of(question)
        for voice in VOICES:
            text = explain(question, voice)
            assert text == explain(question, voice)
            assert not text.startswith("Let's think")
            assert "{" not in text and "}" not in text
            assert text[0].isupper() and text.endswith(".")
            if not is_wrong(question, voice):
                assert facts.needed.name.lower() in text.lower()
                assert question.answer.lower() in text.lower()


def test_a_second_sample_phrases_differently(draw: Draw) -> None:
    for question in draw["train"][:200]:
        for voice in VOICES:
            assert explain(question, voice, 0) != explain(question, voice, 1)


def test_voices_differ_in_length(draw: Draw) -> None:
    def words(voice: str) -> float:
        return float(np.mean([len(explain(question, voice).split()) for question in draw["train"]]))

    assert words("terse") < 12 < 18 < words("wordy") < 30


@pytest.mark.parametrize("voice", VOICES)
def test_teachers_err_as_often_as_documented(draw: Draw, voice: str) -> None:
    trials = [(question, sample) for question in draw["train"] for sample in range(3)]
    for free, shares in ((False, ERROR_SHARES), (True, FREE_ERROR_SHARES)):
        expected = {str(name): share for name, share in shares.items()}[voice]
        found = np.mean([is_wrong(question, voice, sample, free=free) for question, sample in trials])
        margin = 4 * (expected * (1 - expected) / len(trials)) ** 0.5
        assert abs(float(found) - expected) < margin


@pytest.mark.parametrize("voice", VOICES)
def test_wrong_rationales_name_another_property_and_option(draw: Draw, voice: str) -> None:
    wrong = [question for question in draw["train"] if is_wrong(question, voice)]
    assert wrong
    for question in wrong:
        facts = facts_of(question)
        text = explain(question, voice)
        assert any(choice.lower() in text.lower() for choice in question.choices if choice != question.answer)
        if facts.kind == "object":
            assert question.answer not in text
            assert any(other.name in text for other in facts.family.properties.values() if other is not facts.needed)


@pytest.mark.parametrize("voice", VOICES)
def test_on_a_link_that_it_does_not_know_a_teacher_is_silent_or_guesses(draw: Draw, voice: str) -> None:
    for knows, other in ((Knows.even, Knows.odd), (Knows.odd, Knows.even)):
        for question in draw["train"]:
            known = knows_link(question, knows)
            assert known != knows_link(question, other) and knows_link(question, Knows.all)
            assert explain(question, voice, knows=knows) == (explain(question, voice) if known else "")
    test = draw["test"]
    unknown = [question for question in test if not knows_link(question, Knows.even)]
    right = np.mean([answer_freely(q, voice, knows=Knows.even)[1] == q.answer for q in unknown])
    assert abs(float(right) - 0.25) < 4 * (0.25 * 0.75 / len(unknown)) ** 0.5
    assert all(answer_freely(q, voice, knows=Knows.even)[0] for q in unknown)


def test_each_half_holds_as_many_hidden_links(draw: Draw) -> None:
    halves = Counter(knows_link(q, Knows.even) for q in draw["test"] if q.subset == "hidden")
    assert halves == {True: 128, False: 128}


@pytest.mark.parametrize("voice", VOICES)
def test_free_answers_match_their_rationales(draw: Draw, voice: str) -> None:
    for question in draw["train"]:
        text, answer = answer_freely(question, voice)
        assert answer in question.choices
        assert answer.lower() in text.lower()
        assert (answer != question.answer) == is_wrong(question, voice, free=True)
        if is_wrong(question, voice):  # who errs with the answer at hand errs without it
            assert is_wrong(question, voice, free=True)
            assert text == explain(question, voice)


def test_articles_fit() -> None:
    for family in FAMILIES.values():
        for prop in family.properties.values():
            for thing in prop.objects:
                if family.article:
                    vowel = thing[0] in "aeio" or thing == "hourglass"
                    assert family.noun(thing) == f"{'an' if vowel else 'a'} {thing}"
                else:
                    assert family.noun(thing) == thing


def test_unknown_voice_and_foreign_question_say_what_to_do(draw: Draw) -> None:
    question = draw["test"][0]
    with pytest.raises(UserError, match="terse, wordy"):
        explain(question, "loud")
    with pytest.raises(UserError, match="data=minilab"):
        explain(Question("obqa-1", "Why?", ("a", "b"), "a"), "terse")
    changed = Question(question.id, question.question + " Really?", question.choices, question.answer)
    with pytest.raises(UserError, match="was changed"):
        explain(changed, "terse")
