"""The command doctor."""

from dataclasses import asdict
from pathlib import Path

import typer

from hubinit.cli.console import console, errors, say, say_json
from hubinit.cli.environment import connect
from hubinit.cli.options import Hub, Json, Out

app = typer.Typer()
STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@app.command()
def doctor(out: Out = Path("runs"), hub: Hub = None, json_: Json = False) -> None:
    """Look for what is wrong with this machine: libraries, devices, disks, Hub, token, sandbox, Java, Ray, Slurm.

    Each line is ok, warn (something does not work here, or is not as tested) or fail, with what to do. Exit code 1: something
    failed.

    Example: `hubinit doctor --json`
    """
    with connect(hub), errors.status("Looking at this machine …"):
        from rich.text import Text

        from hubinit.doctor import examine

        findings = []
        for finding in examine(out):
            findings.append(finding)
            if not json_:
                state = Text(f"{finding.state:5}", style=STYLES[finding.state])
                console.print(Text.assemble(state, f"{finding.name:15} ", finding.found), soft_wrap=True)
                if finding.advice:
                    say(f"{'':5}{'':15} -> {finding.advice}")
    counts = {state: sum(finding.state == state for finding in findings) for state in STYLES}
    if json_:
        say_json({"counts": counts, "findings": [asdict(finding) for finding in findings]})
    else:
        say(", ".join(f"{count} {state}" for state, count in counts.items()))
    raise typer.Exit(1 if counts["fail"] else 0)
