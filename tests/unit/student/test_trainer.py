"""What `make_trainer` makes of settings, and how it refuses those that can't work."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy

from tinyllm import processes
from tinyllm.config import Accelerator, Strategy, TrainerConfig
from tinyllm.data.question_batches import QuestionBatch
from tinyllm.errors import UserError
from tinyllm.records import Question
from tinyllm.student.trainer import Progress, make_strategy, make_trainer, resolve_precision


@pytest.mark.parametrize("accelerator", list(Accelerator))
@pytest.mark.parametrize("precision", ["16-mixed", "16-true", "16"])
def test_fp16_is_refused_with_the_reason(precision: str, accelerator: Accelerator) -> None:
    with pytest.raises(UserError, match=rf"^trainer\.precision={precision}.*bf16-mixed"):
        resolve_precision(precision, accelerator)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true", "64-true"])
def test_a_named_precision_is_taken(precision: str) -> None:
    assert resolve_precision(precision, Accelerator.cpu) == precision


@pytest.mark.parametrize(
    ("avx512", "amx", "expected"),
    [(True, False, "bf16-mixed"), (False, True, "bf16-mixed"), (False, False, "32-true")],
)
def test_auto_follows_the_processor(monkeypatch: pytest.MonkeyPatch, avx512: bool, amx: bool, expected: str) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert resolve_precision("auto", Accelerator.cpu) == expected


@pytest.mark.parametrize(
    ("gpu", "bf16", "expected"),
    [(True, True, "bf16-mixed"), (True, False, "32-true"), (False, True, "32-true")],
)
def test_auto_follows_the_gpu(monkeypatch: pytest.MonkeyPatch, gpu: bool, bf16: bool, expected: str) -> None:
    """A GPU that only emulates bf16 is slower in it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16 or including_emulation)
    assert resolve_precision("auto", Accelerator.gpu) == expected


@pytest.mark.parametrize("name", ["auto", "single_device"])
def test_one_process_needs_no_strategy(name: str) -> None:
    assert make_strategy(TrainerConfig(strategy=name)) == "auto"


def test_strategies_take_their_options() -> None:
    strategy = make_strategy(TrainerConfig(strategy=Strategy.ddp, strategy_options={"find_unused_parameters": True}))
    assert isinstance(strategy, DDPStrategy)
    assert strategy._ddp_kwargs["find_unused_parameters"] is True
    options = {"process_group_backend": "gloo"}
    strategy = make_strategy(TrainerConfig(strategy=Strategy.fsdp, devices=4, num_nodes=2, strategy_options=options))
    assert isinstance(strategy, ModelParallelStrategy) and strategy.process_group_backend == "gloo"
    assert (strategy._data_parallel_size, strategy._tensor_parallel_size) == (8, 1)


def test_missing_deepspeed_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(**_: object) -> None:
        raise ImportError("no module named deepspeed")

    monkeypatch.setattr("tinyllm.student.trainer.Zero", missing)
    with pytest.raises(UserError, match=r"^trainer\.strategy=deepspeed.*make deepspeed"):
        make_strategy(TrainerConfig(strategy=Strategy.deepspeed))


def make(folder: Path, steps_per_epoch: int = 10, **settings: object):
    config = TrainerConfig(**{"precision": "32-true", **settings})  # type: ignore[arg-type]
    return make_trainer(config, folder, steps_per_epoch=steps_per_epoch, loggers=[], callbacks=[])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "16-mixed"}, r"^trainer\.precision=16-mixed"),
        ({"precision": "half"}, r"^trainer: .*half"),
        (
            {"strategy": Strategy.ddp, "strategy_options": {"start_method": "x"}},
            r"^trainer: .*start method",
        ),
        ({"strategy": Strategy.ddp, "strategy_options": {"foo": 1}}, r"^trainer\.strategy_options\.foo"),
        ({"strategy": Strategy.deepspeed, "strategy_options": {"stage": 7}}, r"^trainer\.strategy_options\.stage=7"),
    ],
)
def test_settings_that_can_not_work_are_one_line(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        make(tmp_path, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true", "64-true"])
def test_batches_reach_the_module_with_their_own_types(tmp_path: Path, precision: str) -> None:
    """Lightning's plugins cast every floating-point tensor of a batch, and fail at a frozen dataclass inside of it."""
    convert = make(tmp_path, precision=precision).precision_plugin.convert_input
    asked = QuestionBatch((Question("q", "Who?", ("an owl", "a hen"), "an owl"),), (((1, 2),),), (((3,), (4,)),))
    assert convert(asked) is asked
    factors = torch.tensor([1 / 3])
    assert convert({"normaliser_M": factors})["normaliser_M"] is factors


def test_a_missing_gpu_is_said_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match=r"^trainer\.accelerator=gpu"):
        processes.check(TrainerConfig(accelerator=Accelerator.gpu))


@pytest.mark.parametrize(
    ("steps", "accumulate", "valid_every", "batches"),
    [(100, 1, 0.25, 25), (100, 4, 0.25, 100), (10, 1, 2.0, 20), (3, 2, 0.01, 2)],
)
def test_validation_comes_after_so_many_forward_passes(
    tmp_path: Path, steps: int, accumulate: int, valid_every: float, batches: int
) -> None:
    """`valid_every` is in epochs; Lightning counts forward passes, of which a step has `accumulate`."""
    trainer = make(tmp_path, steps, accumulate_grad_batches=accumulate, valid_every=valid_every)
    assert trainer.val_check_interval == batches
    assert trainer.accumulate_grad_batches == accumulate
    assert trainer.check_val_every_n_epoch is None


def test_the_trainer_keeps_best_and_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    trainer = make(tmp_path, max_epochs=3, max_steps=7, gradient_clip=1.5, log_every=5)
    best, last = (callback for callback in trainer.callbacks if isinstance(callback, ModelCheckpoint))
    assert trainer.checkpoint_callback is best  # whose score and path `fit` reads
    assert (best.filename, best.monitor, best.mode, best.save_top_k) == ("best", "valid/accuracy", "max", 1)
    assert (last.filename, last.monitor, last.save_top_k) == ("last", None, 1)
    assert {str(best.dirpath), str(last.dirpath)} == {str(tmp_path / "checkpoints")}
    assert (trainer.max_epochs, trainer.max_steps, trainer.gradient_clip_val) == (3, 7, 1.5)
    assert trainer.log_every_n_steps == 5
    assert trainer.progress_bar_callback is None


def test_a_missing_file_of_a_strategy_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("deepspeed", reason="needs DeepSpeed: sh .ci/install deepspeed")
    with pytest.raises(UserError, match=r"^trainer: .*nowhere\.json") as caught:
        make(tmp_path, strategy=Strategy.deepspeed, strategy_options={"config": "nowhere.json"})
    assert "\n" not in str(caught.value)


def test_a_run_folder_that_was_moved_keeps_its_best_checkpoint(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    (old / "checkpoints").mkdir(parents=True)
    (old / "checkpoints" / "best.ckpt").write_bytes(b"x")
    before, _ = (one for one in make(old).callbacks if isinstance(one, ModelCheckpoint))
    before.best_model_path = before.kth_best_model_path = str(old / "checkpoints" / "best.ckpt")
    before.best_model_score = before.kth_value = torch.tensor(0.75)
    before.best_k_models = {before.best_model_path: before.best_model_score}
    checkpoint = {"callbacks": {before.state_key: before.state_dict()}}
    old.rename(new)
    trainer = make(new)
    after, _ = (one for one in trainer.callbacks if isinstance(one, ModelCheckpoint))
    Progress(["answer"], "whole").on_load_checkpoint(trainer, LightningModule(), checkpoint)
    after.load_state_dict(checkpoint["callbacks"][after.state_key])
    there = str(new / "checkpoints" / "best.ckpt")
    assert (after.best_model_path, after.best_model_score) == (there, 0.75)
    assert after.best_k_models == {there: 0.75} and after.kth_best_model_path == there
