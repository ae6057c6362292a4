"""A chunk between preprocessing and engine: one row of a table, what it holds packed into binary columns."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

CHUNK_SCHEMA = pa.schema(
    [
        ("shard", pa.string()),
        ("chunk", pa.int32()),
        ("num_chunks", pa.int32()),
        ("rows", pa.large_binary()),  # Arrow IPC of tables.prepared_schema
        ("pixels", pa.large_binary()),  # num_images x image_size x image_size x 3 uint8
    ]
)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows ready for the engine; `pixel_index` of a row says which of the images is its own."""

    shard: str
    index: int
    num_chunks: int  # of the shard
    rows: pa.Table  # tables.prepared_schema
    pixels_NHWC: npt.NDArray[np.uint8]

    @property
    def place(self) -> dict[str, Any]:
        """Its columns in every table that has a row per chunk."""
        return {"shard": self.shard, "chunk": self.index, "num_chunks": self.num_chunks}

    def to_table(self) -> pa.Table:
        """Return one row of CHUNK_SCHEMA; the pixels are not copied."""
        columns = {name: [value] for name, value in {**self.place, "rows": to_ipc(self.rows)}.items()}
        offsets = pa.py_buffer(np.array([0, self.pixels_NHWC.nbytes], np.int64))
        pixels = pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(self.pixels_NHWC)])
        return pa.table({**columns, "pixels": pixels}, CHUNK_SCHEMA)

    @classmethod
    def from_table(cls, table: pa.Table, image_size: int) -> "Chunk":
        """Return the chunk of a table of one row; the pixels are a view of it."""
        shard, index, num_chunks = (table[name][0].as_py() for name in ("shard", "chunk", "num_chunks"))
        pixels = np.frombuffer(table["pixels"][0].as_buffer(), np.uint8).reshape(-1, image_size, image_size, 3)
        return cls(shard, index, num_chunks, from_ipc(table["rows"][0].as_buffer()), pixels)


def to_ipc(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def from_ipc(data: bytes) -> pa.Table:
    with pa.ipc.open_stream(data) as reader:
        return reader.read_all()
