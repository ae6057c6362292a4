"""What the name of a source says about its kind: one table for the command line and for folders of shards."""

COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
KIND_SUFFIXES = {  # source.kind -> how its files are called; what has none of these suffixes is a folder of images
    "webdataset": (".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".tzst"),
    "parquet":    (".parquet",),
    "manifest":   (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".txt"),
}  # fmt: skip
_SAYS_LITTLE = (".json", ".txt")  # of a file in a folder: there it may be anything


def kind_by_name(name: str) -> str | None:
    """Return the source.kind of a file, glob or URL by its suffix, a compression's left aside; None: another suffix."""
    name = name.lower()
    for suffix in COMPRESSED:
        name = name.removesuffix(suffix)
    return next((kind for kind, suffixes in KIND_SUFFIXES.items() if name.endswith(suffixes)), None)


def kind_in_folder(name: str) -> str | None:
    """Return the same for a file that nobody has named."""
    return None if name.lower().endswith(_SAYS_LITTLE) else kind_by_name(name)
