"""File systems behind paths and URLs."""

import os

import fsspec

from conf.errors import UserError


def resolve(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the filesystem of a path or URL and the path within it; an unusable URL is a user's error."""
    try:
        if "://" not in path:  # whatever else is in it: `::` and `%` are parts of a name
            return fsspec.filesystem("file"), os.path.abspath(os.path.expanduser(path))
        fs, inner = fsspec.core.url_to_fs(path)
        return fs, str(inner)
    except (ImportError, ValueError) as error:
        raise UserError(f"cannot open {path!r}: {error}") from None


def is_local(fs: fsspec.AbstractFileSystem) -> bool:
    return "file" in ((fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol))


def unresolve(fs: fsspec.AbstractFileSystem, inner: str) -> str:
    """Return the inverse of `resolve`: local paths stay plain and absolute, everything else gets its protocol back."""
    return inner if is_local(fs) else str(fs.unstrip_protocol(inner))
