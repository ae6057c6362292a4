"""How much worse the text of a row is for leaving early, in [0, 1]."""

from actors.training.rows.row import Row
from conf.guarantee import Loss
from pipeline.metrics.answers import vqa_accuracy
from pipeline.metrics.captions import similar
from pipeline.promise.losses import loss_of_text
from pipeline.source.references import Kind


def loss_of(loss: Loss, row: Row, early: str, full: str) -> float:
    """Return the loss of a text that is not full depth's, token for token.

    Labels: captions are scored by ROUGE-L, where one that is a reference to the letter has 1, answers by VQA accuracy.
    """
    if loss != "points_lost":
        return loss_of_text(loss, early, full)
    return min(1.0, max(0.0, _score(row, full) - _score(row, early)))


def _score(row: Row, text: str) -> float:
    assert row.reference is not None, "rows without labels are left out"
    references = list(row.reference.texts)
    return vqa_accuracy(text, references) if row.reference.kind is Kind.ANSWER else similar(text, references)
