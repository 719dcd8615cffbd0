"""What `hubinit leaderboard serve` does."""

from collections.abc import Sequence
from importlib.util import find_spec

from hubinit.cli.boards import opened
from hubinit.cli.console import say, say_json
from hubinit.errors import HubinitError

NEEDED = ("gradio", "matplotlib")


def run_serve(sources: Sequence[str], port: int | None, *, as_json: bool) -> None:
    """Opens the app on results, on this machine only, until the user stops it.

    Raises:
        HubinitError: a package is missing, there are no results, or the port is taken.
    """
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise HubinitError(f"`hubinit leaderboard serve` needs {', '.join(missing)}: pip install 'hubinit[app]'")
    with opened(sources) as (board, folder):
        from hubinit.leaderboard.app.data import Data
        from hubinit.leaderboard.app.server import launch, wait

        try:
            app, url = launch(Data(board, folder), port=port)
        except OSError as error:
            raise HubinitError(f"The app cannot listen on port {port}: choose another with --port.") from error
        if as_json:
            say_json({"url": url})
        else:
            say(f"The leaderboard is at {url} (this machine only). Ctrl-C stops it.")
        wait(app)
