"""COCO detections: the boxes and polygons of the column `fields`, as one file of images, annotations and categories.

Labels are the model's own words; they are numbered in order of first appearance. Every box of an answer has the
answer's mean confidence as its score: models that write boxes as words give them none.
"""

import json
from collections.abc import Iterator
from typing import Any

from conf.errors import UserError
from pipeline.exports.file_names import inside
from pipeline.exports.numbering import Numbers
from pipeline.exports.options import Exported, Options
from pipeline.exports.rows import Published, json_bytes, whole_file

_COLUMNS = ("sample_id", "fields", "mean_confidence", "width", "height")
Points = list[int]  # x and y in turn, pixels


def write(published: Published, out: str, options: Options) -> Exported:
    """Annotations wait in memory until the images are written; UserError where no row could have any."""
    columns = (*_COLUMNS, *((options.id_column,) if options.id_column else ()))
    published.check_columns(columns)
    images, categories = Numbers(options.id_column), Numbers(None)
    annotations: list[bytes] = []
    rows = has_fields = 0
    with whole_file(out) as stream:
        stream.write(b'{"info": {"description": "detections"}, "licenses": [],\n"images": [')
        for row in published.all_rows(columns):
            image_id, is_new = images(row["sample_id"], row)
            if is_new:
                image = {"id": image_id, "file_name": inside(row["sample_id"])}
                image |= {"width": row["width"], "height": row["height"]}
                stream.write((b"\n" if not rows else b",\n") + json_bytes(image))
            rows += 1
            fields = json.loads(row["fields"] or "null")
            has_fields += fields is not None
            for label, outline, polygons in _things(fields):
                left, top, right, bottom = _bounds(outline)
                annotation = {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": categories(label, row)[0],
                    "bbox": [left, top, right - left, bottom - top],
                    "area": (right - left) * (bottom - top),
                    "segmentation": polygons,
                    "iscrowd": 0,
                    "score": row["mean_confidence"],
                }
                annotations.append(json_bytes(annotation))
        if not has_fields:
            raise UserError("the results have nothing in the column 'fields': no answer was asked for boxes")
        names = [json_bytes({"id": number, "name": label}) for label, number in categories.given.items()]
        stream.write(b'\n],\n"annotations": [\n' + b",\n".join(annotations))
        stream.write(b'\n],\n"categories": [\n' + b",\n".join(names) + b"\n]}\n")
    return Exported(rows, notes=(f"{len(annotations)} boxes of {len(names)} categories",))


def _things(fields: Any) -> Iterator[tuple[str, Points, list[Points]]]:
    """Yield label, outline and polygons of everything that has a place in the image."""
    if not isinstance(fields, dict):
        return
    for label, box in _pairs(fields, "bboxes"):
        yield label, box, []
    for label, quad in _pairs(fields, "quad_boxes"):
        yield label, quad, [quad]
    for label, polygons in _pairs(fields, "polygons"):
        areas = [polygon for polygon in polygons if len(polygon) >= 6]
        if areas:
            yield label, [value for polygon in areas for value in polygon], areas


def _pairs(fields: dict[str, Any], name: str) -> Iterator[tuple[str, Any]]:
    labels = fields.get(f"{name}_labels", fields.get("labels", []))
    return zip(labels, fields.get(name, []), strict=False)


def _bounds(points: Points) -> tuple[int, int, int, int]:
    """Return the smallest upright box around some points; a box is two of them."""
    return min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])
