"""Text scores: one prediction and its references, or a whole corpus of them, -> numbers; shares lie in [0, 1].

answers    exact_match, anls, vqa_accuracy, relaxed_accuracy   one prediction at a time
captions   cider_d, bleu_4, rouge_l, similar                   a corpus at a time, the last one text
objects    object_names, object_scores, set_f1                 names of a vocabulary found in captions
intervals  wilson_interval                                     how sure a share of a sample is
"""
