"""SIGTERM and SIGINT in training: a checkpoint is saved, the command to go on is logged, and the process ends."""

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from transformers import Trainer, TrainerCallback

from mmner.training.checkpoints import newest_checkpoint

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StoppedBySignal(SystemExit):
    """Training was stopped by a signal: the process ends with 128 + its number, as in a shell."""


class _SaveAtSignal(TrainerCallback):
    """
    Saves a checkpoint after the optimizer step in which a signal came, to this process or another, and raises. What is
    due at the end of an epoch (evaluation, the choice of the best) is done before.
    """

    def __init__(self, world_size: int):
        self.asked = 0  # the number of the signal that came to this process
        self.agreed = 0  # and to any process, the same on all
        self._leaving = False
        # Of its own, on the CPU: it waits for no GPU and meets no other collective.
        self._group = dist.new_group(backend="gloo") if world_size > 1 else None
        # A signal that is ignored (by a job in the background) stays ignored.
        numbers = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        self._previous: dict[int, Any] = {number: signal.signal(number, self._ask) for number in numbers}

    def _ask(self, number: int, frame: Any) -> None:
        # `timeout` and others signal a process and then its group, so a second signal is no other request.
        if not self.asked:
            self.asked = number
            # Not by a logger, which may be in the middle of a line.
            os.write(2, b"\nStopping: a checkpoint follows this step or evaluation. To end at once: kill -KILL.\n")

    def restore_handlers(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def agree(self) -> int:
        """The signal on which to stop, 0 for none, the same on all processes; each must call it as often."""
        asked = torch.tensor(self.asked)
        if self._group is not None:
            dist.all_reduce(asked, dist.ReduceOp.MAX, group=self._group)
        self.agreed = int(asked)
        return self.agreed

    def on_step_end(self, args, state, control, **kwargs):
        is_last_of_epoch = state.epoch == int(state.epoch)
        if self.agree() and not is_last_of_epoch and not control.should_training_stop:
            control.should_log = control.should_save = self._leaving = True

    def on_epoch_end(self, args, state, control, **kwargs):
        if self.agree():
            control.should_log = control.should_save = self._leaving = True

    def on_save(self, args, state, control, **kwargs):
        if self._leaving:
            raise StoppedBySignal(128 + self.agreed)


@contextlib.contextmanager
def save_at_signal(trainer: Trainer, go_on: Sequence[str] = ()) -> Iterator[None]:
    """
    While this lasts, SIGTERM and SIGINT save a checkpoint at the end of the optimizer step and end the process. With
    several processes each must enter it, and the signal may come to any.

    Args:
        go_on: options that the command needs to go on, beside `--resume_from_checkpoint last`.

    Raises:
        StoppedBySignal: a signal came, and a checkpoint is saved if `--save_strategy` allows.
    """
    callback = _SaveAtSignal(trainer.args.world_size)
    trainer.add_callback(callback)
    try:
        yield
        if callback.agree():  # after the last step
            raise StoppedBySignal(128 + callback.agreed)
    except StoppedBySignal:
        if trainer.is_world_process_zero():
            checkpoint = newest_checkpoint(str(trainer.args.output_dir))
            how = "There is no checkpoint to go on from (--save_strategy no)."
            if checkpoint is not None:
                options = " ".join([*go_on, "--resume_from_checkpoint", "last"])
                how = f"Saved: {checkpoint}. To go on, give the same command with, at its end: {options}"
            state = trainer.state
            logger.warning(
                f"{signal.Signals(callback.agreed).name} stopped the training after step {state.global_step} of "
                f"{state.max_steps}. Nothing is scored or published. {how}"
            )
        raise
    finally:
        callback.restore_handlers()
        trainer.remove_callback(callback)


def ignore_stop_signals(worker: int) -> None:
    """
    For the workers of a data loader (`worker_init_fn`). Terminals, launchers and schedulers signal all processes of a
    run, but a worker must live until the process that it works for has saved; that one can end it.
    """
    if hasattr(signal, "sigwaitinfo"):  # on Linux
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        threading.Thread(target=_end_when_parent_says, daemon=True).start()


def _end_when_parent_says() -> None:
    parent = multiprocessing.parent_process()
    while parent is not None and signal.sigwaitinfo(SIGNALS).si_pid != parent.pid:
        pass
    os._exit(0)
