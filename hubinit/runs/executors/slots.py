"""Does jobs in several slots at once, with one thread for each."""

import time
from collections.abc import Iterator, Sequence
from queue import SimpleQueue
from threading import Thread

from hubinit.runs.executors.spec import Slot
from hubinit.runs.job import LAST, Event, Started
from hubinit.runs.line import Line

GRACE = 30.0  # seconds for an optimiser step to end and its checkpoint to be written


class SlotExecutor:
    """An executor that is made of slots; see `Executor`."""

    grace = GRACE

    def __init__(self, slots: Sequence[Slot]) -> None:
        self.slots = list(slots)
        self.threads: list[Thread] = []
        self.line = Line(())

    def run(self, line: Line) -> Iterator[Event]:
        """Does the jobs of a line; an error in a slot is raised here."""
        told: SimpleQueue[Event | BaseException | None] = SimpleQueue()
        self.line = line
        self.threads = [
            Thread(target=serve, args=(slot, line, told), daemon=True) for slot in self.slots[: max(1, len(line))]
        ]
        for thread in self.threads:
            thread.start()
        at_work = len(self.threads)
        while at_work:
            event = told.get()
            if isinstance(event, BaseException):
                raise event
            if event is None:
                at_work -= 1
            else:
                yield event

    def close(self) -> None:
        """Ends all slots, also in the middle of jobs: gently, and after `grace` seconds or a second Ctrl-C at once."""
        self.line.stop()
        end = time.monotonic() + self.grace
        try:
            for slot in self.slots:
                slot.stop()
            for thread in self.threads:
                thread.join(max(0.0, end - time.monotonic()))
        finally:
            for slot in self.slots:
                slot.kill()
            for thread in self.threads:
                thread.join()
            for slot in self.slots:
                slot.close()


def serve(slot: Slot, line: Line, told: "SimpleQueue[Event | BaseException | None]") -> None:
    """Has one slot do jobs until none is left; the last word is None."""
    job = None
    try:
        while (job := line.take(after=job)) is not None:
            told.put(Started(key=job.spec.key, place=slot.name))
            for event in slot.do(job):
                if isinstance(event, LAST):
                    line.end(job, event)
                told.put(event)
    except BaseException as error:  # for the thread that listens
        told.put(error)
    finally:
        told.put(None)
