"""ARC-Easy on SmolLM2-135M: methods × learning rates × seeds, as long as it takes; a second call goes on where the first ended.

Runs go in rounds, every method at one learning rate and one seed before the next, so that a study that is cut off compares like
with like. Results and item records lie in `--runs`; weights are dropped as soon as their run is scored.

    python benchmarks/studies/arc_easy.py --runs study      # the Hub that HF_ENDPOINT names has model and data
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from rounds import drop_weights, in_order, rounds, say

from hubinit.errors import HubinitError
from hubinit.records import ResultStore, RunResult
from hubinit.runs.executors.process import WorkerProcess
from hubinit.runs.job import Died, Finished
from hubinit.runs.plan import PlannedRun, Request, plan
from hubinit.runs.sweep import jobs, store_death

PROTOCOL = Path(__file__).with_suffix(".yaml")
METHODS = ("lora", "pissa", "milora", "eva", "lora-ga", "lora-one", "filet", "lora-da")
FROZEN_A = ("lora", "lora-da")


def main() -> int:
    """Plans, and does what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True)
    store = ResultStore(parser.parse_args().runs)
    try:
        planned = rounds(plan_study(store))
    except HubinitError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    run_all(planned, store)
    return 0


def plan_study(store: ResultStore) -> list[PlannedRun]:
    """The runs of the study, with what is stored of them."""

    def part(methods: tuple[str, ...], optimiser: str) -> list[PlannedRun]:
        request = Request(
            ("smollm2-135m",),
            methods,
            ("arc-easy",),
            optimisers=(optimiser,),
            dtype="bfloat16",
            protocol=str(PROTOCOL),
        )
        return plan(request, store, on_note=say)

    return part(("none", *METHODS), "adamw") + part(FROZEN_A, "frozen-a")


def run_all(planned: Sequence[PlannedRun], store: ResultStore) -> None:
    """Does what is missing, in this order, in one worker that keeps the base."""
    batch = Request((), protocol=str(PROTOCOL)).read_protocol().eval_batch_size
    todo = in_order(jobs(planned, store, eval_batch_size=batch, force=False), planned)
    say(f"{len(planned)} runs, {len(planned) - len(todo)} finished before")
    with closing(WorkerProcess()) as worker:
        for number, job in enumerate(todo, start=1):
            for event in worker.do(job):
                event = store_death(event, job, store) if isinstance(event, Died) else event
                if isinstance(event, Finished) and (result := store.readable(event.key)) is not None:
                    say(f"{number:4d} of {len(todo)}: {told(result)}")
                    drop_weights(result, store)


def told(result: RunResult) -> str:
    """A result in one line."""
    spec = result.spec
    score = next((f"{100 * score.value:.1f} %" for score in result.scores if score.primary), "no score")
    loss = f"{result.validation_loss:.4f}" if result.validation_loss is not None else "-"
    optimiser = spec.recipe.optimiser if spec.recipe is not None else "-"
    seconds = sum(cost.seconds for cost in result.costs.values())
    words = (
        f"{spec.method.name} {optimiser} lr {spec.learning_rate:g} seed {spec.seed}: {result.status}, validation loss"
    )
    return f"{words} {loss}, {score}, {seconds:.0f} s" + (f" ({result.reason})" if result.reason else "")


if __name__ == "__main__":
    sys.exit(main())
