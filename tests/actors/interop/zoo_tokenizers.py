"""Tokenizers of the kinds that published checkpoints have, small and made here: nothing is downloaded."""

import json
from functools import cache
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

_SENTENCES = (
    "What does the image describe? a dog on the grass beside a red car. How many people are there? Two men.",
    "The total of this receipt is 12.95 in all; read the text in the image, with regions, and locate the objects.",
)


@cache
def _bytes_bpe(special: tuple[str, ...]) -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=len(special) + 256 + 40, special_tokens=list(special), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(_SENTENCES, trainer)
    return str(tokenizer.to_str())


def bart_tokenizer(*more: str, **named: str) -> Any:
    """<s> text </s>, byte-level; `more` are tokens of a task, `named` are special ones with a name of their own."""
    from transformers import PreTrainedTokenizerFast

    special = ("<s>", "<pad>", "</s>", "<unk>", *named.values())
    tokenizer = Tokenizer.from_str(_bytes_bpe(special))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.add_tokens(list(more))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        extra_special_tokens=named,
    )  # fmt: skip


def nougat_tokenizer() -> Any:
    from transformers import NougatTokenizer

    pieces = json.loads(_bytes_bpe(("<s>", "<pad>", "</s>", "<unk>")))["model"]
    return NougatTokenizer(vocab=pieces["vocab"], merges=[tuple(merge) for merge in pieces["merges"]])


def t5_tokenizer() -> Any:
    """text </s>, byte-level."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer.from_str(_bytes_bpe(("<pad>", "</s>", "<unk>")))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def udop_tokenizer() -> Any:
    from transformers import UdopTokenizer

    letters = sorted(set("".join(_SENTENCES)) - {" "})
    words = sorted({f"▁{word}" for sentence in _SENTENCES for word in sentence.split()})
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    return UdopTokenizer(vocab=[*pieces, *((piece, -3.0 - len(piece) / 9) for piece in (*words, *letters))])


def gemma_tokenizer() -> Any:
    """<bos> text, of pieces that hold their spaces, and the three tokens of an image."""
    from transformers import GemmaTokenizer

    letters = sorted(set("".join(_SENTENCES)) - {" "})
    pieces = (
        "<pad>",
        "<eos>",
        "<bos>",
        "<unk>",
        "<mask>",
        "▁",
        "\n",
        "\n\n",
        *letters,
        "do",
        "dog",
        "▁dog",
        "th",
        "▁th",
    )
    merges = [("\n", "\n"), ("d", "o"), ("do", "g"), ("▁", "dog"), ("t", "h"), ("▁", "th")]
    images = {"boi_token": "<start_of_image>", "image_token": "<image_soft_token>", "eoi_token": "<end_of_image>"}
    vocab = {piece: i for i, piece in enumerate(pieces)}
    return GemmaTokenizer(vocab=vocab, merges=merges, add_bos_token=True, extra_special_tokens=images)


def gpt2_tokenizer() -> Any:
    """text, byte-level; one token begins, ends and pads."""
    from transformers import PreTrainedTokenizerFast

    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_bytes_bpe((end,))),
        bos_token=end,
        eos_token=end,
        unk_token=end,
        pad_token=end,
    )


def bert_tokenizer(*more: str) -> Any:
    """[CLS] text [SEP], by letters; `more` are special tokens behind the others."""
    from transformers import PreTrainedTokenizerFast

    letters = sorted(set("".join(_SENTENCES).lower()) - {" "})
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
    pieces = (*special, *letters, *(f"##{letter}" for letter in letters))
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in more])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
