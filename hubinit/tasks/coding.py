"""How code is read out of what a model wrote: the rules of the code benchmarks, by name."""

import re

from hubinit.tasks.spec import Reading

FENCE = re.compile(r"```(?:\w+)?\n?(.*?)\n?```", re.DOTALL)
QUOTED = re.compile(r'""".*?"""|' + r"'''.*?'''", re.DOTALL)


def first_block(output: str) -> str | None:
    """The content of the first fenced block; None without a closed one."""
    found = FENCE.search(output)
    return found.group(1) if found else None


def reindented(output: str) -> str | None:
    """The output without fences, docstrings and blank lines, each indentation made four spaces per level.

    Levels are the ranks of the indentations that occur, counted from that of the first line with `def`. None for no code.
    """
    text = QUOTED.sub("", output.replace("```", "").replace("\t", "    "))
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    depths = [len(line) - len(line.lstrip(" ")) for line in lines]
    base = next((depth for line, depth in zip(lines, depths, strict=True) if "def" in line), 0)
    deeper = sorted({depth for depth in depths if depth > base})
    levels = {depth: level for level, depth in enumerate(deeper, 1)}
    code = ["    " * levels.get(depth, 0) + line.lstrip() for line, depth in zip(lines, depths, strict=True)]
    return "\n".join(code) or None


FENCED = Reading(
    name="fenced",
    extract=first_block,
    source="the first fenced block, as lm-eval's mbpp_instruct reads it (tasks/mbpp/utils.py, extract_code_blocks)",
)
LORA_GA = Reading(
    name="lora-ga",
    extract=reindented,
    source="LoRA-GA (arXiv 2407.05000), examples/eval_humaneval.py, and LoRA-One (arXiv 2502.01235), which took it over: the "
    "whole function is asked for in a fenced block and stands after the prompt as its completion",
)
