"""Small files that unpack to much, made without taking what they would take."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hubinit.records import Item, write_items


def write_bomb(path: Path, rows: int, column: str, text: str) -> None:
    """Item records whose rows share one text, which the file holds once.

    Args:
        path: of the file.
        rows: how many.
        column: `id` or `outputs`.
        text: that each row has there.
    """
    write_items(path, [Item(id="0", outputs=("0",))])
    table = pa.concat_tables([pq.read_table(path)] * rows).combine_chunks()
    shared = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), [text])
    if column == "outputs":
        shared = pa.ListArray.from_arrays(pa.array(range(rows + 1), pa.int32()), shared)
    table = table.set_column(table.schema.get_field_index(column), column, shared)
    pq.write_table(table, path, compression="zstd", store_schema=False)
