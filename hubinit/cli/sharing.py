"""Commands around start points and adapters on the Hub: init, push, pull, find, sync, publish-inits, leaderboard."""

import typer

app = typer.Typer()
