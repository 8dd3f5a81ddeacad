"""Optimizer steps planned ahead, and dealt out to processes and accumulation passes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Dataset, Sampler

from tinyllm.config import Reduction, StreamLoss
from tinyllm.data.tokens import Perturbation, SourceTokens
from tinyllm.methods import Stream


@dataclass(frozen=True, slots=True)
class TargetText:
    """One text, in tokens, that a student is taught or scored on."""

    ids: tuple[int, ...]
    """Token ids with the end token."""
    stream: int = 0
    """Index of its stream; for ranking, of its option."""
    normaliser: float = 0.0
    """Factor of each of its tokens in its stream's loss (equations 3 and 4); in a list, factor of the list's loss."""
    share: float = 1.0
    """Part that it has in its question's target; the texts of one question and stream add up to 1."""
    list_number: int = -1
    """Number, within the batch, of the list whose texts compete with each other (a listwise loss); -1 for none."""
    lead: tuple[int, ...] = ()
    """What stands between source and text, and is not learnt: a decoder's instruction."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One source and the texts, of one stream or several, that are decoded from it."""

    source: tuple[int, ...]
    targets: tuple[TargetText, ...]

    @property
    def target_length(self) -> int:
        return sum(len(target.ids) for target in self.targets)


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
        accumulate_grad_batches: forward passes a step.
        seed: of the order.
        shuffle: false keeps the order of the questions.
        group_by_length: put questions of similar length into one step.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        batch_size: int,
        accumulate_grad_batches: int,
        seed: int,
        shuffle: bool,
        group_by_length: bool,
    ) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.accumulate_grad_batches = accumulate_grad_batches
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
        parts = self.accumulate_grad_batches * self.world
        done = self.resume_at[1] if self.epoch == self.resume_at[0] else 0
        for step in self.steps()[done:]:
            for turn in range(self.accumulate_grad_batches):
                yield MicroBatch(step[turn * self.world + self.rank :: parts], step, parts, self.epoch)

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size) * self.accumulate_grad_batches


TargetIds = Sequence[tuple[Sequence[int], float]]
"""`methods.Texts` in tokens: ids with the end token, and the share of each text."""


class StreamDataset(Dataset[Any]):
    """Turns a micro-batch of question indices into the student's batch, with the normaliser of every target token.

    Args:
        question_ids: training questions in order.
        sources: their source tokens.
        streams: what is taught; the index of a stream is its number in the batch.
        targets: for each stream, question id -> texts as token ids with the end token, and their shares.
        reduction: how a token's loss is normalised within its stream. `example`: share / (tokens of its text *
            questions of the step); a question without a target in a stream counts as a loss of 0 there (equation 4
            divides by N). `token`: share / (target tokens of the stream in the step, each times its share). The loss
            of a list counts 1 / (questions of the step) with `example`. It has no tokens to count: with `token` it is
            1 / (questions of the step that have a target in the stream). A question's loss is times its importance
            in the stream, which no divisor counts.
        lay_out: makes the student's batch of pairs.
        seed: of the perturbed rationales, which are drawn anew every epoch.
    """

    def __init__(
        self,
        question_ids: Sequence[str],
        sources: SourceTokens,
        streams: Sequence[Stream],
        targets: Sequence[Mapping[str, TargetIds]],
        *,
        reduction: Reduction,
        lay_out: Callable[[Sequence[Pair]], Any],
        seed: int = 0,
    ) -> None:
        self.question_ids = question_ids
        self.sources = sources
        self.streams = streams
        self.targets = targets
        self.reduction = reduction
        self.lay_out = lay_out
        self.seed = seed

    def lengths(self) -> list[int]:
        """Target and source tokens of each question, over all streams; what texts share counts once."""
        return [
            sum(map(len, {source for source, _, _ in found}))
            + sum(len(lead) for _, lead in {(source, lead) for source, lead, _ in found})
            + sum(len(ids) for _, _, ids in found)
            for found in (
                [
                    (source, self.sources.lead(self.streams[number].prefix), ids)
                    for number in range(len(self.targets))
                    if self._counts(number, i)
                    for source, texts in self._texts(number, i).items()
                    for ids, _ in texts
                ]
                for i in self.question_ids
            )
        ]

    def _counts(self, number: int, question_id: str) -> bool:
        """Whether a question has a target in a stream, and the stream's weighting doesn't leave it out."""
        return question_id in self.targets[number] and self.streams[number].importance.get(question_id, 1.0) != 0

    def _is_taught(self, index: int) -> bool:
        return any(self._counts(number, self.question_ids[index]) for number in range(len(self.targets)))

    def __getitem__(self, micro: MicroBatch) -> Any:
        everyone = (*micro.step_examples, *range(len(self.question_ids)))
        taught = [i for i in micro.examples if self._is_taught(i)]
        by_source: dict[tuple[int, ...], list[TargetText]] = {}
        lists = 0
        for number, stream in enumerate(self.streams):
            listwise = stream.loss is StreamLoss.listwise
            perturbation = None
            if stream.mask or stream.replace:
                perturbation = Perturbation(stream.mask, stream.replace, f"{self.seed}/{micro.epoch}")
            lead = self.sources.lead(stream.prefix)
            divisor = self._divisor(number, micro) if taught else 0
            factor = micro.parts / divisor if divisor else 0.0
            for index in taught or [next(i for i in everyone if self._is_taught(i))]:
                question_id = self.question_ids[index]
                if not self._counts(number, question_id):
                    continue
                importance = stream.importance.get(question_id, 1.0)
                for source, texts in self._texts(number, question_id, perturbation).items():
                    made = by_source.setdefault(source, [])
                    for ids, share in texts:
                        part = 1.0 if listwise else share / (1 if self.reduction is Reduction.token else len(ids))
                        normaliser = factor * part * importance
                        in_list = lists if listwise else -1
                        made.append(TargetText(tuple(ids), number, normaliser, share, in_list, lead))
                lists += listwise
        return self.lay_out([Pair(source, tuple(made)) for source, made in by_source.items()])

    def _divisor(self, number: int, micro: MicroBatch) -> float:
        """What the sum of a stream's losses over the whole step is divided by."""
        targets = self.targets[number]
        if self.reduction is Reduction.example:
            return len(micro.step_examples)
        texts = [targets[i] for i in map(self.question_ids.__getitem__, micro.step_examples) if i in targets]
        if self.streams[number].loss is StreamLoss.listwise:
            return len(texts)
        return sum(share * len(ids) for own in texts for ids, share in own)

    def _texts(
        self, number: int, question_id: str, perturbation: Perturbation | None = None
    ) -> dict[tuple[int, ...], list[tuple[Sequence[int], float]]]:
        """Source tokens -> the question's texts in a stream that are decoded from them; none that count for nothing."""
        stream = self.streams[number]
        found: dict[tuple[int, ...], list[tuple[Sequence[int], float]]] = {}
        for option, (ids, share) in enumerate(self.targets[number][question_id]):
            if share > 0 or stream.loss is StreamLoss.listwise:
                source = self.sources.source(question_id, stream.prefix, option, perturbation)
                found.setdefault(source, []).append((ids, share))
        return found
