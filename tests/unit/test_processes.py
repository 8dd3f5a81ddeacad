"""Which processes a run has, and what a signal does to one."""

from __future__ import annotations

import os
import signal

import pytest
import torch

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


def test_several_machines_need_a_launcher() -> None:
    with pytest.raises(UserError, match=r"^trainer\.num_nodes=2.*torchrun"):
        processes.start(print, TrainerConfig(devices=2, num_nodes=2))


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
