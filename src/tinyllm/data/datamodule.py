"""One LightningDataModule for every dataset: optimizer steps planned ahead, batches of pairs."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import PreTrainedTokenizerBase

from tinyllm.config import Reduction
from tinyllm.data.streams import Pair, Stream, TargetText
from tinyllm.data.tokens import SourceTokens, tokenize
from tinyllm.records import Question, Split


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """The part of an optimizer step that one process computes in one forward pass."""

    examples: tuple[int, ...]
    """Indices of training questions; may be empty in the last step of an epoch."""
    step_examples: tuple[int, ...]
    """All questions of the optimizer step."""
    parts: int
    """Into how many micro-batches (processes times accumulation) the step is split."""
    epoch: int = 0


class StepSampler(Sampler[MicroBatch]):
    """Plans an epoch as optimizer steps, then deals each step out to processes and accumulation passes.

    The questions of a step depend on seed and epoch alone, so the update is the same however a step is split; and an
    interrupted epoch goes on with the step where it stopped.

    Args:
        lengths: tokens of each training question, for grouping.
        batch_size: questions a step.
        accumulate: forward passes a step.
        seed: of the order.
        shuffle: false keeps the order of the questions.
        group_by_length: put questions of similar length into one step.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        batch_size: int,
        accumulate: int,
        seed: int,
        shuffle: bool,
        group_by_length: bool,
    ) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.accumulate = accumulate
        self.seed = seed
        self.shuffle = shuffle
        self.group_by_length = group_by_length
        self.epoch = 0
        self.resume_at = (0, 0)
        """Epoch, and steps of that epoch that are done already."""
        self.rank, self.world = 0, 1

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before every epoch."""
        self.epoch = epoch

    def steps(self) -> list[tuple[int, ...]]:
        """Question indices of every optimizer step of the current epoch."""
        return self._steps_of(self.epoch)

    def tokens_read(self, steps: int) -> int:
        """Tokens of the questions (their `lengths`) in the first `steps` optimizer steps, over all epochs."""
        epochs, rest = divmod(steps, -(-len(self.lengths) // self.batch_size))
        begun = self._steps_of(epochs)[:rest] if rest else []
        return epochs * sum(self.lengths) + sum(self.lengths[i] for step in begun for i in step)

    def _steps_of(self, epoch: int) -> list[tuple[int, ...]]:
        order = list(range(len(self.lengths)))
        size = self.batch_size
        if not self.shuffle:
            return [tuple(order[i : i + size]) for i in range(0, len(order), size)]
        rng = random.Random(f"{self.seed}/{epoch}")
        rng.shuffle(order)
        if self.group_by_length:
            pool = size * 50
            order = [
                index
                for start in range(0, len(order), pool)
                for index in sorted(order[start : start + pool], key=lambda i: self.lengths[i])
            ]
        steps = [tuple(order[i : i + size]) for i in range(0, len(order), size)]
        if self.group_by_length:
            rng.shuffle(steps)
        return steps

    def __iter__(self) -> Iterator[MicroBatch]:
        parts = self.accumulate * self.world
        done = self.resume_at[1] if self.epoch == self.resume_at[0] else 0
        for step in self.steps()[done:]:
            for turn in range(self.accumulate):
                yield MicroBatch(step[turn * self.world + self.rank :: parts], step, parts, self.epoch)

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size) * self.accumulate


TargetIds = Sequence[tuple[Sequence[int], float]]
"""`streams.Texts` in tokens: ids with the end token, and the share of each text."""


class StreamDataset(Dataset[Any]):
    """Turns a micro-batch of question indices into the student's batch, with the weight of every target token.

    Args:
        question_ids: training questions in order.
        sources: their source tokens.
        streams: what is taught; the index of a stream is its number in the batch.
        targets: for each stream, question id -> texts as token ids with the end token, and their shares.
        reduction: `example`: a token weighs share / (tokens of its text * questions of the step); a question without a
            target in a stream counts as a loss of 0 there (equation 4 divides by N). `token`: share / (target tokens of
            the stream in the step, each times its share).
        collate: makes the student's batch of pairs.
        seed: of the masks, which are drawn anew every epoch.
    """

    def __init__(
        self,
        question_ids: Sequence[str],
        sources: SourceTokens,
        streams: Sequence[Stream],
        targets: Sequence[Mapping[str, TargetIds]],
        *,
        reduction: Reduction,
        collate: Callable[[Sequence[Pair]], Any],
        seed: int = 0,
    ) -> None:
        self.question_ids = question_ids
        self.sources = sources
        self.streams = streams
        self.targets = targets
        self.reduction = reduction
        self.collate = collate
        self.seed = seed

    def lengths(self) -> list[int]:
        """Target and source tokens of each question, over all streams."""
        return [
            sum(
                len(self.sources.source(i, stream.prefix)) + sum(len(ids) for ids, _ in targets[i])
                for stream, targets in zip(self.streams, self.targets, strict=True)
                if i in targets
            )
            for i in self.question_ids
        ]

    def _is_taught(self, index: int) -> bool:
        return any(self.question_ids[index] in targets for targets in self.targets)

    def __getitem__(self, micro: MicroBatch) -> Any:
        everyone = (*micro.step_examples, *range(len(self.question_ids)))
        taught = [i for i in micro.examples if self._is_taught(i)]
        empty = not taught
        pairs: list[Pair] = []
        for number, (stream, targets) in enumerate(zip(self.streams, self.targets, strict=True)):
            step_ids = [self.question_ids[i] for i in micro.step_examples]
            step_tokens = sum(share * len(ids) for i in step_ids if i in targets for ids, share in targets[i])
            for index in taught or [next(i for i in everyone if self._is_taught(i))]:
                question_id = self.question_ids[index]
                if question_id not in targets:
                    continue
                texts: list[TargetText] = []
                for ids, share in targets[question_id]:
                    if empty:
                        weight = 0.0
                    elif self.reduction is Reduction.example:
                        weight = stream.weight * share * micro.parts / (len(ids) * len(step_ids))
                    else:
                        weight = stream.weight * share * micro.parts / step_tokens
                    texts.append(TargetText(tuple(ids), number, weight, share))
                pairs.append(Pair(self._source(question_id, stream, micro.epoch), tuple(texts)))
        return self.collate(pairs)

    def _source(self, question_id: str, stream: Stream, epoch: int) -> tuple[int, ...]:
        if stream.mask:
            return self.sources.masked(question_id, stream.prefix, stream.mask, f"{self.seed}/{epoch}")
        return self.sources.source(question_id, stream.prefix)


@dataclass(frozen=True, slots=True)
class QuestionBatch:
    """Questions to be answered, in tokens."""

    questions: tuple[Question, ...]
    sources: tuple[tuple[int, ...], ...]
    options: tuple[tuple[tuple[int, ...], ...], ...]
    """Token ids of every option, with the end token."""

    def singles(self) -> list[QuestionBatch]:
        """The same questions, one a batch."""
        rows = zip(self.questions, self.sources, self.options, strict=True)
        return [QuestionBatch((question,), (source,), (options,)) for question, source, options in rows]

    def to(self, device: Any, non_blocking: bool = False) -> QuestionBatch:
        """Lists move to the device when they become tensors."""
        return self


class _QuestionBatches(Dataset[QuestionBatch]):
    def __init__(self, batches: Sequence[QuestionBatch]) -> None:
        self.batches = batches

    def __getitem__(self, index: int) -> QuestionBatch:
        return self.batches[index]

    def __len__(self) -> int:
        return len(self.batches)


def question_batches(
    questions: Sequence[Question],
    sources: SourceTokens,
    tokenizer: PreTrainedTokenizerBase,
    *,
    prefix: str,
    batch_size: int,
    cache: Path,
) -> list[QuestionBatch]:
    """Batches of questions for ranking and generation, longest first, so that little is padded."""
    texts = [choice for question in questions for choice in question.choices]
    ids = iter(tokenize(texts, tokenizer, cache))
    end = tokenizer.eos_token_id
    options = {question.id: tuple((*next(ids), end) for _ in question.choices) for question in questions}
    order = sorted(questions, key=lambda q: (-len(sources.source(q.id, prefix)), q.id))
    return [
        QuestionBatch(
            tuple(part),
            tuple(sources.source(question.id, prefix) for question in part),
            tuple(options[question.id] for question in part),
        )
        for part in (order[i : i + batch_size] for i in range(0, len(order), batch_size))
    ]


class QuestionDataModule(LightningDataModule):
    """Training steps over streams and validation questions, for any dataset.

    Args:
        questions: by split; `train` and `valid` are read.
        streams: of the training questions.
        tokenizer: the student's.
        collate: makes the student's batch of pairs (`student.encoder_decoder.collate`).
        max_source_length: tokens; see `SourceTokens`.
        max_target_length: tokens, the end token included; a longer rationale is cut, and counted in `cut_targets`.
        reduction: how token losses are averaged.
        batch_size: questions an optimizer step, over all processes and accumulation passes.
        accumulate: forward passes an optimizer step.
        shuffle: order of training questions.
        group_by_length: see `StepSampler`.
        seed: of the order and of the masks.
        answer_prefix: source prefix of validation questions.
        evaluation_batch_size: validation questions a forward pass.
        cache: folder of tokenized texts.
        rationales: by split, question id -> text that stands in the question's source (PINTO).
    """

    def __init__(
        self,
        questions: Mapping[Split, Sequence[Question]],
        streams: Sequence[Stream],
        tokenizer: PreTrainedTokenizerBase,
        *,
        collate: Callable[[Sequence[Pair]], Any],
        max_source_length: int,
        max_target_length: int,
        reduction: Reduction,
        batch_size: int,
        accumulate: int,
        shuffle: bool,
        group_by_length: bool,
        seed: int,
        answer_prefix: str,
        evaluation_batch_size: int,
        cache: Path,
        rationales: Mapping[Split, Mapping[str, str]] | None = None,
    ) -> None:
        super().__init__()
        train = questions["train"]
        beside = rationales or {}
        end = tokenizer.eos_token_id
        self.train_sources = SourceTokens(train, tokenizer, max_source_length, cache, beside.get("train"))
        self.truncated = {stream.name: len(self.train_sources.truncated(stream.prefix)) for stream in streams}
        """Training questions whose context or rationale is shortened, by stream."""
        self.cut_targets: dict[str, int] = {}
        """Target texts longer than `max_target_length`, by stream."""
        targets: list[dict[str, list[tuple[tuple[int, ...], float]]]] = []
        for stream in streams:
            ids = tokenize([text for texts in stream.targets.values() for text, _ in texts], tokenizer, cache)
            self.cut_targets[stream.name] = sum(len(text) >= max_target_length for text in ids)
            in_order = iter((*text[: max_target_length - 1], end) for text in ids)
            targets.append({i: [(next(in_order), share) for _, share in t] for i, t in stream.targets.items()})
        self.dataset = StreamDataset(
            [question.id for question in train],
            self.train_sources,
            streams,
            targets,
            reduction=reduction,
            collate=collate,
            seed=seed,
        )
        self.sampler = StepSampler(
            self.dataset.lengths(),
            batch_size=batch_size,
            accumulate=accumulate,
            seed=seed,
            shuffle=shuffle,
            group_by_length=group_by_length,
        )
        valid_sources = SourceTokens(questions["valid"], tokenizer, max_source_length, cache, beside.get("valid"))
        self.valid_batches = question_batches(
            questions["valid"],
            valid_sources,
            tokenizer,
            prefix=answer_prefix,
            batch_size=evaluation_batch_size,
            cache=cache,
        )

    def train_dataloader(self) -> DataLoader[Any]:
        """Micro-batches of the current epoch."""
        trainer = self.trainer
        if trainer is not None:
            self.sampler.rank, self.sampler.world = trainer.global_rank, trainer.world_size
            self.sampler.epoch = trainer.current_epoch
        return DataLoader(self.dataset, batch_size=None, sampler=self.sampler)

    def val_dataloader(self) -> DataLoader[QuestionBatch]:
        """This process's share of the validation questions."""
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)
        if self.trainer is not None and isinstance(self.trainer.strategy, FSDPStrategy | DeepSpeedStrategy):
            rank, world = 0, 1  # every forward gathers shards: all processes must take the same ones
        batches = self.valid_batches
        if len(batches) < world:  # every process needs something to do
            batches = [single for batch in batches for single in batch.singles()]
        return DataLoader(_QuestionBatches(batches[rank::world]), batch_size=None)

    def state_dict(self) -> dict[str, Any]:
        """Epoch and its optimizer steps done: where a resumed run goes on."""
        steps = len(self.sampler) // self.sampler.accumulate
        epoch, step = divmod(self.trainer.global_step, steps) if self.trainer is not None else (0, 0)
        return {"epoch": epoch, "step": step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Skip the steps that the checkpoint has behind it."""
        self.sampler.resume_at = (int(state_dict["epoch"]), int(state_dict["step"]))
