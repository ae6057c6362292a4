"""Which images of a run are audited, and how its actors learn that the promise is broken."""

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

from conf.checkpoint_info import CheckpointInfo
from conf.guarantee import Loss
from conf.schema import BrokenPromise, JobConfig

AuditedLoss = Literal["text_differs", "dissimilarity"]


class Flag:
    """A Ray actor that actors ask, chunk by chunk, whether to decode at full depth from now on."""

    def __init__(self) -> None:
        self._raised = False

    def hoist(self) -> None:
        self._raised = True

    def is_raised(self) -> bool:
        return self._raised


@dataclass(frozen=True, slots=True)
class AuditPlan:
    """What actors must know of the audit; travels to each of them."""

    fraction: float
    loss: AuditedLoss
    falls_back: bool = False  # a broken promise sends the run to full depth
    flag: Any = None  # handle of a Ray actor of Flag; None: nobody asks

    @classmethod
    def of(cls, config: JobConfig, info: CheckpointInfo) -> "AuditPlan | None":
        """Return the plan of a run whose audit is settled (conf.promise); None where nothing is audited."""
        if not config.audit.fraction:
            return None
        if info.promise is None:
            return cls(config.audit.fraction, "text_differs")
        falls_back = config.audit.on_broken_promise is BrokenPromise.FULL_DEPTH
        return cls(config.audit.fraction, audited_loss(info.promise.loss), falls_back)

    def chosen(self, sample_id: str) -> bool:
        """Return whether an image is audited: by a hash of its id alone, whichever run meets it and when."""
        digest = hashlib.sha256(b"audit/" + sample_id.encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:8], "big") < self.fraction * 2**64


def audited_loss(promised: Loss) -> AuditedLoss:
    """Return what stands for a promised loss while a run goes on: without labels nobody knows points lost, and a text
    that is full depth's loses none."""
    return "dissimilarity" if promised == "dissimilarity" else "text_differs"
