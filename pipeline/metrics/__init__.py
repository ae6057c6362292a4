"""Text scores: one prediction and its references, or a whole corpus of them, -> numbers; shares lie in [0, 1].

answers    exact_match, anls, vqa_accuracy, relaxed_accuracy   one prediction at a time
captions   cider_d, bleu_4, rouge_l                            a corpus at a time
objects    object_names, object_scores, set_f1                 names of a vocabulary found in captions
intervals  wilson_interval                                     how sure a share of a sample is
"""

from pipeline.metrics.answers import anls, exact_match, relaxed_accuracy, vqa_accuracy
from pipeline.metrics.captions import bleu_4, cider_d, cider_d_scores, rouge_l, tokenize
from pipeline.metrics.intervals import wilson_interval
from pipeline.metrics.objects import ObjectNames, PrecisionRecall, object_names, object_scores, set_f1

__all__ = [
    "ObjectNames",
    "PrecisionRecall",
    "anls",
    "bleu_4",
    "cider_d",
    "cider_d_scores",
    "exact_match",
    "object_names",
    "object_scores",
    "relaxed_accuracy",
    "rouge_l",
    "set_f1",
    "tokenize",
    "vqa_accuracy",
    "wilson_interval",
]
