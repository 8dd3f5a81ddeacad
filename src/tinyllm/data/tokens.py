"""Tokenisation, once: token ids are cached on disk by the content of the texts and of the tokenizer."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import datasets
from transformers import PreTrainedTokenizerBase

from tinyllm.errors import UserError
from tinyllm.prompts import RATIONALE_LABEL, instruction, student_prompt, student_source, without_special_tokens
from tinyllm.records import Question

log = logging.getLogger(__name__)


def _fingerprint(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    digest = hashlib.sha256(content.encode())
    for text in texts:
        digest.update(len(text).to_bytes(8, "little") + text.encode())
    return digest.hexdigest()[:32]


def tokenize(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, cache: Path) -> list[list[int]]:
    """Token ids of every text, without special tokens, also where a text names one (`without_special_tokens`).

    The first call writes `<cache>/<fingerprint>` (a `datasets` folder), later ones read it; a folder that can't be read
    is made anew.
    """
    if not texts:
        return []
    texts = without_special_tokens(texts, tokenizer)
    folder = cache / _fingerprint(texts, tokenizer)
    if folder.is_dir():
        try:
            ids: list[list[int]] = datasets.load_from_disk(str(folder))["ids"][:]
            return ids
        except (OSError, ValueError, KeyError) as error:
            log.warning("cache %s can't be read (%s): it is rebuilt", folder, error)
            shutil.rmtree(folder, ignore_errors=True)
    ids = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    cache.mkdir(parents=True, exist_ok=True)
    draft = tempfile.mkdtemp(dir=cache)
    features = datasets.Features({"ids": datasets.Sequence(datasets.Value("int32"))})
    datasets.disable_progress_bars()
    try:
        datasets.Dataset.from_dict({"ids": ids}, features=features).save_to_disk(draft)
        with suppress(OSError):  # another process was first
            os.rename(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return ids


def mask_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Id that stands for a masked token: T5's `<extra_id_0>`, the unknown token, or `_` of a byte-level tokenizer.

    The latter knows every text; what it calls its unknown token ends a document.
    """
    known = tokenizer.get_vocab()
    masked: int = known.get("<extra_id_0>", known.get("<unk>", known.get("_", tokenizer.unk_token_id)))
    return masked


def word_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of the vocabulary without special tokens, in order."""
    special = {*tokenizer.all_special_ids, *(i for i, token in tokenizer.added_tokens_decoder.items() if token.special)}
    return sorted(set(tokenizer.get_vocab().values()) - special)


def end_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """Id of the token that ends a text.

    Raises:
        UserError: the tokenizer has none.
    """
    end: int | None = tokenizer.eos_token_id
    if end is None:
        raise UserError(
            "student.pretrained: expected a tokenizer with an end token, found none: set eos_token in the model's "
            "tokenizer_config.json"
        )
    return end


@dataclass(frozen=True, slots=True)
class Form:
    """How a question, a stream's prefix and a target become what a student reads and writes."""

    end: int
    """Id of the token that ends a target."""
    behind: bool = False
    """False: an encoder reads prefix, question and end token. True: the prefix is an instruction behind the question,
    and the target comes next."""
    start: str = ""
    """In front of the question, special tokens included: the start of a text, or of a chat."""
    turn: str = ""
    """Between instruction and target: in a chat, what ends the user's turn and begins the reply."""
    space: str = ""
    """In front of a target."""

    def target(self, text: str) -> str:
        """A target's text as it is tokenized."""
        return self.space + text.strip() if self.behind else text

    def lead(self, prefix: str) -> str:
        """What stands between question and target.

        Raises:
            UserError: for a prefix without words: the first token of a target is read off the token before it.
        """
        if not self.behind:
            return ""
        if not prefix.strip():
            raise UserError("expected a prefix with words for every stream of a decoder, found an empty one")
        return instruction(prefix) + self.turn


def has_seams(tokenizer: PreTrainedTokenizerBase, form: Form) -> bool:
    """Whether a sample text gets other tokens in parts, as the student reads it, than as a whole.

    Byte-level tokenizers split at the ends of the parts anyway. Those that put a mark of the first word in front of
    every part (SentencePiece's, of Llama 2 or Mistral) do not.
    """
    lead, target = form.lead("explain: "), form.target("Water is wet.")
    parts = [form.start, "What is wet?\nAnswer Choices:\n(a) sand\n(b) water\n", lead, target]
    apart = [i for part in parts for i in tokenizer(part, add_special_tokens=False)["input_ids"]]
    return apart != list(tokenizer("".join(parts), add_special_tokens=False)["input_ids"])


@dataclass(frozen=True, slots=True)
class Perturbation:
    """How the rationales of some sources are spoilt, so that nothing can be learnt from them (PINTO)."""

    mask: float
    """Share of a rationale's tokens that are masked."""
    replace: float
    """Share that random tokens of the vocabulary stand in for, no special ones; of both, one by a fair coin."""
    draw: str
    """Names the draw: what is spoilt, and how, follows from it, the question and the option alone."""


class SourceTokens:
    """Token ids of the sources of a list of questions, cut to a length.

    When a source is too long, the context gives way from its end; where that is not enough, the rationale does.

    Args:
        questions: of any split.
        tokenizer: the student's.
        max_length: tokens of a source at most, the end token included. Question and options are never cut, so a source
            may still be longer.
        cache: folder of `tokenize`.
        rationales: question id -> one text for each option, in the order of the choices. Each option then has a source
            of its own, with its text; an empty text, and a question that is not there, leave it without. None or empty:
            a question has one source, for all its options.
        form: how the student reads; None for an encoder's.

    Raises:
        ValueError: for a question with another number of texts than it has options.
    """

    def __init__(
        self,
        questions: Sequence[Question],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        cache: Path,
        rationales: Mapping[str, Sequence[str]] | None = None,
        form: Form | None = None,
    ) -> None:
        self.form = form or Form(end_of(tokenizer))
        behind = self.form.behind
        parts = [student_prompt(q) if behind else student_source(q, "")[1:3] for q in questions]
        self._index = {question.id: i for i, question in enumerate(questions)}
        self._contexts = tokenize([context for context, _ in parts], tokenizer, cache)
        self._rests = tokenize([rest for _, rest in parts], tokenizer, cache)
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._prefixes: dict[str, list[int]] = {}
        self._leads: dict[str, tuple[int, ...]] = {}
        self._start = self._ids(self.form.start)
        self._newline = self._ids("\n") if behind else []
        """What a part that is cut still ends with."""
        self._label: list[int] = []
        self._rationales: list[list[list[int]]] = [[[]] for _ in questions]
        """Of every question, that of each option; without `rationales`, an empty one for all."""
        self.by_option = bool(rationales)
        """Whether each option has a source of its own."""
        if rationales:
            self._label = self._ids(RATIONALE_LABEL.strip() if behind else RATIONALE_LABEL)
            texts = [_by_option(question, rationales) for question in questions]
            if behind:
                texts = [[text and f" {text}\n" for text in own] for own in texts]
            ids = iter(tokenize([text for own in texts for text in own], tokenizer, cache))
            self._rationales = [[next(ids) for _ in own] for own in texts]

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _prefix(self, prefix: str) -> list[int]:
        """What stands in front of the question."""
        if self.form.behind:
            return self._start
        if prefix not in self._prefixes:
            self._prefixes[prefix] = self._ids(prefix)
        return self._prefixes[prefix]

    def lead(self, prefix: str) -> tuple[int, ...]:
        """What stands between a source and its targets: a decoder's instruction; empty for an encoder."""
        if prefix not in self._leads:
            self._leads[prefix] = tuple(self._ids(self.form.lead(prefix)))
        return self._leads[prefix]

    def _cut(self, ids: list[int], length: int) -> list[int]:
        if len(ids) <= length:
            return ids
        room = length - len(self._newline)
        return [*ids[:room], *self._newline] if room > 0 else []

    def _parts(self, index: int, prefix: str, option: int) -> tuple[list[int], list[int]]:
        """Context and rationale, cut."""
        ends = 0 if self.form.behind else 1
        room = max(0, self._max_length - len(self._prefix(prefix)) - len(self._rests[index]) - ends)
        rationale = self._cut(self._rationales[index][option], max(0, room - len(self._label)))
        taken = len(self._label) + len(rationale) if rationale else 0
        return self._cut(self._contexts[index], room - taken), rationale

    def source(
        self, question_id: str, prefix: str, option: int = 0, perturbation: Perturbation | None = None
    ) -> tuple[int, ...]:
        """Prefix, context, question with options, rationale, end token; of a decoder without prefix and end.

        Args:
            question_id: the question.
            prefix: of the stream.
            option: position in the question's choices; of no effect where a question has one source.
            perturbation: spoils the rationale.
        """
        index = self._index[question_id]
        context, rationale = self._parts(index, prefix, option if self.by_option else 0)
        if perturbation is not None:
            kept = rationale[-1:] if self.form.behind else []  # it holds the newline
            rationale = [
                *self._perturbed(rationale[: len(rationale) - len(kept)], perturbation, question_id, option),
                *kept,
            ]
        label = self._label if rationale else ()
        end = () if self.form.behind else (self.form.end,)
        return (*self._prefix(prefix), *context, *self._rests[index], *label, *rationale, *end)

    def sources(self, question_id: str, prefix: str) -> tuple[tuple[int, ...], ...]:
        """The question's source, or one for each of its options in the order of the choices."""
        return tuple(
            self.source(question_id, prefix, i) for i in range(len(self._rationales[self._index[question_id]]))
        )

    def _perturbed(self, rationale: list[int], how: Perturbation, question_id: str, option: int) -> list[int]:
        masking = how.mask > 0
        if how.mask > 0 and how.replace > 0:
            masking = random.Random(f"{how.draw}/{question_id}").random() < 0.5
        rng = random.Random(f"{how.draw}/{question_id}/{option}")
        count = round((how.mask if masking else how.replace) * len(rationale))
        spoilt = list(rationale)
        for i in rng.sample(range(len(rationale)), count):
            spoilt[i] = self._mask_id if masking else rng.choice(self._words)
        return spoilt

    @cached_property
    def _mask_id(self) -> int:
        return mask_id(self._tokenizer)

    @cached_property
    def _words(self) -> list[int]:
        return word_ids(self._tokenizer)

    def truncated(self, prefix: str) -> list[str]:
        """Ids of the questions that lose context or rationale under this prefix, in one of their sources or more."""
        return [
            question_id
            for question_id, n in self._index.items()
            if any(
                self._parts(n, prefix, option) != (self._contexts[n], rationale)
                for option, rationale in enumerate(self._rationales[n])
            )
        ]


def _by_option(question: Question, rationales: Mapping[str, Sequence[str]]) -> list[str]:
    texts = rationales.get(question.id, [""] * len(question.choices))
    if len(texts) != len(question.choices):
        raise ValueError(
            f"question {question.id}: expected a rationale for each of {len(question.choices)} options, "
            f"found {len(texts)}"
        )
    return [text.strip() for text in texts]
