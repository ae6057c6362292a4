"""Published results in the forms other tools read. Every row of results/ is in an export exactly once, in order."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from pipeline.exports.rows import Published
from pipeline.plan import LeftOut


class Form(str, Enum):
    WEBDATASET = "webdataset"
    COCO = "coco"
    COCO_RESULTS = "coco-results"
    VQA = "vqa"
    JSONL = "jsonl"
    CSV = "csv"
    IMAGEFOLDER = "imagefolder"


@dataclass(frozen=True, slots=True)
class Options:
    """What a user may choose; see `deed export --help`."""

    columns: tuple[str, ...] | None = None  # jsonl and csv: which, none: all
    id_column: str | None = None  # coco and vqa: the results column with the image's number
    question_id_column: str | None = None  # vqa
    suffix: str = "deed"  # webdataset: in front of txt and json in the members' names
    neutralise_formulas: bool = False  # csv: a ' in front of what a spreadsheet would run


@dataclass(frozen=True, slots=True)
class Exported:
    """What came of an export: result rows written, what could not be, by reason, and what else is worth saying."""

    rows: int
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()


Export = Callable[[Published, str, Options], Exported]  # (results, where to, options)


def export(published: Published, form: Form, out: str, options: Options) -> Exported:
    """Write one export; a file appears whole or not at all."""
    from pipeline.exports import coco, imagefolder, text_files, vqa, webdataset

    exports: dict[Form, Export] = {
        Form.WEBDATASET: webdataset.write,
        Form.COCO: coco.write_captions,
        Form.COCO_RESULTS: coco.write_results,
        Form.VQA: vqa.write,
        Form.JSONL: text_files.write_jsonl,
        Form.CSV: text_files.write_csv,
        Form.IMAGEFOLDER: imagefolder.write,
    }
    return exports[form](published, out, options)


__all__ = ["Export", "Exported", "Form", "Options", "Published", "export"]
