"""A worker without a model: it takes half a second for a run, under its lease as the real one does."""

from collections import Counter
from collections.abc import Sequence

from hubinit.records import ResultStore, RunResult
from hubinit.runs.plan import PlannedRun
from hubinit.specs import MethodSpec, ModelSpec, RunSpec

# It notes which runs it takes to the end. Seed 99 kills whoever started it.
SCRIPT = """
import os, signal, sys, time
from hubinit.runs.costs import provenance
from hubinit.runs.lease import leased
from hubinit.records import ResultStore, RunResult
from hubinit.runs.job import Busy, Finished, Job, Progress, find_done
def emit(event): print(event.model_dump_json(), flush=True)
for line in sys.stdin:
    job = Job.model_validate_json(line)
    key, spec = job.spec.key, job.spec
    with leased(job.store, key) as holder:
        if holder is not None:
            end = Busy(key=key, holder=str(holder))
        elif (end := find_done(job)) is None:
            emit(Progress(key=key, stage="train"))
            if spec.seed == 99:
                os.kill(os.getppid(), signal.SIGKILL)  # the actor
                sys.exit(1)
            time.sleep(0.5)
            loss = spec.seed / 8
            result = RunResult(key=key, spec=spec, status="ok", validation_loss=loss, provenance=provenance("x"))
            ResultStore(job.store).write(result)
            with (job.store / "notes").open("a") as notes: notes.write(key + chr(10))
            end = Finished(key=key, status="ok")
    emit(end)
"""


def planned(count: int) -> list[PlannedRun]:
    """So many runs, of two bases in turn."""
    specs = [
        RunSpec(model=ModelSpec(id=f"org/{'ab'[seed % 2]}"), method=MethodSpec(name="lora"), rank=4, alpha=8, seed=seed)
        for seed in range(count)
    ]
    return [PlannedRun(spec, "arc-easy", ()) for spec in specs]


def check_undisturbed(results: Sequence[RunResult], runs: Sequence[PlannedRun], store: ResultStore) -> None:
    """Every run has the result that it would have had alone, and was done once to the end."""
    assert [(result.status, result.validation_loss) for result in results] == [
        ("ok", run.spec.seed / 8) for run in runs
    ]
    assert Counter((store.root / "notes").read_text().split()) == {run.spec.key: 1 for run in runs}
