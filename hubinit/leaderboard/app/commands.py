"""Commands and code of a line's page. Results of others are data: whatever they hold, a shell sees it as one quoted word."""

import json
import shlex

from hubinit.leaderboard.comparison import Row
from hubinit.models.kinds import KINDS
from hubinit.specs import DEFAULT_OPTIMISER


def recorded(command: str | None) -> str | None:
    """The command that a run says it was made by, quoted anew; None where it is not one of hubinit's."""
    try:
        words = shlex.split(command or "")
    except ValueError:
        return None
    return shlex.join(words) if words[:1] == ["hubinit"] else None


def train_command(run: Row) -> str | None:
    """The command that trains one run again; None for a base as it is."""
    if not run["train_data"]:
        return None
    words = ["hubinit", "train", run["model"], "--method", run["method"]]
    words += ["--task", run["train_data"].replace("+", ",")]
    words += ["--lr", f"{run['lr']:g}", "--seed", str(run["seed"])]
    words += ["--rank", str(run["rank"])] if run["rank"] else []
    words += ["--dtype", run["dtype"].split(" ")[0]] if run["dtype"] else []
    recipe = json.loads(run["recipe"] or "{}")
    optimiser = recipe.pop("optimiser", DEFAULT_OPTIMISER)
    words += ["--optimizer", optimiser] if optimiser != DEFAULT_OPTIMISER else []
    words += ["--calibration-samples", str(run["calibration_samples"])] if run["calibration_samples"] else []
    targets = run["target_modules"]
    settings: Row = {"target_modules": f"[{targets}]"} if targets not in (None, "all-linear") else {}
    settings |= {f"recipe.{name}": value for name, value in recipe.items()}
    settings |= {"samples": run["train_samples"], "validation_samples": run["validation_samples"]}
    settings |= {"alpha": run["alpha"] or None, "rslora": run["rslora"] or None}
    settings |= {f"calibration.{name}": value for name, value in json.loads(run["calibration"] or "{}").items()}
    if options := json.loads(run["options"]):
        settings["methods"] = json.dumps({run["method"]: options})
    for name, value in settings.items():
        words += ["--set", f"{name}={value}"] if value is not None else []
    return shlex.join(words)


def loading_snippet(run: Row) -> str:
    """Python that loads the trained adapter of a run with transformers and peft alone."""
    auto = KINDS[run["kind"] or "language"].auto_class
    arguments = [json.dumps(run["model"]), *([f"revision={json.dumps(run['revision'])}"] if run["revision"] else [])]
    return "\n".join(
        [
            "from peft import PeftModel",
            f"from transformers import {auto}",
            "",
            f"base = {auto}.from_pretrained({', '.join(arguments)})",
            f'model = PeftModel.from_pretrained(base, "OWNER/…-{run["key"][:8]}")  # its name on the Hub ends so',
        ]
    )
