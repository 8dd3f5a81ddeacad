"""One LightningDataModule for every dataset: optimizer steps planned ahead, batches of pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedTokenizerBase

from tinyllm.config import Reduction
from tinyllm.data.question_batches import QuestionBatch, question_batches
from tinyllm.data.steps import Pair, StepSampler, StreamDataset
from tinyllm.data.tokens import Form, SourceTokens, tokenize
from tinyllm.methods import Stream
from tinyllm.records import Question, Split


class _QuestionBatches(Dataset[QuestionBatch]):
    def __init__(self, batches: Sequence[QuestionBatch]) -> None:
        self.batches = batches

    def __getitem__(self, index: int) -> QuestionBatch:
        return self.batches[index]

    def __len__(self) -> int:
        return len(self.batches)


class QuestionDataModule(LightningDataModule):
    """Training steps over streams and validation questions, for any dataset.

    Args:
        questions: by split; `train` and `valid` are read.
        streams: of the training questions.
        tokenizer: the student's.
        lay_out: makes the student's batch of pairs (`Student.lay_out`).
        max_source_length: tokens; see `SourceTokens`.
        max_target_length: tokens, the end token included; a longer rationale is cut, and counted in `cut_targets`.
        reduction: how token losses are averaged.
        batch_size: questions an optimizer step, over all processes and accumulation passes.
        accumulate_grad_batches: forward passes an optimizer step.
        shuffle: order of training questions.
        group_by_length: see `StepSampler`.
        seed: of the order and of the perturbed rationales.
        answer_prefix: source prefix of validation questions.
        evaluation_batch_size: validation questions a forward pass.
        cache: folder of tokenized texts.
        rationales: by split, question id -> one text for each option, which stands in that option's source (PINTO).
        form: how the student reads and writes (`Student.form`); None for an encoder-decoder's.
    """

    def __init__(
        self,
        questions: Mapping[Split, Sequence[Question]],
        streams: Sequence[Stream],
        tokenizer: PreTrainedTokenizerBase,
        *,
        lay_out: Callable[[Sequence[Pair]], Any],
        max_source_length: int,
        max_target_length: int,
        reduction: Reduction,
        batch_size: int,
        accumulate_grad_batches: int,
        shuffle: bool,
        group_by_length: bool,
        seed: int,
        answer_prefix: str,
        evaluation_batch_size: int,
        cache: Path,
        rationales: Mapping[Split, Mapping[str, Sequence[str]]] | None = None,
        form: Form | None = None,
    ) -> None:
        super().__init__()
        train = questions[Split.train]
        source_rationales = rationales or {}
        self.train_sources = SourceTokens(
            train, tokenizer, max_source_length, cache, source_rationales.get(Split.train), form
        )
        form = self.train_sources.form
        self.truncated = {stream.name: len(self.train_sources.truncated(stream.prefix)) for stream in streams}
        """Training questions whose context or rationale is shortened, by stream."""
        self.cut_targets: dict[str, int] = {}
        """Target texts longer than `max_target_length`, by stream."""
        targets: list[dict[str, list[tuple[tuple[int, ...], float]]]] = []
        for stream in streams:
            written = [form.target(text) for texts in stream.targets.values() for text, _ in texts]
            ids = tokenize(written, tokenizer, cache)
            self.cut_targets[stream.name] = sum(len(text) >= max_target_length for text in ids)
            in_order = iter((*text[: max_target_length - 1], form.end) for text in ids)
            targets.append({i: [(next(in_order), share) for _, share in t] for i, t in stream.targets.items()})
        self.dataset = StreamDataset(
            [question.id for question in train],
            self.train_sources,
            streams,
            targets,
            reduction=reduction,
            lay_out=lay_out,
            seed=seed,
        )
        self.sampler = StepSampler(
            self.dataset.lengths(),
            batch_size=batch_size,
            accumulate_grad_batches=accumulate_grad_batches,
            seed=seed,
            shuffle=shuffle,
            group_by_length=group_by_length,
        )
        valid_sources = SourceTokens(
            questions[Split.valid], tokenizer, max_source_length, cache, source_rationales.get(Split.valid), form
        )
        self.valid_batches = question_batches(
            questions[Split.valid],
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
        batches = self.valid_batches
        if len(batches) < world:  # every process needs something to do
            batches = [single for batch in batches for single in batch.singles()]
        return DataLoader(_QuestionBatches(batches[rank::world]), batch_size=None)

    def state_dict(self) -> dict[str, Any]:
        """Epoch and its optimizer steps done: where a resumed run goes on."""
        steps = len(self.sampler) // self.sampler.accumulate_grad_batches
        epoch, step = divmod(self.trainer.global_step, steps) if self.trainer is not None else (0, 0)
        return {"epoch": epoch, "step": step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Skip the steps that the checkpoint has behind it."""
        self.sampler.resume_at = (int(state_dict["epoch"]), int(state_dict["step"]))
