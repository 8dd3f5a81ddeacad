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
from pathlib import Path

import datasets
from transformers import PreTrainedTokenizerBase

from tinyllm.prompts import RATIONALE_LABEL, student_source
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
    """Token ids of every text, without special tokens.

    The first call writes `<cache>/<fingerprint>` (a `datasets` folder), later ones read it; a folder that can't be read
    is made anew.
    """
    if not texts:
        return []
    folder = cache / _fingerprint(texts, tokenizer)
    if folder.is_dir():
        try:
            ids: list[list[int]] = datasets.load_from_disk(str(folder))["ids"][:]
            return ids
        except (OSError, ValueError, KeyError) as error:
            log.warning("cache %s can't be read (%s): it is made anew", folder, error)
            shutil.rmtree(folder, ignore_errors=True)
    ids = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    cache.mkdir(parents=True, exist_ok=True)
    draft = tempfile.mkdtemp(dir=cache)
    features = datasets.Features({"ids": datasets.Sequence(datasets.Value("int32"))})
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict({"ids": ids}, features=features).save_to_disk(draft)
    try:
        os.rename(draft, folder)
    except OSError:  # another process was first
        shutil.rmtree(draft, ignore_errors=True)
    return ids


def mask_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Id that stands for a masked token: T5's `<extra_id_0>`, or the unknown token of a tokenizer without it."""
    masked: int = tokenizer.get_vocab().get("<extra_id_0>", tokenizer.unk_token_id)
    return masked


class SourceTokens:
    """Token ids of the sources of a list of questions, cut to a length.

    When a source is too long, the context gives way from its end; where that is not enough, the rationale does.

    Args:
        questions: of any split.
        tokenizer: the student's.
        max_length: tokens of a source at most, the end token included. Question and options are never cut, so a source
            may still be longer.
        cache: folder of `tokenize`.
        rationales: question id -> text that stands in the source; a question without one has none.
    """

    def __init__(
        self,
        questions: Sequence[Question],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        cache: Path,
        rationales: Mapping[str, str] | None = None,
    ) -> None:
        parts = [student_source(question, "") for question in questions]
        self._index = {question.id: i for i, question in enumerate(questions)}
        self._contexts = tokenize([context for _, context, _, _ in parts], tokenizer, cache)
        self._rests = tokenize([rest for _, _, rest, _ in parts], tokenizer, cache)
        self._label: list[int] = []
        self._rationales: list[list[int]] = [[] for _ in questions]
        if rationales:
            self._label = tokenizer(RATIONALE_LABEL, add_special_tokens=False)["input_ids"]
            self._rationales = tokenize([rationales.get(q.id, "").strip() for q in questions], tokenizer, cache)
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._mask_id = mask_id(tokenizer) if rationales else -1
        self._prefixes: dict[str, list[int]] = {}

    def _prefix(self, prefix: str) -> list[int]:
        if prefix not in self._prefixes:
            self._prefixes[prefix] = self._tokenizer(prefix, add_special_tokens=False)["input_ids"]
        return self._prefixes[prefix]

    def _parts(self, index: int, prefix: str) -> tuple[list[int], list[int]]:
        """Context and rationale, cut."""
        room = max(0, self._max_length - len(self._prefix(prefix)) - len(self._rests[index]) - 1)
        rationale = self._rationales[index][: max(0, room - len(self._label))]
        taken = len(self._label) + len(rationale) if rationale else 0
        return self._contexts[index][: room - taken], rationale

    def _join(self, index: int, prefix: str, context: Sequence[int], rationale: Sequence[int]) -> tuple[int, ...]:
        label = self._label if rationale else ()
        end = self._tokenizer.eos_token_id
        return (*self._prefix(prefix), *context, *self._rests[index], *label, *rationale, end)

    def source(self, question_id: str, prefix: str) -> tuple[int, ...]:
        """Prefix, context, question with options, rationale, end token."""
        index = self._index[question_id]
        return self._join(index, prefix, *self._parts(index, prefix))

    def masked(self, question_id: str, prefix: str, share: float, draw: str) -> tuple[int, ...]:
        """The same source with tokens of its rationale masked.

        Args:
            question_id: the question.
            prefix: of the stream.
            share: of the rationale's tokens, 0 to 1, rounded to a whole number of them.
            draw: names the draw; which tokens are masked follows from it and the question alone.
        """
        index = self._index[question_id]
        context, rationale = self._parts(index, prefix)
        count = round(share * len(rationale))
        hidden = set(random.Random(f"{draw}/{question_id}").sample(range(len(rationale)), count))
        shown = [self._mask_id if i in hidden else token for i, token in enumerate(rationale)]
        return self._join(index, prefix, context, shown)

    def truncated(self, prefix: str) -> list[str]:
        """Ids of the questions that lose context or rationale under this prefix."""
        uncut = {i: (self._contexts[n], self._rationales[n]) for i, n in self._index.items()}
        return [i for i, n in self._index.items() if self._parts(n, prefix) != uncut[i]]
