"""The arguments about caption files that `deed caption` and `deed export --to txt` share."""

import argparse
import sys
from typing import TYPE_CHECKING

from conf.errors import UserError

if TYPE_CHECKING:
    from conf.schema import JobConfig
    from pipeline.exports import Exported, SidecarOptions

EXISTING = ("skip", "overwrite", "append", "prepend")
_OWN = ("existing", "prefix", "suffix", "join")


def add_sidecar_arguments(parser: argparse.ArgumentParser, *, only_if: str, suffix_help: str = "") -> None:
    """`only_if`: the argument without which these mean nothing."""
    parser.add_argument(
        "--existing", choices=EXISTING, help=f"{only_if}: what to do with caption files that are there (default: skip)"
    )
    parser.add_argument("--prefix", help=f"{only_if}: words in front of each caption, as they are, e.g. 'ohwx dog, '")
    parser.add_argument("--suffix", help=f"{suffix_help}{only_if}: words behind each caption, as they are")
    parser.add_argument(
        "--join",
        help=f"{only_if}: between several captions of an image, and between new and old ones; \\n is a line break "
        "(default: ', ')",
    )


def add_sidecar_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sidecar", metavar="SUFFIX", help="when all is done, write a caption file beside each image: .txt or .caption"
    )
    add_sidecar_arguments(parser, only_if="--sidecar")


def asked_sidecars(options: argparse.Namespace, config: "JobConfig") -> "SidecarOptions | None":
    """Return what --sidecar asks for; UserError, before a run is begun, where this source cannot have it."""
    chosen = sidecar_options(options, options.sidecar)
    if chosen is not None:
        from pipeline.exports.sidecars import check

        check(config.source, chosen, None)
    return chosen


def sidecar_options(options: argparse.Namespace, extension: str | None) -> "SidecarOptions | None":
    """None where no caption files are asked for, and then a UserError for arguments about them."""
    from pipeline.exports import Existing, SidecarOptions

    given = {name: value for name in _OWN if (value := getattr(options, name)) is not None}
    if extension is None:
        if given:
            raise UserError(f"--{next(iter(given))} is about caption files: say which with --sidecar .txt")
        return None
    if "existing" in given:
        given["existing"] = Existing(given["existing"])
    if "join" in given:
        given["join"] = given["join"].replace("\\n", "\n").replace("\\t", "\t")
    return SidecarOptions(extension if extension.startswith(".") else f".{extension}", **given)


def say_what_is_missing(exported: "Exported", command: str) -> None:
    """Say on stderr what could not be exported, by reason, and what else there is to say."""
    from pipeline.source.left_out import in_words

    for part in exported.left_out:
        print(f"{command}: not exported: {in_words(part)}", file=sys.stderr)
    for note in exported.notes:
        print(f"{command}: {note}", file=sys.stderr)
