"""How much the text of a row differs from full depth's, and what an audit found in a table of rows."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.metrics.captions import similar
from pipeline.promise.choice import AuditedLoss

METADATA = b"deed.audit"  # of a published file of results


@dataclass(frozen=True, slots=True)
class Audited:
    """What an audit found in some rows. An image has the loss of the worst of its prompts."""

    losses: tuple[float, ...] = ()  # of audited images that left early as they liked, in the order of their rows
    num_followed: int = (
        0  # further ones, decoded at full depth because of an alarm: none of them can have lost anything
    )
    num_fallback_rows: int = 0  # rows decoded so, audited or not
    num_twice: int = 0  # rows decoded both ways
    device_s: float = 0.0  # the engine's time for full depth beside early exit

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: bytes | str) -> "Audited":
        content = json.loads(text)
        return cls(**{**content, "losses": tuple(content["losses"])})


NOTHING = Audited()


def loss_of(loss: AuditedLoss, ids: tuple[Sequence[int], Sequence[int]], texts: tuple[str, str]) -> float:
    """Return the loss in [0, 1] of a row, by its tokens and text, each early and at full depth."""
    (early_ids, full_ids), (early, full) = ids, texts
    return 0.0 if tuple(early_ids) == tuple(full_ids) else loss_of_text(loss, early, full)


def loss_of_text(loss: AuditedLoss, early: str, full: str) -> float:
    """Return the loss in [0, 1] of a text that is not full depth's token for token."""
    return 1.0 if loss == "text_differs" else min(1.0, max(0.0, 1 - similar(early, [full])))


def audited(rows: pa.Table) -> Audited:
    """Return what is in rows with the columns of results, the prompts of an image beside each other."""
    if all(rows[name].null_count == rows.num_rows for name in ("audit_loss", "fallback")):
        return NOTHING
    found = rows.filter(pc.is_valid(rows["audit_loss"]))
    fell = pc.fill_null(rows["fallback"], False)
    names = ("sample_id", "audit_loss", "fallback")
    losses: dict[str, float] = {}
    followed: set[str] = set()
    for sample_id, loss, fallback in zip(*(found[name].to_pylist() for name in names), strict=True):
        if fallback:
            followed.add(sample_id)
        else:
            losses[sample_id] = max(loss, losses.get(sample_id, 0.0))
    num_fallback = pc.sum(fell).as_py() or 0
    num_twice = found["fallback"].to_pylist().count(None)
    device_s = pc.sum(found["audit_device_s"]).as_py() or 0.0
    return Audited(tuple(losses.values()), len(followed), num_fallback, num_twice, device_s)
