"""A chunk between preprocessing and engine: one row of a table, what it holds packed into binary columns."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.images.packed import PackedImages

CHUNK_SCHEMA = pa.schema(
    [
        ("shard", pa.string()),
        ("chunk", pa.int32()),
        ("num_chunks", pa.int32()),
        ("rows", pa.large_binary()),  # Arrow IPC of tables.prepared_schema
        ("pixels", pa.large_binary()),  # images of any shapes, one behind the other
        ("shapes", pa.list_(pa.int32())),  # height and width of each image
        ("dtype", pa.string()),  # of a pixel
    ]
)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows ready for the engine; `pixel_index` of a row says which of the images is its own."""

    shard: str
    index: int
    num_chunks: int  # of the shard
    rows: pa.Table  # tables.prepared_schema
    images: PackedImages

    @property
    def place(self) -> dict[str, Any]:
        """Its columns in every table that has a row per chunk."""
        return {"shard": self.shard, "chunk": self.index, "num_chunks": self.num_chunks}

    def to_table(self) -> pa.Table:
        """Return one row of CHUNK_SCHEMA; the pixels are not copied."""
        buffer = self.images.buffer
        offsets = pa.py_buffer(np.array([0, buffer.nbytes], np.int64))
        pixels = pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(buffer)])
        others = {"shapes": self.images.heights_and_widths, "dtype": self.images.dtype}
        columns = {name: [value] for name, value in {**self.place, "rows": to_ipc(self.rows), **others}.items()}
        return pa.table({**columns, "pixels": pixels}, CHUNK_SCHEMA)

    @classmethod
    def from_table(cls, table: pa.Table) -> "Chunk":
        """Return the chunk of a table of one row; the pixels are a view of it."""
        names = ("shard", "chunk", "num_chunks", "shapes", "dtype")
        shard, index, num_chunks, shapes, dtype = (table[name][0].as_py() for name in names)
        buffer = np.frombuffer(table["pixels"][0].as_buffer(), np.uint8)
        rows = from_ipc(table["rows"][0].as_buffer())
        return cls(shard, index, num_chunks, rows, PackedImages(buffer, shapes, dtype))


def to_ipc(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def from_ipc(data: bytes) -> pa.Table:
    with pa.ipc.open_stream(data) as reader:
        return reader.read_all()
