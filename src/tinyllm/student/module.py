"""The one LightningModule: a student trained on weighted streams (paper, section 3.3)."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import DeepSpeedStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.optim import Optimizer
from torchmetrics import MeanMetric
from transformers import (
    get_constant_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from tinyllm.config import Schedule
from tinyllm.data.question_batches import QuestionBatch
from tinyllm.errors import UserError
from tinyllm.parsing import is_exact, is_right
from tinyllm.student.cpu_speed import RELEASE_EVERY, release_memory
from tinyllm.student.losses import Batch, mean_by_text, stream_losses
from tinyllm.student.sharding import gather
from tinyllm.student.student import Student

log = logging.getLogger(__name__)


class StudentModule(LightningModule):
    """Minimises the weighted sum of the streams' losses (paper, equations 2 to 4).

    A batch carries each token's stream and its normaliser within that stream's loss; the streams' weights are here.

    Args:
        student: to be trained.
        weights: by stream, in the order of the batch's stream numbers: the factor of its loss in the sum.
        lr: peak learning rate of AdamW.
        weight_decay: of AdamW, on matrices only.
        warmup_steps: optimizer steps.
        schedule: what follows the warm-up.
        seed: of dropout; every micro-batch seeds anew, so that a resumed run draws what an uninterrupted one draws.
        learned: names of the streams whose weight is times exp(-s), with s, 0 at first, trained beside the student and
            added to the loss (Kendall, Gal and Cipolla 2018).
        learned_lr: peak learning rate of s.
    """

    def __init__(
        self,
        student: Student,
        weights: Mapping[str, float],
        *,
        lr: float,
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        schedule: Schedule = Schedule.linear,
        seed: int = 0,
        learned: Sequence[str] = (),
        learned_lr: float = 1e-2,
    ) -> None:
        super().__init__()
        self.student = student
        self.model = student.model
        self.whole: Student | None = None
        """Of sharded training: the student that is asked in validation, with all weights."""
        self.weights = dict(weights)
        self.lr = lr
        self.weight_decay = weight_decay
        self.warmup_steps = warmup_steps
        self.schedule = schedule
        self.seed = seed
        self.learned = tuple(learned)
        self.learned_lr = learned_lr
        if learned:
            self.log_variance = torch.nn.Parameter(torch.zeros(len(learned)))
        self.valid_accuracy = MeanMetric()
        self.valid_ranked = MeanMetric()
        self.valid_exact = MeanMetric()
        self._mark = self._seconds = self._examples = 0.0
        self._terms: list[Tensor] = []
        self._last_loss: Tensor | float = 0.0

    def configure_model(self) -> None:
        """Under FSDP2, leave this process its shard of every weight; `losses` gathers them layer by layer."""
        strategy = self.trainer.strategy
        if isinstance(strategy, ModelParallelStrategy):
            mesh = strategy.device_mesh["data_parallel"]
            for part in self.student.family.parts(self.model):
                fully_shard(part, mesh=mesh)
            fully_shard(self, mesh=mesh)
            register_fsdp_forward_method(self, "losses")

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Weighted sum of the streams' losses (equation 2), and each token's cross-entropy [M] in nats, detached.

        With learned weights its value and its gradients are those of sum_m weight_m * (exp(-s_m) * loss_m + c_m * s_m),
        where c_m is the share of the step's questions that have a text in the stream; with `token`, 1 where any has. So
        s_m tends to the logarithm of the mean loss of a text, however few there are and whatever α is (Kendall et al.
        2018, with a task for every stream).
        """
        alpha = torch.tensor(list(self.weights.values()), dtype=torch.float32, device=batch.stream_M.device)
        weights = alpha
        if not self.learned:
            return self.student.losses(batch, weights[batch.stream_M] * batch.normaliser_M)
        places = torch.tensor([list(self.weights).index(name) for name in self.learned], device=weights.device)
        weights = weights * torch.ones_like(weights).index_copy(0, places, torch.exp(-self.log_variance.float()))
        loss, losses_M = self.student.losses(batch, weights.detach()[batch.stream_M] * batch.normaliser_M)
        # The fused loss takes its factors as constants: this adds their gradient, and nothing to the value.
        terms = stream_losses(losses_M, batch, len(self.weights))
        covered = stream_losses(torch.ones_like(losses_M), batch, len(self.weights))
        s = (alpha * covered)[places] * self.log_variance
        return loss + ((weights - weights.detach()) * terms).sum() + s.sum(), losses_M

    def learned_weights(self) -> dict[str, float]:
        """exp(-s) of every learned stream."""
        if not self.learned:
            return {}
        return dict(zip(self.learned, torch.exp(-self.log_variance.detach()).tolist(), strict=True))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one micro-batch, a scalar; logs it and every stream's term, each over the whole step, in nats.

        So `train/loss` is the sum of the streams' weights times `train/loss/<stream>`, with learned weights plus the
        term of s.
        """
        moment = f"{self.seed}/{self.trainer.current_epoch}/{batch_idx}/{self.global_rank}"
        torch.manual_seed(int.from_bytes(hashlib.sha256(moment.encode()).digest()[:7], "big"))
        loss, losses_M = self.losses(batch)
        terms = stream_losses(losses_M, batch, len(self.weights))
        self._terms.append(torch.cat([loss.detach()[None], terms]))
        if self._steps_after(batch_idx):
            # Normalisers hold the number of parts, so that Lightning's mean over them is the step's sum.
            mean = self.trainer.strategy.reduce(torch.stack(self._terms).mean(dim=0), reduce_op="mean")
            self._terms = []
            for name, term in zip(self.weights, mean[1:], strict=True):
                self.log(f"train/loss/{name}", term)
            self.log("train/loss", mean[0], prog_bar=True)
            self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"])  # which this step takes
            self._last_loss = mean[0]
        return loss

    def _steps_after(self, batch_idx: int) -> bool:
        """Whether the optimizer steps after this micro-batch."""
        return (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0

    def on_train_start(self) -> None:
        self._mark = time.perf_counter()

    def _check_loss(self) -> None:
        """Raises UserError where the last step's loss is no number: all later ones would be none, too."""
        loss = float(self._last_loss)
        if not math.isfinite(loss):
            raise UserError(
                f"training diverged: the loss is {loss} at step {self.trainer.global_step}: lower optimizer.lr or "
                "trainer.gradient_clip, or raise optimizer.warmup_steps"
            )

    def on_validation_start(self) -> None:
        self._check_loss()
        for metric in (self.valid_accuracy, self.valid_ranked, self.valid_exact):
            metric.set_dtype(torch.float32)  # bf16-true has changed it, and bf16 counts to 256
        release_memory()  # of the steps: answers want other sizes
        if self.whole is not None:
            gather(self.model, self.whole.model)
            cast(Any, self.whole.model).to(self.device).eval()

    def on_validation_end(self) -> None:
        if self.whole is not None:
            self.whole.model.cpu()  # a GPU has better uses for the memory
        release_memory()
        self._mark = time.perf_counter()

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Speed over the last logged steps: questions per second, collation included, over all processes."""
        now = time.perf_counter()
        self._seconds, self._mark = self._seconds + now - self._mark, now
        answered_M = batch.share_M * ((batch.stream_M == 0) & (batch.normaliser_M > 0))
        self._examples += float(mean_by_text(answered_M, batch.text_M).sum())  # a question's shares add up to 1
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if self._steps_after(batch_idx) and self.trainer.global_step % every == 0:
            rate = self._examples / self._seconds * self.trainer.world_size
            self.log("train/examples_per_second", rate, prog_bar=True)
            self._check_loss()
            self._seconds = self._examples = 0.0
        if batch_idx % RELEASE_EVERY == 0:
            release_memory()

    def validation_step(self, batch: QuestionBatch, batch_idx: int) -> None:
        """The accuracies of `config.Metric`, as shares of 1."""
        if (batch_idx + 1) % RELEASE_EVERY == 0:
            release_memory()
        student = self.whole or self.student
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled="bf16" in student.precision):
            predictions = student.answer(batch)
        for prediction in predictions:
            self.valid_accuracy.update(float(is_right(prediction.predicted, prediction.answer)))
            self.valid_ranked.update(float(is_right(prediction.ranked, prediction.answer)))
            self.valid_exact.update(float(is_exact(prediction.generated, prediction.answer)))
        self.log("valid/accuracy", self.valid_accuracy, prog_bar=True, batch_size=len(predictions))
        self.log("valid/accuracy_ranked", self.valid_ranked, batch_size=len(predictions))
        self.log("valid/accuracy_exact", self.valid_exact, batch_size=len(predictions))

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by norm; Lightning refuses to with a fused optimizer, for the sake of fp16, which is not used here."""
        if gradient_clip_val and not isinstance(self.trainer.strategy, DeepSpeedStrategy):  # which clips by itself
            torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with warm-up, then constant or linear to zero at the last step."""
        parameters = [p for name, p in self.named_parameters() if p.requires_grad and name != "log_variance"]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        if self.learned:
            groups.append({"params": [self.log_variance], "weight_decay": 0.0, "lr": self.learned_lr})
        groups = [group for group in groups if group["params"]]  # DeepSpeed drops an empty one, schedulers count it
        optimizer = torch.optim.AdamW(groups, lr=self.lr, fused=True)
        steps = self.trainer.estimated_stepping_batches
        if self.warmup_steps >= steps:
            told = "optimizer.warmup_steps=%d, but there are %s steps: the rate never reaches optimizer.lr"
            log.info(told, self.warmup_steps, steps)
        if self.schedule is Schedule.constant:
            scheduler = get_constant_schedule_with_warmup(optimizer, self.warmup_steps)
        else:
            total = int(self.trainer.estimated_stepping_batches)
            scheduler = get_linear_schedule_with_warmup(optimizer, self.warmup_steps, total)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
