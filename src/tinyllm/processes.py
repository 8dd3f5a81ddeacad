"""The processes of one training run on this machine (started here, or by torchrun, SLURM or submitit), and signals that
ask them to leave."""

from __future__ import annotations

import logging
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from types import FrameType
from typing import Any, NoReturn

from tinyllm.config import Accelerator, TrainerConfig
from tinyllm.errors import UserError
from tinyllm.shown import log_visibly

REQUEUE = 144
"""Exit code of a run that a signal has ended: submitit's local executor starts such a job again."""
log = logging.getLogger(__name__)
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""Ctrl-C, and what a cluster sends before it takes a machine away; the last is submitit's."""
_GRACE = 10.0
"""Seconds that the other processes have when one has ended before its time."""


class Preempted(SystemExit):
    """A signal has ended the run; the same command resumes it."""


class Preemption:
    """What a signal does: it ends the process at once, or where there is something to save, as soon as that is done."""

    def __init__(self) -> None:
        self.received = False
        self.interrupted = False
        """By Ctrl-C."""
        self.deferred = False
        """Whether someone looks at `received`."""

    def __call__(self, number: int, frame: FrameType | None) -> None:
        again = self.interrupted
        self.received, self.interrupted = True, again or number == signal.SIGINT
        if number == signal.SIGINT and (again or not self.deferred):
            raise KeyboardInterrupt
        if not self.deferred:
            raise Preempted(REQUEUE)
        if number == signal.SIGINT and rank() == 0:
            log.info("interrupted: this step is finished and saved first; Ctrl-C once more ends at once")

    def end(self) -> BaseException:
        """What to raise when all is saved."""
        return KeyboardInterrupt() if self.interrupted else Preempted(REQUEUE)

    def listen(self) -> None:
        """Handle the signals; Lightning puts handlers of its own in their place when a training begins."""
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                signal.signal(number, self)


PREEMPTION = Preemption()
"""Of this process: signals have one handler."""


@contextmanager
def handled(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    """Signals that ask to leave go to this handler, and to the former ones again at the end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def leave() -> NoReturn:
    """End this process so that its job is started again: by submitit's own handler where it is one of its jobs."""
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        handler = signal.getsignal(number)
        if callable(handler):
            handler(number, None)
    raise SystemExit(REQUEUE)


def rank() -> int:
    """Of this process among those of its run; 0 where it is alone."""
    names = ("RANK", "SLURM_PROCID", "SUBMITIT_LOCAL_GLOBALID")
    return next((int(os.environ[name]) for name in names if name in os.environ), 0)


def started_outside() -> bool:
    """Whether torchrun, SLURM or submitit has started this process beside others of its run."""
    tasks = int(os.environ.get("SUBMITIT_LOCAL_NTASKS", "1"))
    if tasks > 1 and "RANK" not in os.environ:  # submitit's local executor tells what torchrun would, by other names
        job = int(os.environ["SUBMITIT_LOCAL_JOB_ID"])
        _tell(rank(), tasks, port=20000 + job % 40000)
    return "TORCHELASTIC_RUN_ID" in os.environ or int(os.environ.get("SLURM_NTASKS", "1")) > 1


def check(trainer: TrainerConfig) -> None:
    """That there are the devices and processes that a trainer's settings ask for.

    Raises:
        UserError: fewer GPUs; another number of processes started outside, which would all train the same run; or none
            for several machines.
    """
    wanted = count(trainer) * trainer.num_nodes
    asked = f"trainer.devices={trainer.devices} and trainer.num_nodes={trainer.num_nodes}"
    if started_outside():
        found = int(os.environ["WORLD_SIZE" if "TORCHELASTIC_RUN_ID" in os.environ else "SLURM_NTASKS"])
        if found != wanted:
            raise UserError(
                f"{asked}: expected {wanted} {'process' if wanted == 1 else 'processes'}, found {found} that torchrun, "
                "SLURM or submitit has started: set both keys to what it starts, one process for each device"
            )
    elif trainer.num_nodes > 1:
        raise UserError(
            f"trainer.num_nodes={trainer.num_nodes}: expected processes that torchrun or SLURM has started on every "
            "machine, found none: 'torchrun --no-python --nnodes=... --nproc-per-node=... tinyllm train ...'"
        )
    check_gpu(trainer)
    if trainer.accelerator is Accelerator.gpu and trainer.devices > 0:
        import torch

        if 0 < (there := torch.cuda.device_count()) < trainer.devices and "SLURM_PROCID" not in os.environ:
            raise UserError(
                f"trainer.devices={trainer.devices}: expected as many CUDA GPUs, found {there}: set it to fewer"
            )


def check_gpu(trainer: TrainerConfig) -> None:
    """That there is a GPU, where one is asked for.

    Raises:
        UserError: there is none.
    """
    if trainer.accelerator is Accelerator.gpu:
        import torch

        if torch.cuda.device_count() == 0:
            raise UserError("trainer.accelerator=gpu: no CUDA GPU is visible; choose trainer=cpu")


def take_device(trainer: TrainerConfig) -> None:
    """Make the GPU of this process its default one, before anything is computed."""
    local = int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")))
    if trainer.accelerator is Accelerator.gpu and local:
        import torch

        if local < torch.cuda.device_count():  # else the launcher shows each process its own card alone
            torch.cuda.set_device(local)


def _tell(index: int, processes: int, port: int) -> None:
    """Tell this process what torchrun would, on one machine."""
    os.environ |= {
        "RANK": str(index),
        "LOCAL_RANK": str(index),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": str(port),
    }
    from lightning.pytorch.utilities import rank_zero_only

    rank_zero_only.rank = index  # type: ignore[attr-defined]  # it was drawn from the environment when Lightning was imported


def count(trainer: TrainerConfig) -> int:
    """Processes of a run on this machine."""
    if trainer.devices != -1:
        return trainer.devices
    import torch  # the command line, which imports this module, starts without it

    return torch.cuda.device_count() if trainer.accelerator is Accelerator.gpu else 1


def is_single(trainer: TrainerConfig) -> bool:
    """Whether a run has one process."""
    return count(trainer) * trainer.num_nodes == 1


def log_plainly() -> None:
    """Plain lines, of the run's first process alone; errors of all."""
    log_visibly(logging.INFO if rank() == 0 else logging.ERROR, force=True)
    loud = ("httpx", "httpx2", "httpcore", "datasets", "filelock", "fsspec", "lightning.pytorch", "lightning.fabric")
    for name in loud:
        logging.getLogger(name).setLevel(logging.WARNING)  # Lightning sets its own when it is imported
    logging.getLogger("huggingface_hub").propagate = False  # it has a handler of its own
    warnings.filterwarnings("ignore", module=r"(lightning|torch|transformers)\b.*")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)  # transformers imports it where it is installed


def start(run: Callable[..., None], trainer: TrainerConfig, *arguments: Any) -> None:
    """Run a function in as many processes as a trainer's settings ask for, as torchrun would start them on one machine.

    A signal that asks to leave goes on to all of them; when one fails, the others end too.

    Args:
        run: importable by name.
        trainer: names devices.
        arguments: of `run`.

    Raises:
        UserError: one that `run` has raised.
        OSError: one that `run` has raised.
        Preempted: when the processes have left after a signal.
        ProcessExitedException: when one has died.
        ProcessRaisedException: of `torch.multiprocessing`, with the traceback of any other exception.
    """
    from torch.distributed.elastic.utils.distributed import get_free_port
    from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, start_processes

    processes = count(trainer)
    mistakes = get_context("spawn").SimpleQueue()
    shared = (processes, get_free_port(), mistakes, run, arguments)
    context = start_processes(_worker, shared, processes, join=False, start_method="spawn")

    passed: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        passed.append(number)
        # A terminal sends Ctrl-C to all processes: a second one from here would end them at once.
        number = signal.SIGTERM if number == signal.SIGINT else number
        for process in context.processes:
            if process.is_alive():
                os.kill(process.pid, number)

    try:
        with handled(pass_on):
            while not context.join(grace_period=_GRACE):
                pass
    except (ProcessExitedException, ProcessRaisedException) as error:
        if not mistakes.empty():  # of one process; others may have failed because it was gone
            raise mistakes.get() from error
        if isinstance(error, ProcessRaisedException):
            raise
        if signal.SIGINT in passed:
            raise KeyboardInterrupt from error
        if passed or error.exit_code == REQUEUE:  # one that was still starting has died of the signal
            raise Preempted(REQUEUE) from error
        raise
    finally:
        for process in context.processes:
            if process.is_alive():
                process.terminate()
    if signal.SIGINT in passed:  # of which torch's own processes end as if all were well
        raise KeyboardInterrupt


def _worker(
    index: int, processes: int, port: int, mistakes: Any, run: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    import torch

    _tell(index, processes, port)
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))
    log_plainly()
    try:
        run(*arguments)
    except (UserError, OSError) as error:
        mistakes.put(error)
        raise SystemExit(2) from error
