"""A training record with everything in it, in made-up numbers."""

from typing import Any

from actors.training.pretrained.record import TrainingRecord

FULL: dict[str, Any] = {
    "model": {
        "name": "receipts", "family": "t5", "encoder": "pix2struct", "decoder_layers": 8, "width": 192,
        "vocabulary": 1280, "exits": [2, 4, 8], "parameters": 7_300_000, "trained_parameters": 2_100_000,
    },
    "source": {
        "checkpoint": "runs/converted", "weights_sha256": "6bcb8af0", "base_model": "pix2struct-receipts",
        "licence": "other", "licence_name": "our-terms", "licence_link": "source/LICENSE",
    },
    "data": {
        "kind": "parquet", "paths": ["data/a.parquet", "data/b.parquet"], "training_images": 12_000,
        "training_rows": 30_512, "validation_images": 200, "test_images": 200, "test_rows": 512,
        "left_out": [{"reason": "undecodable", "count": 3}, {"reason": "hidden_files", "count": 1}],
        "targets": [
            {"prompt": "describe the image", "run": "runs/exits/targets", "own_texts": True, "full_depth": True},
            {"prompt": "{question}", "prompt_field": "qa", "field": "auto"},
        ],
    },
    "training": {
        "mode": "deep_supervision", "parts": "decoder", "loss_weights": "coefficient", "coefficient": 0.1, "soft": 0.3,
        "stop_head_gradient": False, "layer_dropout": 0.1, "steps": 1800, "planned_steps": 2000, "images_per_step": 32,
        "rates": {"decoder": 3e-4, "head": 1e-4, "exits": 1e-3}, "precision": "bfloat16", "seed": 0,
    },
    "hardware": {"cpu": "A CPU", "threads": 2, "torch": "2.9.0", "workers": 1, "seconds": 4830.4},
    "exits": [
        {"layer": 2, "right": 0.912, "agrees": 0.921, "loss": 0.413},
        {"layer": 4, "right": 0.958, "agrees": 0.974, "loss": 0.211},
        {"layer": 8, "right": 0.969, "agrees": 1.0, "loss": 0.144},
    ],
    "early": [
        {
            "gate": "softmax_max", "risk": 0.005, "thresholds": [0.981, 1.01], "mean_depth": 2.91,
            "computed_depth": 3.84, "equal_outputs": 0.964, "equal_tokens": 0.991,
            "full": {"ROUGE-L of captions": 71.26, "accuracy of answers": 88.4},
            "early": {"ROUGE-L of captions": 70.93, "accuracy of answers": 88.1},
        }
    ],
    "guard": {
        "before": {"ROUGE-L of captions": 71.5, "accuracy of answers": 88.2},
        "after": {"ROUGE-L of captions": 71.26, "accuracy of answers": 88.4}, "lost": 0.24, "allowed": 0.5,
    },
    "saving": {
        "device": "A CPU", "slots": 32, "single_early_ms": 41.2, "single_full_ms": 96.4, "early_per_s": 52.1,
        "full_per_s": 30.3,
    },
}  # fmt: skip


def record(**changes: Any) -> TrainingRecord:
    """`changes`: of parts, each a dictionary that is put over the part's own; None removes the part."""
    parts = dict(FULL)
    for name, change in changes.items():
        parts[name] = {**parts[name], **change} if isinstance(change, dict) else change
    return TrainingRecord.model_validate({name: part for name, part in parts.items() if part is not None})
