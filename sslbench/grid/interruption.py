"""Being told by the scheduler that a job will be ended."""

import logging
import signal
import threading
import time
from types import FrameType
from typing import Any, NoReturn

PATIENCE_SECONDS = 120.0

log = logging.getLogger(__name__)


class Requeue:
    """Lets a training run save its state at the next step when SLURM is about to end it.

    Inside the `with`, SIGUSR2 (a time limit or preemption, as submitit has it) makes the run save,
    and only then goes to submitit's own handler, which queues the job again. SIGTERM makes it save
    and go on: what follows is a kill, after which SLURM itself queues the job again where it means
    to. Does nothing outside the main thread, where no signal can be handled.
    """

    def __init__(self) -> None:
        self._signals: list[int] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Requeue":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGUSR2, signal.SIGTERM):
                if callable(signal.getsignal(number)):  # submitit has prepared this job
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if error is None and signal.SIGUSR2 in self._signals:  # came after the last step
            self._leave()

    def _note(self, number: int, frame: FrameType | None) -> None:
        log.warning("%s: the state will be saved after this step", signal.Signals(number).name)
        self._signals.append(number)

    def asked(self) -> bool:
        """Whether a signal has come since the last save."""
        return bool(self._signals)

    def saved(self) -> None:
        """Go on after SIGTERM; after SIGUSR2 the job is queued again and this does not return."""
        noted, self._signals = self._signals, []
        if signal.SIGUSR2 in noted:
            self._leave()

    def _leave(self) -> NoReturn:
        """The job's first process queues it again; the others wait for SLURM to end them."""
        try:
            self._before[signal.SIGUSR2](signal.SIGUSR2, None)
            time.sleep(PATIENCE_SECONDS)
        except Exception:  # this is no failure of the method: the next `run` submits it again
            log.exception("the job could not be queued again")
        raise SystemExit(1)
