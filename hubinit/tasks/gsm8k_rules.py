"""How GSM8K answers are read: by its authors, by lm-eval, and by the released code of the papers that report on it.

Each rule is named after who reads so and follows their code in what it lets pass: a score under it means what theirs means.
The rules differ in signs, thousands separators, fractions, rounding and in which of several answers counts.
"""

import math
import re
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction

from hubinit.tasks.math_verify import math_verify_rule
from hubinit.tasks.spec import Document, Rule

MARKED = re.compile(r"#### (\-?[0-9\.\,]+)")  # of grade-school-math, and of lm-eval's strict-match
LAST_NUMBER = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")  # of lm-eval's flexible-extract
METAMATH_NUMBER = re.compile(r"[\-+]?\d*[\.,/]?\d+")  # one separator only: "1,234,567" ends after "1,234"
PHRASE = "The answer is: "
PHRASES = (PHRASE, "The answer is ", "The final answer is: ", "The final answer is ", "#### ")  # in the order of PEFT


def reference(document: Document) -> str:
    """The number of a reference solution, as it is written there."""
    return str(document["answer"]).split("#### ")[-1].strip()


def reference_number(document: Document) -> int:
    """The number of a reference solution; all of GSM8K's are whole."""
    return int(reference(document).replace(",", ""))


def extract_strict(output: str) -> str | None:
    """The first number after `#### `, without its commas."""
    found = MARKED.search(output)
    return found.group(1).replace(",", "") if found else None


def extract_marked(output: str) -> str | None:
    """The first number after `#### `, as it is written."""
    found = MARKED.search(output)
    return found.group(1) if found else None


def extract_last(output: str) -> str | None:
    """The last number, or run of digits, dollars, points and commas."""
    found = LAST_NUMBER.findall(output)
    return next(group for group in found[-1] if group) if found else None


def same_text(answer: str, document: Document) -> bool:
    """lm-eval's exact match for GSM8K: without commas, dollars, what stands before `#### `, a final point, and case."""

    def plain(text: str) -> str:
        return re.sub(r"\.$", "", text.replace(",", "").replace("$", "").rpartition("#### ")[2]).lower()

    return plain(answer) == plain(str(document["answer"]))


def rounded(answer: str, *, zero: Callable[[str], float | None]) -> str | None:
    """The first number of a text, rounded to a whole one; a fraction is evaluated.

    Args:
        answer: begins with the number, or has words before it.
        zero: numerator ─► the value of a fraction whose denominator is 0; None: it has none.
    """
    found = METAMATH_NUMBER.search(answer)
    if not found:
        return None
    number = found.group().replace(",", "")
    try:
        if number.endswith("/0"):
            value = zero(number.removesuffix("/0"))
        else:
            value = float(Fraction(number)) if "/" in number else float(number)
        return None if value is None else str(round(value))
    except (ValueError, ArithmeticError):  # no numerator, or beyond what a float or an int can hold
        return None


def extract_lora_da(output: str) -> str | None:
    """After the last `####`, else after the last `The answer is: `."""
    mark = "####" if "####" in output else PHRASE
    return rounded(output.rpartition(mark)[2].strip(), zero=lambda numerator: None) if mark in output else None


def extract_milora(output: str) -> str | None:
    """After the last `The answer is: `; `####` does not count."""
    return rounded(output.rpartition(PHRASE)[2].strip(), zero=float) if PHRASE in output else None


def close(answer: str, document: Document) -> bool:
    """The numeric part of `math_equal`: equal within 1e-4, also to a hundredth and to the hundredfold of the reference."""
    wanted = reference_number(document)
    return numbers_close(float(answer), wanted)


def numbers_close(value: float, wanted: float) -> bool:
    """Whether two numbers are equal within 1e-4 of the larger, or would be if one of them were a percentage."""
    return any(math.isclose(value, target, rel_tol=1e-4) for target in (wanted / 100, wanted, wanted * 100))


def extract_lora_ga(output: str) -> str:
    """The digits after the first `####`: no sign, nothing after a comma; 0 where there are none."""
    found = re.search(r"####\s*(\d+)", output)
    try:
        return str(int(found.group(1))) if found else "0"
    except ValueError:  # thousands of digits
        return "0"


def extract_peft(output: str) -> str | None:
    """The rest of the line after the last of the first phrase that occurs, without marks at its ends."""
    text = output.strip().rstrip(".!?")
    phrase = next((phrase for phrase in PHRASES if phrase in text), None)
    return text.rpartition(phrase)[2].strip().split("\n", 1)[0].strip(" .!?$%") if phrase else None


def peft_value(text: str) -> float | str:
    """A number or fraction as a float, anything else as it is; a comma makes it text."""
    try:
        parts = [Decimal(part.strip()) for part in text.split("/")]
        return float(parts[0] / parts[1]) if len(parts) == 2 else float(parts[0]) if len(parts) == 1 else text
    except (ValueError, ArithmeticError):
        return text


def same_value(answer: str, document: Document) -> bool:
    """Equal as floats, or as texts where one is not a number."""
    return peft_value(answer) == peft_value(extract_peft(str(document["answer"])) or "")


STRICT_MATCH = Rule(
    "exact_match,strict-match", extract_marked, same_text, "lm-eval gsm8k.yaml: the first `#### (\\-?[0-9\\.\\,]+)`"
)
FLEXIBLE_EXTRACT = Rule(
    "exact_match,flexible-extract", extract_last, same_text, "lm-eval gsm8k.yaml: the last number of the output"
)
STRICT = Rule(
    "strict",
    extract_strict,
    lambda answer, document: answer == extract_strict(str(document["answer"])),
    "openai/grade-school-math dataset.py: the first `#### (\\-?[0-9\\.\\,]+)` without commas equals the reference's",
)
LORA_DA = Rule(
    "lora-da",
    extract_lora_da,
    close,
    "zqy0126/LoRA-DA eval_gsm8k.py: after the last `####`, else after `The answer is: `; rounded; right within 1e-4, "
    "also at a hundredth and the hundredfold",
)
MILORA = Rule(
    "milora",
    extract_milora,
    close,
    "MiLoRA's GSM8K evaluation (that of WizardMath): after the last `The answer is: `; rounded; right as for lora-da",
)
LORA_GA = Rule(
    "lora-ga",
    extract_lora_ga,
    lambda answer, document: answer == extract_lora_ga(str(document["answer"])),
    "Outsider565/LoRA-GA eval_gsm8k.py: the first `####\\s*(\\d+)` of output and reference, 0 without one: signs and what "
    "follows a comma do not count, and no output is invalid",
)
PEFT_METAMATH = Rule(
    "peft-metamath",
    extract_peft,
    same_value,
    "huggingface/peft method_comparison/MetaMathQA/utils.py parse_answer and get_accuracy: `The answer is` before `####`; "
    "equal as numbers or as texts, so that 1,200 is not 1200",
)
MATH_VERIFY = math_verify_rule(reference)
GSM8K_RULES = (STRICT_MATCH, FLEXIBLE_EXTRACT, STRICT, LORA_DA, MILORA, LORA_GA, PEFT_METAMATH, MATH_VERIFY)
