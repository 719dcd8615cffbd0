"""What the leaderboard data set holds beside its rows, made anew from them: summary, values by question, card."""

import io
from collections.abc import Mapping

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hubinit.hub.cards import leaderboard_card
from hubinit.hub.manifest import CARD
from hubinit.hub.revisions import Source, fetch
from hubinit.hub.untrusted import FILE_BYTES, Unreadable
from hubinit.leaderboard import summary as summaries
from hubinit.leaderboard.build import to_parquet
from hubinit.leaderboard.items import SCHEMA, Items, items_table, read_table
from hubinit.leaderboard.ranking import rank
from hubinit.leaderboard.render import markdown
from hubinit.leaderboard.table import failures, ranked_items

RUNS = "data/runs-00000-of-00001.parquet"
SUMMARY = "data/summary-00000-of-00001.parquet"
ITEMS = "data/items-00000-of-00001.parquet"
VALUES = 20_000_000  # of all questions of all runs
UNPACKED = 256_000_000  # bytes of the values' pages
NAME_BYTES = 300


def leaderboard_pages(
    source: Source, parent: str | None, rows: pd.DataFrame, values: Items, quarantined: int
) -> Mapping[str, bytes]:
    """The other files of the data set.

    Args:
        source: where it is.
        parent: the commit that is built on; the values that it holds are kept.
        rows: all rows that stand.
        values: by question, of the rows that are added.
        quarantined: rows that could not stay.
    """
    known = held_values(source, parent) | values
    items = {line: known[line] for line in sorted(ranked_items(rows)) if line in known}
    ranking = rank(rows, items)
    files = {SUMMARY: to_parquet(summaries.summarise(ranking), summaries.SCHEMA)}
    if items:
        files[ITEMS] = to_parquet(items_table(items))
    card = leaderboard_card(
        source.repo_id,
        markdown(ranking, failures(rows)),
        runs=rows["key"].nunique(),
        rows=len(rows),
        models=sorted(rows["model"].unique()),
        paths={"summary": SUMMARY, "runs": RUNS} | ({"items": ITEMS} if items else {}),
        quarantined=quarantined,
    )
    return files | {CARD: card.encode()}


def held_values(source: Source, revision: str | None) -> Items:
    """The values by question that a data set holds; none where there are none that can be read.

    They only pair what the rows say already: where their mean is not the score, `rank` does not use them.
    """
    try:
        content = fetch(source.api, source.repo_id, ITEMS, revision, limit=FILE_BYTES)
        return {} if content is None else decode_values(content)
    except Unreadable:
        return {}


def decode_values(content: bytes) -> Items:
    """Values by question from a file that others may have written.

    Raises:
        Unreadable: it is another table, damaged, or too large when unpacked.
    """
    try:
        file = pq.ParquetFile(io.BytesIO(content), read_dictionary=["items", "metric", "questions"])
        metadata = file.metadata
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        parts = [group.column(number) for group in groups for number in range(group.num_columns)]
        if sum(part.num_values for part in parts) > VALUES or sum(g.total_byte_size for g in groups) > UNPACKED:
            raise ValueError("it unpacks to too much")
        if not metadata.schema.to_arrow_schema().remove_metadata().equals(SCHEMA):
            raise ValueError("it has other columns")
        batches = []
        for batch in file.iter_batches(4096, use_threads=False):
            for name in ("items", "metric", "questions"):
                longest = pc.max(pc.binary_length(batch.column(name).dictionary)).as_py() or 0
                if longest > NAME_BYTES or batch.column(name).null_count:
                    raise ValueError(f"a cell of {name} is missing or too long")
            if batch.column("values").null_count:
                raise ValueError("values are missing")
            batches.append(batch)
        return read_table(pa.Table.from_batches(batches).cast(SCHEMA)) if batches else {}
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise Unreadable(str(error)) from error
