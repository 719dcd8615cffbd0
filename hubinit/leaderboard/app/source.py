"""Where the app of a Space gets its leaderboard: a data set on the Hub, or a folder that `hubinit leaderboard build` wrote."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from hubinit.errors import HubinitError, first_line
from hubinit.leaderboard.app.data import Data
from hubinit.leaderboard.build import ITEMS, REJECTED, RUNS, SUMMARY, is_built, open_leaderboard


@contextmanager
def opened(source: str) -> Iterator[Data]:
    """The leaderboard of a folder or a data set; what it downloads stays in the cache of huggingface_hub.

    Args:
        source: folder, or id of a data set (owner/name).

    Raises:
        HubinitError: it is not there, or holds no leaderboard.
    """
    folder = Path(source)
    if is_built(folder):
        yield Data(open_leaderboard(folder), folder)
        return
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(source, repo_type="dataset", allow_patterns=["*.parquet"]))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            raise HubinitError(f"The data set {source} cannot be read: {first_line(error)}.") from error
    with TemporaryDirectory() as place:
        collect(folder, Path(place), source)
        yield Data(open_leaderboard(Path(place)), Path(place))


def collect(folder: Path, place: Path, source: str) -> None:
    """Puts the files of a data set (`data/runs-00000-of-00001.parquet` …) where `open_leaderboard` looks for them.

    Raises:
        HubinitError: the runs or the summary are not there.
    """
    for name in (RUNS, SUMMARY, ITEMS):
        found = sorted(folder.glob(f"**/{Path(name).stem}*.parquet"))
        if found:
            (place / name).symlink_to(found[0].resolve())
        elif name != ITEMS:
            raise HubinitError(
                f"{source} holds no leaderboard: {name} is not there; publish with `hubinit leaderboard push`."
            )
    (place / REJECTED).touch()
