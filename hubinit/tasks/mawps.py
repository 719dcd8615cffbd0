"""MAWPS: problems of several older collections, without the training problems that are nearly test problems."""

from hubinit.tasks.numeric import number_task

TASK = number_task(
    "mawps",
    "MAWPS",
    "MU-NLPC/Calc-mawps",
    question=lambda row: row["question"].strip(),
    answer=lambda row: float(row["result_float"]),
    source="Koncel-Kedziorski et al. 2016 (N16-1136), in the splits of Kadlčík et al. 2023 (arXiv 2305.15017)",
)
