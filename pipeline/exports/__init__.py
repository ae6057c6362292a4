"""Published results in the forms other tools read. Every row of results/ is in an export exactly once, in order."""

from pipeline.exports.options import Existing, Export, Exported, Form, Options, SidecarOptions
from pipeline.exports.rows import Published

__all__ = ["Existing", "Exported", "Form", "Options", "Published", "SidecarOptions", "export"]


def export(published: Published, form: Form, out: str | None, options: Options) -> Exported:
    """Write one export; a file appears whole or not at all. `out` may be None for txt."""
    from pipeline.exports import coco, detections, imagefolder, sidecars, text_files, vqa, webdataset

    exports: dict[Form, Export] = {
        Form.WEBDATASET: webdataset.write,
        Form.COCO: coco.write_captions,
        Form.COCO_RESULTS: coco.write_results,
        Form.COCO_DETECTIONS: detections.write,
        Form.VQA: vqa.write,
        Form.JSONL: text_files.write_jsonl,
        Form.CSV: text_files.write_csv,
        Form.IMAGEFOLDER: imagefolder.write,
        Form.TXT: sidecars.write,
    }
    return exports[form](published, out, options)
