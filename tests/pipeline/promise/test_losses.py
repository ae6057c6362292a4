"""Who is audited, what a row has lost, and what is found in tables of rows."""

from typing import Any

import pytest

from pipeline.metrics.captions import rouge_l
from pipeline.output.staging import rows_table
from pipeline.promise.choice import AuditPlan, audited_loss
from pipeline.promise.losses import NOTHING, Audited, audited, loss_of
from tests.pipeline.helpers import bad_row, good_row


def test_images_are_chosen_by_their_ids_alone() -> None:
    ids = [f"part-{n % 7:03d}/k{n}" for n in range(20_000)]
    few = {name for name in ids if AuditPlan(0.02, "text_differs").chosen(name)}
    assert 320 <= len(few) <= 480
    assert few <= {name for name in ids if AuditPlan(0.05, "dissimilarity").chosen(name)}
    assert all(AuditPlan(1.0, "text_differs").chosen(name) for name in [*ids, "\udcff"])


def test_points_cannot_be_audited_without_labels() -> None:
    assert [audited_loss(loss) for loss in ("text_differs", "dissimilarity", "points_lost")] == [
        "text_differs", "dissimilarity", "text_differs"
    ]  # fmt: skip


def test_a_loss_is_that_of_the_tokens_or_of_the_words() -> None:
    same, other = ((1, 2), [1, 2]), ((1, 2), (1, 3))
    texts = ("a red dog", "a red cat")
    assert loss_of("text_differs", same, texts) == loss_of("dissimilarity", same, texts) == 0
    assert loss_of("text_differs", other, texts) == 1
    assert loss_of("dissimilarity", other, texts) == pytest.approx(1 - rouge_l([texts[0]], [[texts[1]]]))
    assert loss_of("dissimilarity", other, ("", "")) == 0
    assert loss_of("dissimilarity", other, ("", "a dog")) == 1


def row(number: int, prompt: int = 0, **columns: Any) -> dict[str, Any]:
    return good_row(number, prompt, num_prompts=2) | columns


def test_an_image_has_the_loss_of_the_worst_of_its_prompts() -> None:
    rows = [
        row(0), row(0, 1),
        row(1, audit_loss=0.25, audit_device_s=1.0), row(1, 1, audit_loss=0.75, audit_device_s=0.5),
        bad_row(2),
        row(3, audit_loss=0.0, audit_device_s=0.25), row(3, 1),
        row(4, fallback=True, audit_loss=0.0, audit_device_s=0.0), row(4, 1, fallback=True),
    ]  # fmt: skip
    found = audited(rows_table(rows))
    assert found == Audited((0.75, 0.0), num_followed=1, num_fallback_rows=2, num_twice=3, device_s=1.75)
    assert Audited.from_json(found.to_json()) == found
    assert audited(rows_table([row(0), bad_row(1)])) == NOTHING
