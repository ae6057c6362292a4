"""COCO captions: a ground-truth file (images and annotations), or the results file that COCO evaluation reads.

COCO numbers its images. The numbers come from `id_column`; without one they are counted, and `file_name` (the sample's
identity) says which is which; an identity that would lead out of a folder of images is percent-encoded.
"""

from pipeline.exports.file_names import inside
from pipeline.exports.numbering import Numbers
from pipeline.exports.options import Exported, Options
from pipeline.exports.rows import Published, json_bytes, whole_file

_COLUMNS = ("sample_id", "text", "width", "height")


def write_captions(published: Published, out: str, options: Options) -> Exported:
    """{"images": [...], "annotations": [...]}; the annotations wait in memory until the images are written."""
    numbers = Numbers(options.id_column)
    annotations: list[bytes] = []
    with whole_file(out) as stream:
        stream.write(b'{"info": {"description": "captions"}, "licenses": [],\n"images": [')
        for row in published.all_rows(_columns(published, options)):
            image_id, is_new = numbers(row["sample_id"], row)
            if is_new:
                image = {"id": image_id, "file_name": inside(row["sample_id"])}
                image |= {"width": row["width"], "height": row["height"]}
                stream.write((b"\n" if not annotations else b",\n") + json_bytes(image))
            annotations.append(json_bytes({"id": len(annotations) + 1, "image_id": image_id, "caption": row["text"]}))
        stream.write(b'\n],\n"annotations": [\n' + b",\n".join(annotations) + b"\n]}\n")
    return Exported(len(annotations))


def write_results(published: Published, out: str, options: Options) -> Exported:
    """[{"image_id": ..., "caption": ...}]"""
    numbers, count = Numbers(options.id_column), 0
    with whole_file(out) as stream:
        stream.write(b"[")
        for row in published.all_rows(_columns(published, options)):
            entry = {"image_id": numbers(row["sample_id"], row)[0], "caption": row["text"]}
            stream.write((b"\n" if not count else b",\n") + json_bytes(entry))
            count += 1
        stream.write(b"\n]\n")
    return Exported(count)


def _columns(published: Published, options: Options) -> tuple[str, ...]:
    columns = (*_COLUMNS, *((options.id_column,) if options.id_column else ()))
    published.check_columns(columns)
    return columns
