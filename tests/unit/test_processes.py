"""Which processes a run has, and what a signal does to one."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from lightning.pytorch.utilities import rank_zero_only

from tinyllm import processes
from tinyllm.config import Accelerator, TrainerConfig
from tinyllm.errors import UserError

VARIABLES = (
    "RANK",
    "SLURM_PROCID",
    "SLURM_NTASKS",
    "TORCHELASTIC_RUN_ID",
    "SUBMITIT_LOCAL_GLOBALID",
    "SUBMITIT_LOCAL_NTASKS",
)


@pytest.fixture(autouse=True)
def this_process_stays_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that play another process leave its rank to Lightning, and later runs in this one would log nothing."""
    monkeypatch.setattr(rank_zero_only, "rank", 0)


@pytest.mark.parametrize(
    ("variables", "rank", "outside"),
    [
        ({}, 0, False),
        ({"RANK": "3", "TORCHELASTIC_RUN_ID": "x"}, 3, True),
        ({"SLURM_PROCID": "2", "SLURM_NTASKS": "4"}, 2, True),
        (
            {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"},
            0,
            False,
        ),  # a job of submitit with one task, or an interactive one
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "RANK": "1", "TORCHELASTIC_RUN_ID": "x"}, 1, True),
        ({"SUBMITIT_LOCAL_GLOBALID": "0", "SUBMITIT_LOCAL_NTASKS": "1"}, 0, False),
        ({"SUBMITIT_LOCAL_GLOBALID": "1", "SUBMITIT_LOCAL_NTASKS": "2", "SUBMITIT_LOCAL_JOB_ID": "77"}, 1, True),
    ],
)
def test_who_started_a_process(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], rank: int, outside: bool
) -> None:
    clean = {key: value for key, value in os.environ.items() if key not in VARIABLES}
    monkeypatch.setattr(os, "environ", {**clean, **variables})
    assert (processes.rank(), processes.started_outside()) == (rank, outside)
    assert processes.rank() == rank


def test_minus_one_is_a_process_for_every_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 6)
    assert processes.count(TrainerConfig(devices=-1, accelerator=Accelerator.gpu)) == 6
    assert processes.count(TrainerConfig(devices=-1, accelerator=Accelerator.cpu)) == 1
    assert processes.count(TrainerConfig(devices=3)) == 3


TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "4"}
SRUN = {"SLURM_PROCID": "1", "SLURM_NTASKS": "4"}
SUBMITIT = {"SUBMITIT_LOCAL_GLOBALID": "1", "SUBMITIT_LOCAL_NTASKS": "4", "SUBMITIT_LOCAL_JOB_ID": "77"}


@pytest.mark.parametrize("variables", [TORCHRUN, SRUN, SUBMITIT])
def test_each_process_started_outside_needs_a_device(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    """Else every one of them would train the whole run alone, and write into the same folder."""
    clean = {key: value for key, value in os.environ.items() if key not in VARIABLES}
    monkeypatch.setattr(os, "environ", {**clean, **variables})
    processes.check(TrainerConfig(devices=4))
    processes.check(TrainerConfig(devices=2, num_nodes=2))
    for trainer in (TrainerConfig(devices=1), TrainerConfig(devices=2), TrainerConfig(devices=4, num_nodes=2)):
        with pytest.raises(UserError, match=rf"^trainer\.devices={trainer.devices} and .*found 4 that torchrun"):
            processes.check(trainer)


@pytest.mark.parametrize("devices", [1, 2])
def test_several_machines_need_a_launcher(devices: int) -> None:
    with pytest.raises(UserError, match=r"^trainer\.num_nodes=2.*torchrun"):
        processes.check(TrainerConfig(devices=devices, num_nodes=2))


def test_more_gpus_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    processes.check(TrainerConfig(devices=2, accelerator=Accelerator.gpu))
    processes.check(TrainerConfig(devices=8, accelerator=Accelerator.cpu))
    with pytest.raises(UserError, match=r"^trainer\.devices=8: .*found 2"):
        processes.check(TrainerConfig(devices=8, accelerator=Accelerator.gpu))


def test_each_process_computes_on_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for rank in ("0", "1", "7"):  # the last: its launcher shows it fewer cards
        monkeypatch.setenv("LOCAL_RANK", rank)
        processes.take_device(TrainerConfig(accelerator=Accelerator.gpu))
        processes.take_device(TrainerConfig(accelerator=Accelerator.cpu))
    assert taken == [1]


def _mistake_of_the_first() -> None:
    """The other fails at a connection that is gone, and is seen first."""
    if os.environ["RANK"] == "0":
        raise UserError("data.root: expected a file")
    time.sleep(1)
    raise RuntimeError("connection closed by peer")


@pytest.mark.slow
def test_a_mistake_of_one_process_is_told_whoever_ends_first(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="expected a file"):
        processes.start(_mistake_of_the_first, TrainerConfig(devices=2))


def _names_its_rank(folder: str) -> None:
    from lightning.pytorch.utilities import rank_zero_only

    (Path(folder) / os.environ["RANK"]).write_text(str(rank_zero_only.rank))


@pytest.mark.slow
def test_lightning_knows_which_process_is_the_first(tmp_path: Path) -> None:
    processes.start(_names_its_rank, TrainerConfig(devices=2), str(tmp_path))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"0": "0", "1": "1"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_ends_what_has_nothing_to_save_and_waits_for_what_has(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    preemption = processes.Preemption()
    with processes.handled(preemption):
        preemption.deferred = True
        signal.raise_signal(number)
        assert preemption.received
        preemption.deferred = False
        with pytest.raises(processes.Preempted) as end:
            signal.raise_signal(number)
    assert end.value.code == 144 and signal.getsignal(number) == before


def test_ctrl_c_waits_for_what_has_something_to_save_and_a_second_one_does_not() -> None:
    preemption = processes.Preemption()
    with processes.handled(preemption):
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        preemption = processes.Preemption()
        with processes.handled(preemption):
            preemption.deferred = True
            signal.raise_signal(signal.SIGINT)
            assert preemption.received and isinstance(preemption.end(), KeyboardInterrupt)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    assert isinstance(processes.Preemption().end(), processes.Preempted)


def _interrupts_its_parent(folder: str) -> None:
    if os.environ["RANK"] == "0":
        os.kill(os.getppid(), signal.SIGINT)
    for _ in range(6000):
        time.sleep(0.1)


@pytest.mark.slow
def test_ctrl_c_ends_all_processes_of_a_run(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        processes.start(_interrupts_its_parent, TrainerConfig(devices=2), str(tmp_path))
    assert time.monotonic() - started < 500, "long before they end by themselves"


def test_submitits_handler_is_asked_to_queue_a_job_again() -> None:
    """It is what answers SIGUSR2 in a job, and ends it; without one, the exit code does."""
    calls: list[int] = []
    with pytest.raises(SystemExit) as end:
        processes.leave()
    assert end.value.code == processes.REQUEUE == 144
    former = signal.signal(signal.SIGUSR2, lambda number, frame: calls.append(number))
    try:
        with pytest.raises(SystemExit):
            processes.leave()
    finally:
        signal.signal(signal.SIGUSR2, former)
    assert calls == [signal.SIGUSR2]
