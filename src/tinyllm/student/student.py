"""A student: a model with its tokenizer, that can be trained, saved and asked."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from tinyllm import runs
from tinyllm.config import Accelerator, ExperimentConfig
from tinyllm.data.question_batches import QuestionBatch, question_batches
from tinyllm.data.steps import Pair
from tinyllm.data.tokens import Form, SourceTokens, has_seams
from tinyllm.errors import UserError
from tinyllm.methods import Stream, answer_prefix
from tinyllm.parsing import is_right, match_choice
from tinyllm.prompts import instruction
from tinyllm.records import Prediction, Question
from tinyllm.student import models
from tinyllm.student.cpu_speed import RELEASE_EVERY, release_memory
from tinyllm.student.family import Family, family_of

log = logging.getLogger(__name__)

_SPARE_TOKENS = 8
"""Beyond the longest option: room for a leading "(b)" and the end token."""


@dataclass
class Student:
    """A loaded student, and how it is addressed."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    answer_prefix: str
    """Source prefix that asks for the answer, with its trailing space."""
    voices: Mapping[str, str] = field(default_factory=dict)
    """Source prefix by teacher: asks for a rationale as that teacher would write it."""
    max_source_length: int = 1024
    """Tokens. Only a question's context, or its rationale, is ever shortened to fit."""
    precision: str = "32-true"
    """Of asking, as in Lightning; a name with `bf16` runs under autocast."""
    cache: Path = Path(".cache/tinyllm")
    """Folder of tokenized texts."""
    chat: bool = False
    """Whether a decoder reads question and instruction in its chat template."""

    @classmethod
    def create(
        cls,
        config: ExperimentConfig,
        questions: Sequence[Question],
        streams: Sequence[Stream],
        rationales: Mapping[str, Sequence[str]] | None = None,
        *,
        precision: str = "32-true",
    ) -> Self:
        """A student that has not been trained: pretrained weights, or random ones with a tokenizer of its own.

        Random weights come from PyTorch's global generator: seed it first.

        Args:
            config: `student`, `method`, `teachers` and `cache` are read.
            questions: training questions.
            streams: what the student will be taught.
            rationales: question id -> one rationale for each option, part of that option's source (PINTO).
            precision: of asking.

        Raises:
            UserError: as `models.load_pretrained` and `models.from_scratch`.
        """
        student = config.student
        if student.pretrained:
            loaded = models.load_pretrained(
                student.pretrained, revision=student.revision, gguf_file=student.gguf_file, dropout=student.dropout
            )
        else:
            texts = models.tokenizer_texts(questions, streams, rationales)
            loaded = models.from_scratch(
                student.architecture, texts, dropout=student.dropout, trim_vocabulary=student.trim_vocabulary
            )
        voices = {stream.name: stream.prefix for stream in streams if stream.name in config.teachers}
        cache = Path(config.cache).expanduser()
        prefix = answer_prefix(config.method)
        made = cls(*loaded, prefix, voices, student.max_source_length, precision, cache, student.chat)
        if made.form.behind:
            _check_instructions(streams)
        if made.form.behind and has_seams(made.tokenizer, made.form):  # a chat form that can't be had is refused here
            log.warning(
                "this student's tokenizer splits a text in parts differently from the whole: it learns from the parts; "
                "programs that use the exported student should tokenize question, instruction and answer one by one"
            )
        return made

    @classmethod
    def load(cls, folder: Path, *, precision: str = "32-true", cache: Path | None = None) -> Self:
        """The student of a finished run.

        Args:
            folder: the run's.
            precision: of asking.
            cache: folder of tokenized texts; None for the run's own.

        Raises:
            UserError: when the folder is no finished run.
        """
        config = runs.read_config(folder)
        voices = runs.taught_teachers(folder)
        loaded = models.load_pretrained(str(runs.student_folder(folder)))
        cache = cache or Path(config.cache).expanduser()
        prefix, student = answer_prefix(config.method), config.student
        return cls(*loaded, prefix, voices, student.max_source_length, precision, cache, student.chat)

    @property
    def family(self) -> Family:
        """How this architecture lays out, learns, ranks and generates."""
        return family_of(self.model.config)

    @cached_property
    def form(self) -> Form:
        """How it reads questions and writes targets."""
        return self.family.form(self.tokenizer, chat=self.chat)

    @property
    def ends(self) -> list[int]:
        """Ids that end what it writes: the one that it was taught, and the model's own."""
        own: Any = self.model.generation_config.eos_token_id if self.model.generation_config is not None else None
        return sorted({self.form.end, *([own] if isinstance(own, int) else own or [])})

    def save(self, folder: Path, max_new_tokens: int | None = None) -> None:
        """Write a plain Hugging Face model folder: safetensors, config and tokenizer.

        Args:
            folder: is made.
            max_new_tokens: the most that other programs generate with it, where they say nothing; None leaves it to
                transformers, which stops at 20.
        """
        # transformers 5 says that every T5 is tied; transformers 4 and other readers would then drop FLAN-T5's head.
        tied = self.model.get_output_embeddings().weight is self.model.get_input_embeddings().weight
        self.model.config.tie_word_embeddings = tied
        # Greedy, as it is evaluated, and to its own end: not with the sampling that the model came with.
        own: Any = self.model.generation_config
        ids = {name: getattr(own, name, None) for name in ("bos_token_id", "pad_token_id", "decoder_start_token_id")}
        ends = self.ends
        self.model.generation_config = GenerationConfig(
            eos_token_id=ends if len(ends) > 1 else ends[0], max_new_tokens=max_new_tokens, **ids
        )
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def prepare(self, accelerator: Accelerator) -> None:
        """Choose the fast parts for where the model will run; weights are untouched."""
        self.family.prepare(self.model, accelerator)

    def to(self, accelerator: Accelerator) -> Self:
        """Prepare the model for where it will be asked, and move it there."""
        self.prepare(accelerator)
        device: Any = torch.device("cuda" if accelerator is Accelerator.gpu else "cpu")
        self.model.to(device)
        return self

    @property
    def device_name(self) -> str:
        """`cpu`, or the name of the GPU."""
        return torch.cuda.get_device_name(self.model.device) if self.model.device.type == "cuda" else "cpu"

    def lay_out(self, pairs: Sequence[Pair]) -> Any:
        """Pairs of source and targets as one batch; see `Family`."""
        return self.family.lay_out(pairs, self.model.config)

    def losses(self, batch: Any, factor_M: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The batch's loss, a scalar, and each target token's cross-entropy [M] in nats, detached.

        Args:
            batch: of `lay_out`, on the model's device.
            factor_M: factor of each token, the same all over a list; None for the batch's own normalisers.
        """
        return self.family.token_losses(self.model, batch, factor_M)

    def sources(
        self, questions: Sequence[Question], rationales: Mapping[str, Sequence[str]] | None = None
    ) -> SourceTokens:
        """The questions as this student reads them, for any prefix.

        Args:
            questions: of one split.
            rationales: question id -> one rationale for each option, part of that option's source (PINTO).
        """
        return SourceTokens(questions, self.tokenizer, self.max_source_length, self.cache, rationales, self.form)

    def answer(self, batch: QuestionBatch) -> list[Prediction]:
        """Both answers to every question of a batch, whose sources are read once; generation has room for any option.

        Where each option has a source of its own, there is none to generate from: the ranked option is both answers.
        """
        memory = self._read([source for own in batch.sources for source in own])
        scores = self._rank(memory, batch)
        ranked = [
            q.choices[max(range(len(own)), key=own.__getitem__)] for q, own in zip(batch.questions, scores, strict=True)
        ]
        texts = ranked
        predicted: Sequence[str | None] = ranked
        if not batch.by_option:
            longest = max(len(ids) for options in batch.options for ids in options)
            texts = self._generate(memory, batch.lead, longest + _SPARE_TOKENS)
            predicted = [
                self._named(text, q.choices, options)
                for text, q, options in zip(texts, batch.questions, batch.options, strict=True)
            ]
        return [
            Prediction(
                id=question.id,
                question=question.question,
                choices=question.choices,
                answer=question.answer,
                generated=texts[i],
                predicted=predicted[i],
                ranked=ranked[i],
                scores=tuple(scores[i]),
                subset=question.subset,
                group=question.group,
            )
            for i, question in enumerate(batch.questions)
        ]

    def _named(self, text: str, choices: Sequence[str], options: Sequence[tuple[int, ...]]) -> str | None:
        """The option that a generated text names, as it stands or as the tokenizer gives it back.

        T5's has no braces, and makes `m2` of `m²`: no text that it generates can equal such an option.
        """
        if (named := match_choice(text, choices)) is not None:
            return named
        decoded: list[str] = self.tokenizer.batch_decode([list(ids) for ids in options], skip_special_tokens=True)
        written = [own.strip() for own in decoded]
        found = match_choice(text, written)
        same = [choice for choice, own in zip(choices, written, strict=True) if own == found]
        return same[0] if same and all(is_right(choice, same[0]) for choice in same) else None

    def _read(self, sources: Sequence[tuple[int, ...]]) -> Any:
        return self.family.read(self.model, sources)

    def _rank(self, memory: Any, batch: QuestionBatch) -> list[list[float]]:
        """Scores of the options of every question, from its source or from each option's own."""
        options: list[Sequence[tuple[int, ...]]] = []
        for own, texts in zip(batch.sources, batch.options, strict=True):
            options.extend([texts] if len(own) == 1 else [[ids] for ids in texts])
        scores = chain.from_iterable(self.family.rank(self.model, memory, options, batch.lead))
        return [list(islice(scores, len(texts))) for texts in batch.options]

    def predict(
        self,
        questions: Sequence[Question],
        sources: SourceTokens,
        *,
        batch_size: int,
        max_rationale_tokens: int | None = None,
    ) -> Iterator[list[Prediction]]:
        """Predictions batch by batch, the longest questions first; the model's mode is put back at the end.

        Args:
            questions: to be answered.
            sources: of `sources`, for these questions.
            batch_size: questions a forward pass.
            max_rationale_tokens: also the student's own rationale in every voice, of so many tokens at most; None
                for none.
        """
        batches = question_batches(
            questions,
            sources,
            self.tokenizer,
            prefix=self.answer_prefix,
            batch_size=batch_size,
            cache=self.cache,
        )
        training = self.model.training
        self.model.eval()
        autocast = torch.autocast(self.model.device.type, dtype=torch.bfloat16, enabled="bf16" in self.precision)
        try:
            with torch.no_grad():
                for number, batch in enumerate(batches, 1):
                    if number % RELEASE_EVERY == 0:
                        release_memory()
                    with autocast:
                        predictions = self.answer(batch)
                        if max_rationale_tokens is not None:
                            predictions = self._with_rationales(predictions, sources, max_rationale_tokens)
                    yield predictions
        finally:
            self.model.train(training)

    def _with_rationales(
        self, predictions: Sequence[Prediction], sources: SourceTokens, max_tokens: int
    ) -> list[Prediction]:
        known: tuple[list[tuple[int, ...]], Any] | None = None
        texts: dict[str, list[str]] = {}
        for teacher, prefix in self.voices.items():
            read = [sources.source(p.id, prefix) for p in predictions]
            if known is None or known[0] != read:  # a decoder's voices share their sources
                known = read, self._read(read)
            texts[teacher] = self._generate(known[1], sources.lead(prefix), max_tokens)
        return [
            replace(p, rationales={teacher: texts[teacher][i] for teacher in texts}) for i, p in enumerate(predictions)
        ]

    def _generate(self, memory: Any, lead: Sequence[int], max_new_tokens: int) -> list[str]:
        ids = self.family.generate(self.model, memory, lead, ends=self.ends, max_new_tokens=max_new_tokens)
        texts: list[str] = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [text.strip() for text in texts]


def _check_instructions(streams: Sequence[Stream]) -> None:
    """Two prefixes may be one instruction: `answer: ` and `predict: ` are both `Answer:`."""
    first: dict[str, Stream] = {}
    for stream in streams:
        other = first.setdefault(instruction(stream.prefix), stream)
        if other.prefix != stream.prefix:
            raise UserError(
                f"expected an instruction of its own for every stream, found {instruction(stream.prefix)!r} for "
                f"{other.name} and {stream.name}: set teachers.<name>.prefix"
            )
