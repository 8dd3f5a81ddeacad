"""Tokenisation, once: token ids are cached on disk by the content of the texts and of the tokenizer."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import datasets
from transformers import PreTrainedTokenizerBase

from tinyllm.prompts import student_source
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


class SourceTokens:
    """Token ids of the sources of a list of questions; only the context gives way when a source is too long.

    Args:
        questions: of any split.
        tokenizer: the student's.
        max_length: tokens of a source at most, the end token included. Question and options are never cut, so a source
            without a context may be longer.
        cache: folder of `tokenize`.
    """

    def __init__(
        self, questions: Sequence[Question], tokenizer: PreTrainedTokenizerBase, max_length: int, cache: Path
    ) -> None:
        parts = [student_source(question, "") for question in questions]
        self._index = {question.id: i for i, question in enumerate(questions)}
        self._contexts = tokenize([context for _, context, _ in parts], tokenizer, cache)
        self._rests = tokenize([rest for _, _, rest in parts], tokenizer, cache)
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._prefixes: dict[str, list[int]] = {}

    def _prefix(self, prefix: str) -> list[int]:
        if prefix not in self._prefixes:
            self._prefixes[prefix] = self._tokenizer(prefix, add_special_tokens=False)["input_ids"]
        return self._prefixes[prefix]

    def _room(self, index: int, prefix: str) -> int:
        return max(0, self._max_length - len(self._prefix(prefix)) - len(self._rests[index]) - 1)

    def source(self, question_id: str, prefix: str) -> tuple[int, ...]:
        """Prefix, context (shortened from its end where needed), question with options, end token."""
        index = self._index[question_id]
        context = self._contexts[index][: self._room(index, prefix)]
        return (*self._prefix(prefix), *context, *self._rests[index], self._tokenizer.eos_token_id)

    def truncated(self, prefix: str) -> list[str]:
        """Ids of the questions that lose context under this prefix."""
        return [i for i, n in self._index.items() if len(self._contexts[n]) > self._room(n, prefix)]
