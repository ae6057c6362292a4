"""The opponents. A name -> how the same work is run; `full` is what every ratio is taken to."""

from dataclasses import dataclass
from typing import Any, Literal

FULL = "full"


@dataclass(frozen=True)
class Variant:
    """`changes` are fields of EngineConfig. `static`: a batch is done before the next one starts."""

    runner: Literal["engine", "transformers", "ctranslate2"]
    summary: str
    changes: dict[str, Any]
    static: bool = False
    exits_early: bool = False
    never: bool = False  # thresholds that no confidence reaches


def _early(summary: str, **changes: Any) -> Variant:
    return Variant("engine", summary, changes, exits_early=True)


VARIANTS: dict[str, Variant] = {
    "transformers":      Variant("transformers", "generate of its own classes, static batches", {}, static=True),
    "ctranslate2":       Variant("ctranslate2", "CTranslate2 fp32, static batches", {}, static=True),
    FULL:                Variant("engine", "our engine without exits, continuous batching", {"schedule": "full"}),
    "compaction":        Variant("engine", "static batches, finished rows leave", {"schedule": "full"}, static=True),
    "inplace":           _early("exits shrink the batch in place", schedule="inplace"),
    "consensus":         _early("the batch exits when all rows agree", schedule="consensus"),
    "pool":              _early("regrouped by depth, just-in-time features", schedule="pool"),
    "pool_project":      _early("regrouped, projected features", schedule="pool", kv="project"),
    "pool_copy":         _early("regrouped, copied features", schedule="pool", kv="copy"),
    "pool_softmax_diff": _early("regrouped, gate softmax_diff", schedule="pool", gate="softmax_diff"),
    "pool_saturation":   _early("regrouped, gate saturation", schedule="pool", gate="saturation"),
    "pool_classifier":   _early("regrouped, gate classifier", schedule="pool", gate="classifier"),
    "pool_shortlist":    _early("regrouped, gate shortlist", schedule="pool", gate="shortlist"),
    "pool_never":        Variant("engine", "regrouped, thresholds nothing reaches", {"schedule": "pool"}, never=True),
    "full_bf16":         Variant("engine", "no exits, bf16 weights", {"schedule": "full", "weights": "bf16"}),
    "full_int8":         Variant("engine", "no exits, int8 weights", {"schedule": "full", "weights": "int8"}),
    "pool_int8":         _early("regrouped, int8 weights", schedule="pool", weights="int8"),
    "lossless":          _early("early exits draft, full depth checks", schedule="pool", lossless=True),
}  # fmt: skip
