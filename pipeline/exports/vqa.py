"""VQA v2: the results file [{"question_id", "answer"}] that its evaluation reads, and beside it the questions file.

Questions are numbered by `question_id_column`, images by `id_column`; without them they are counted.
"""

import posixpath

from pipeline.exports.numbering import Numbers
from pipeline.exports.options import Exported, Options
from pipeline.exports.rows import Published, json_bytes, whole_file


def write(published: Published, out: str, options: Options) -> Exported:
    given = tuple(name for name in (options.id_column, options.question_id_column) if name)
    columns = ("sample_id", "prompt_index", "prompt", "text", *given)
    published.check_columns(columns)
    images, questions, count = Numbers(options.id_column), Numbers(options.question_id_column), 0
    with whole_file(out) as answers_file, whole_file(questions_path(out)) as questions_file:
        answers_file.write(b"[")
        head = {"info": {}, "license": {}, "task_type": "Open-Ended", "data_type": "deed", "data_subtype": ""}
        questions_file.write(json_bytes(head)[:-1] + b', "questions": [')
        for row in published.all_rows(columns):
            image_id, _ = images(row["sample_id"], row)
            question_id, _ = questions(f"{row['sample_id']}#{row['prompt_index']}", row)
            question = {"image_id": image_id, "question": row["prompt"], "question_id": question_id}
            comma = b"\n" if not count else b",\n"
            answers_file.write(comma + json_bytes({"question_id": question_id, "answer": row["text"]}))
            questions_file.write(comma + json_bytes(question))
            count += 1
        answers_file.write(b"\n]\n")
        questions_file.write(b"\n]}\n")
    return Exported(count)


def questions_path(out: str) -> str:
    """`answers.json` -> `answers_questions.json`."""
    stem, suffix = posixpath.splitext(out)
    return f"{stem}_questions{suffix}"
