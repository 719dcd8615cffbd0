"""Scoring against the usual ways: the same model, the same items, the answers compared item for item.

Four tables. Log-likelihoods: lm-eval's evaluator with its own HFLM, at the best of the batch sizes, against our trees. Adapters:
scored one after the other on one base in memory, against lm-eval with `peft=` given, which loads base and adapter for each. The
time until an adapter is ready, by itself. Free text: batches of prompts of like length against batches in the order of the file.
The two ways take turns; a ratio is the median over the rounds, of the processor's seconds, which a shared machine disturbs less.

    python benchmarks/eval_speed.py      # the Hub that HF_ENDPOINT names has model and data
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from hubinit import tasks
from hubinit.adapters import detach
from hubinit.adapters.swap import next_adapter
from hubinit.errors import HubinitError
from hubinit.models.base import download, load
from hubinit.models.names import pin, resolve
from hubinit.records import Item
from hubinit.runs.costs import provenance
from hubinit.runs.sweep import command_line
from hubinit.scoring import lm_eval as ours
from hubinit.scoring.evaluate import evaluate_one
from hubinit.scoring.generation import generate
from hubinit.specs import EvalSpec
from hubinit.tasks import harness
from hubinit.tasks.rows import read_documents
from hubinit.tasks.spec import Decoding

RESULTS = Path(__file__).resolve().parent / "results"
ADAPTER_TASK = "arc-easy"


@dataclass(frozen=True)
class Pair:
    """One thing done in the usual way and in ours, in turns; processor seconds and seconds of each round."""

    what: str
    usual: list[tuple[float, float]]
    own: list[tuple[float, float]]
    note: str = ""

    @property
    def ratio(self) -> float:
        """How many times as fast, in processor seconds."""
        return median(usual[0] / own[0] for usual, own in zip(self.usual, self.own, strict=True))

    @property
    def wall_ratio(self) -> float:
        """The same in seconds of the clock."""
        return median(usual[1] / own[1] for usual, own in zip(self.usual, self.own, strict=True))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tasks", default="arc-easy,arc-challenge,openbookqa,hellaswag,piqa,siqa,winogrande,boolq")
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--batch-sizes", default="16,64", help="tried for HFLM; ours takes the last")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--adapters", type=int, default=8, help="0: leave them out")
    parser.add_argument("--adapter-questions", type=int, default=8, help="that each adapter is scored on")
    parser.add_argument("--free-task", default="gsm8k", help="whose questions are answered in free text")
    parser.add_argument("--prompts", type=int, default=16, help="of free text; 0: leave it out")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def main() -> int:
    """Measures every task, then the adapters, then free text."""
    options = arguments()
    sizes = [int(size) for size in options.batch_sizes.split(",")]
    pairs: list[Pair] = []
    code = 0
    try:
        spec = pin(resolve(options.model).model_copy(update={"dtype": "float32"}))
        loaded = load(spec)
        for name in filter(None, options.tasks.split(",")):
            pairs.append(say(log_likelihoods(loaded, name, options.questions, sizes, options.rounds)))
        if options.adapters:
            pairs += map(say, adapters(loaded, options.adapters, options.adapter_questions, sizes[0], options.rounds))
        if options.prompts:
            pairs.append(say(free_text(loaded, options.free_task, options.prompts, options.rounds)))
    except HubinitError as error:
        print(f"Error: {error}", file=sys.stderr)
        code = 1
    if pairs:  # what was measured is kept
        write(pairs, options)
    return code


def in_turns(what: str, usual: Callable[[], Any], own: Callable[[], Any], rounds: int) -> tuple[Pair, Any, Any]:
    """Both ways, turn by turn; the measurements, and what each of them last gave."""
    times: tuple[list[tuple[float, float]], list[tuple[float, float]]] = ([], [])
    results: list[Any] = [None, None]
    for _ in range(rounds):
        for way, work in enumerate((usual, own)):
            *spent, results[way] = timed(work)
            times[way].append((round(spent[0], 3), round(spent[1], 3)))
    return Pair(what, *times), *results


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Processor seconds, seconds, and result."""
    cpu, clock = time.process_time(), time.perf_counter()
    result = work()
    return time.process_time() - cpu, time.perf_counter() - clock, result


def log_likelihoods(loaded: Any, name: str, questions: int, sizes: list[int], rounds: int) -> Pair:
    """One task with HFLM at its best batch size, and with our trees."""
    evaluation = EvalSpec(task=name, revision=tasks.pin(name), limit=questions)
    small = evaluation.model_copy(update={"limit": 4})
    for way in (score_plain, score):
        way(loaded, small, 4)  # warm-up
    best = min(sizes, key=lambda size: timed(lambda: score_plain(loaded, evaluation, size))[0])
    pair, theirs, items = in_turns(
        f"{name}, {questions} questions",
        lambda: score_plain(loaded, evaluation, best),
        lambda: score(loaded, evaluation, sizes[-1]),
        rounds,
    )
    both = list(zip(items, theirs, strict=True))
    differ = sum(a.values != b.values for a, b in both)
    largest = max(abs(x - y) for a, b in both for x, y in zip(a.log_likelihoods, b.log_likelihoods, strict=True))
    note = f"HFLM in batches of {best}; {differ} of {len(both)} items differ, log-likelihoods by {largest:.1e} at most"
    return Pair(pair.what, pair.usual, pair.own, note)


def score(loaded: Any, evaluation: EvalSpec, batch_size: int) -> list[Item]:
    """The items of one evaluation."""
    return evaluate_one(loaded.model, loaded.processor, evaluation, batch_size=batch_size).items


def score_plain(loaded: Any, evaluation: EvalSpec, batch_size: int) -> list[Item]:
    """The same with lm-eval's own model, its logits_cache and logarithms in float32."""
    from lm_eval.models.huggingface import HFLM

    def plain(model: Any, tokenizer: Any, size: int, on_progress: Any) -> Any:
        return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=size, softmax_dtype="float32")

    made, ours.lm_eval_model = ours.lm_eval_model, plain  # type: ignore[assignment]
    try:
        return score(loaded, evaluation, batch_size)
    finally:
        ours.lm_eval_model = made


def adapters(loaded: Any, count: int, questions: int, batch_size: int, rounds: int) -> list[Pair]:
    """`count` adapters scored, and only made ready, in both ways. Both score the same task object in memory.

    The first adapter on a bare base is built by PEFT, the others are written over it: made ready both with and without the first.
    """
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    evaluation = EvalSpec(task=ADAPTER_TASK, revision=tasks.pin(ADAPTER_TASK), limit=questions)
    definition = harness.load(tasks.get(ADAPTER_TASK), evaluation.revision)
    base, manager = str(download(loaded.spec)), TaskManager(include_defaults=False)
    arguments = {"pretrained": base, "dtype": "float32", "device": str(loaded.device), "batch_size": batch_size}

    def swap(use: Callable[[Any], Any], first: Any = None) -> list[Any]:
        model, found = first or loaded.model, []
        for folder in folders:
            model = next_adapter(model, folder)
            found.append(use(model))
        if first is None:
            detach(model)
        return found

    def scored(model: Any) -> float:
        return evaluate_one(model, loaded.processor, evaluation, batch_size=batch_size).scores[0].value

    def reload_and_score() -> list[float]:
        found = []
        for folder in folders:
            results = lm_eval.simple_evaluate(
                HFLM(peft=folder, **arguments),
                tasks=[definition],
                task_manager=manager,
                limit=questions,
                num_fewshot=0,
                bootstrap_iters=0,
            )
            found.append(results["results"]["arc_easy"]["acc,none"])
        return found

    with tempfile.TemporaryDirectory() as root:
        folders = [save_adapter(loaded, Path(root) / str(number), number) for number in range(count)]
        whole, theirs, own = in_turns(
            f"{count} adapters, each scored on {questions} questions of {ADAPTER_TASK}",
            reload_and_score,
            lambda: swap(scored),
            rounds,
        )
        reload = lambda: [HFLM(peft=folder, **arguments).batch_size for folder in folders]  # noqa: E731
        ready = in_turns(f"{count} adapters until they are ready", reload, lambda: swap(lambda model: None), rounds)[0]
        first = next_adapter(loaded.model, folders[-1])
        further = in_turns(
            f"{count} adapters after a first one until they are ready",
            reload,
            lambda: swap(lambda model: None, first),
            rounds,
        )[0]
        detach(first)
    note = f"accuracies {'equal' if theirs == own else f'differ: {theirs} and {own}'}"
    return [Pair(whole.what, whole.usual, whole.own, note), ready, further]


def save_adapter(loaded: Any, folder: Path, seed: int) -> str:
    """An adapter of rank 16 with random factors; returns its folder."""
    torch.manual_seed(seed)
    config = LoraConfig(r=16, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(loaded.model, config)
    model.save_pretrained(folder)
    model.unload()
    return str(folder)


def free_text(loaded: Any, name: str, count: int, rounds: int, batch_size: int = 8) -> Pair:
    """Questions answered in batches of like length, and in batches as they come."""
    task, revision = tasks.get(name), tasks.pin(name)
    if task.generative:
        prompts = list(map(task.generative.prompt, read_documents(task, revision, count).values()))
    else:
        definition = harness.load(task, revision)
        prompts = [definition.doc_to_text(row) for row in definition.eval_docs.select(range(count))]
    decoding = Decoding(max_new_tokens=64, stop=("Question:",))

    def answer(texts: list[str]) -> list[list[str]]:
        return generate(loaded.model, loaded.processor, texts, decoding, batch_size=batch_size)

    def as_they_come() -> list[list[str]]:
        return [one for start in range(0, count, batch_size) for one in answer(prompts[start : start + batch_size])]

    pair, theirs, own = in_turns(f"{count} answers to {name}", as_they_come, lambda: answer(prompts), rounds)
    same = sum(a == b for a, b in zip(theirs, own, strict=True))
    return Pair(pair.what, pair.usual, pair.own, f"{same} of {count} answers are the same to the letter")


def say(pair: Pair) -> Pair:
    """Progress."""
    print(f"{pair.what}: {pair.ratio:.2f} times as fast ({pair.note})", flush=True)
    return pair


def write(pairs: list[Pair], options: argparse.Namespace) -> None:
    """Writes the record as JSON and as a table."""
    facts = provenance(command_line()).model_dump(mode="json")
    rows = [asdict(pair) | {"ratio": pair.ratio, "wall_ratio": pair.wall_ratio} for pair in pairs]
    record = {
        **facts,
        "model": options.model,
        "threads": torch.get_num_threads(),
        "rounds": options.rounds,
        "rows": rows,
    }
    lines = [
        f"# Scoring, {options.model} in float32, {facts['hardware']['cpu']}, {torch.get_num_threads()} threads",
        "",
        f"Processor seconds, the median of {options.rounds} rounds in which the two ways took turns.",
        "",
        "| what | usual | hubinit | times as fast | by the clock | note |",
        "|---|--:|--:|--:|--:|---|",
    ]
    for pair in pairs:
        usual, own = (median(cpu for cpu, _ in times) for times in (pair.usual, pair.own))
        lines.append(
            f"| {pair.what} | {usual:.2f} | {own:.2f} | {pair.ratio:.2f} | {pair.wall_ratio:.2f} | {pair.note} |"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    stem = options.out / f"eval_speed-cpu-{options.model}"
    stem.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    stem.with_suffix(".md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    sys.exit(main())
