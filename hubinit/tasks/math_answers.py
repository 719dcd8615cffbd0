"""How MATH answers are read and compared: the clean-up of its authors, and MiLoRA's on top of it.

Hendrycks et al. 2021 (arXiv 2103.03874): two answers are the same if their LaTeX is, after a clean-up that knows the habits of
the reference solutions. github.com/hendrycks/math: `modeling/math_equivalence.py`, `modeling/dataset/util.py`.
"""

import re

from hubinit.tasks.gsm8k_rules import PHRASE, numbers_close
from hubinit.tasks.math_verify import math_verify_rule
from hubinit.tasks.spec import Document, Rule

REPLACED = (
    ("\n", ""),
    ("\\!", ""),
    ("\\\\", "\\"),
    ("tfrac", "frac"),
    ("dfrac", "frac"),
    ("\\left", ""),
    ("\\right", ""),
    ("^{\\circ}", ""),
    ("^\\circ", ""),
    ("\\$", ""),
)
INTEGER = r"(0|-?[1-9][0-9]*)"


def last_boxed(text: str) -> str | None:
    r"""What stands in the last `\boxed{…}`; None without one, or where it does not end."""
    start = text.rfind("\\boxed")
    depth = 0
    if start < 0 or text[start + 6 : start + 7] != "{":
        return None
    for brace in re.finditer(r"[{}]", text[start:]):
        depth += 1 if brace.group() == "{" else -1
        if depth == 0:
            return text[start + 7 : start + brace.start()]
    return None


def reference(document: Document) -> str:
    r"""The reference answer: a column of its own, or the last box of the solution.

    A few solutions have it without braces, `$\boxed 2$` (hendrycks/math issue 23); it ends with the formula, as in lm-eval.

    Raises:
        ValueError: the solution does not have one.
    """
    if "answer" in document:
        return str(document["answer"])
    solution = str(document["solution"])
    found = last_boxed(solution)
    if found is None and "\\boxed " in solution:
        found = solution.rpartition("\\boxed ")[2].partition("$")[0]
    if found is None:
        raise ValueError("the solution has no \\boxed answer")
    return found


def clean_up(latex: str) -> str:
    """LaTeX without what does not matter: spacing, sizes, degrees, dollars, units, percent signs, `x=`; fractions in one form.

    Raises:
        ValueError: it has two units, or a root or fraction of nothing.
    """
    for old, new in REPLACED:
        latex = latex.replace(old, new)
    if "\\text{ " in latex:  # a unit, in the reference solutions
        latex, _unit = latex.split("\\text{ ")
    latex = latex.replace("\\%", "").replace(" .", " 0.").replace("{.", "{0.")
    if latex.startswith("."):
        latex = "0" + latex
    left, equals, right = latex.partition("=")
    if equals and "=" not in right and len(left) <= 2:
        latex = right
    latex = write_fractions(write_roots(latex).replace(" ", ""))
    if latex == "0.5":
        return "\\frac{1}{2}"
    return re.sub(f"^{INTEGER}/{INTEGER}\\Z", r"\\frac{\1}{\2}", latex)


def write_roots(latex: str) -> str:
    r"""`\sqrt3` as `\sqrt{3}`.

    Raises:
        ValueError: nothing follows one.
    """
    if re.search(r"\\sqrt(\\sqrt|\Z)", latex):
        raise ValueError("a root of nothing")
    return re.sub(r"\\sqrt([^{])", r"\\sqrt{\1}", latex)


def write_fractions(latex: str) -> str:
    r"""`\frac12` and `\frac1{72}` with both braces; all are left alone if one has a single character to itself.

    Raises:
        ValueError: nothing follows one.
    """
    fixed, *pieces = latex.split("\\frac")
    for piece in pieces:
        if not piece:
            raise ValueError("a fraction of nothing")
        if piece[0] != "{":
            if len(piece) == 1:
                return latex
            rest = piece[1:] if piece[1] == "{" else f"{{{piece[1]}}}{piece[2:]}"
            piece = f"{{{piece[0]}}}{rest}"
        fixed += f"\\frac{piece}"
    return fixed


def equivalent(answer: str, wanted: str) -> bool:
    """Whether two answers are the same after the clean-up; as they are, where one cannot be cleaned."""
    try:
        return clean_up(answer) == clean_up(wanted)
    except ValueError:
        return answer == wanted


def extract_milora(output: str) -> str | None:
    """After the last `The answer is: ` up to a point at the end of a line, without a final point."""
    if PHRASE not in output:
        return None
    return output.rpartition(PHRASE)[2].split(".\n")[0].strip().removesuffix(".").strip()


def equal_milora(answer: str, wanted: str) -> bool:
    """Cleaned up, then `math_equal` without its last resort: sympy evaluates a model's text as Python, which is not done here."""
    try:
        return math_equal(clean_up(answer)[:1000], clean_up(wanted))
    except ValueError:
        return answer == wanted


def math_equal(answer: str, wanted: str) -> bool:
    """Equal as numbers (also as percentages), as texts without braces and parentheses, or element by element."""
    try:
        return numbers_close(float(answer.replace(",", "")), float(wanted.replace(",", "")))
    except ValueError:
        pass
    enclosed = re.compile(r"\(.*\)|\[.*\]")
    ends = "[]()" if enclosed.fullmatch(answer) and wanted[:1] not in {"(", "["} - {answer[0]} else ""
    if re.sub(r"[{}()]", "", answer.strip(ends)) == re.sub(r"[{}()]", "", wanted.strip(ends)):
        return True
    if not (enclosed.fullmatch(answer) and enclosed.fullmatch(wanted) and answer[0] == wanted[0]):
        return False
    elements, wanted_elements = answer[1:-1].split(","), wanted[1:-1].split(",")
    return len(elements) == len(wanted_elements) and all(map(math_equal, elements, wanted_elements))


HENDRYCKS = Rule(
    "hendrycks",
    last_boxed,
    lambda answer, document: equivalent(answer, reference(document)),
    "hendrycks/math modeling/math_equivalence.py: the last \\boxed of output and reference are equal after the clean-up",
)
MILORA = Rule(
    "milora",
    extract_milora,
    lambda answer, document: equal_milora(answer, reference(document)),
    "MiLoRA's MATH evaluation (that of WizardMath): after `The answer is: `, cleaned up as by Hendrycks, equal as texts, numbers "
    "or elements; without its symbolic comparison, and an answer that cannot be cleaned is not taken as right",
)
MATH_RULES = (HENDRYCKS, MILORA, math_verify_rule(lambda document: f"${reference(document)}$"))
