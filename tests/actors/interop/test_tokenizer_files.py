"""Tokenizers without a tokenizer.json: ids equal to the library's or to SentencePiece's, on many scripts."""

import io
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from actors.model.checkpoint import load_checkpoint
from actors.model.interop.families import FAMILIES
from actors.model.interop.tokenizer_files import read_tokenizer, read_tokenizer_files
from conf.errors import UserError
from jobs.cli import main
from tests.actors.interop.sources import make_source
from tests.effort import effort

SCRIPTS = (
    "abcdefgéüñç", "абвгдежзий", "αβγδεζηθικ", "ابتثجحخدذر", "אבגדהוזחטי", "अआइईउकखगघच", "あいうえおアイウ",
    "人大小中国日月山水", "가나다라마바사", "กขคงจฉชซ", "0123456789",
)  # fmt: skip
ODD = [
    "",
    " ",
    "a  b",
    "  lead",
    "trail ",
    "tab\tx",
    "ﬁ ①②",
    "no\u00a0break",
    "x\nline",
    "emoji 😀 👩‍👩‍👧",
    "CamelCase's",
]


def texts(count: int, seed: int) -> list[str]:
    """Words of many scripts, with capitals and signs."""
    rng = random.Random(seed)
    lines = []
    for _ in range(count):
        words = ["".join(rng.choices(rng.choice(SCRIPTS), k=rng.randint(1, 6))) for _ in range(rng.randint(1, 8))]
        words = [word.capitalize() if rng.random() < 0.2 else word for word in words]
        lines.append(rng.choice([" ", ", ", "-", "  "]).join(words) + rng.choice(["", ".", "!", "?", " (x)"]))
    return lines


FAMILY = FAMILIES["t5"]  # no tokens of its own
ASKED = [*texts(effort(300, 3000), 1), *ODD]


@pytest.fixture(scope="module")
def vocabularies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with the vocabulary files of one kind each."""
    root = tmp_path_factory.mktemp("vocabularies")
    lines = texts(400, 0)
    for name, options in {"spiece": {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}, "fairseq": {}}.items():
        written = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=written, vocab_size=300, character_coverage=1.0,
            hard_vocab_limit=False, minloglevel=2, num_threads=1, **options,
        )  # fmt: skip
        (root / name).mkdir()
        file = "spiece.model" if name == "spiece" else "sentencepiece.bpe.model"
        (root / name / file).write_bytes(written.getvalue())
    (root / "bpe").mkdir()
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        lines,
        trainers.BpeTrainer(vocab_size=500, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    bpe.model.save(str(root / "bpe"))
    (root / "wordpiece").mkdir()
    piece = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    piece.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    piece.train_from_iterator(
        lines, trainers.WordPieceTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    )
    piece.model.save(str(root / "wordpiece"))
    return {name: root / name for name in ("spiece", "fairseq", "bpe", "wordpiece")}


def pieces(folder: Path) -> Callable[[str], list[int]]:
    processor = sentencepiece.SentencePieceProcessor(model_file=str(next(folder.glob("*.model"))))
    return lambda text: list(processor.encode(text))


def fairseq(folder: Path) -> Callable[[str], list[int]]:
    """XLM-R and mBART count `<s>`, `<pad>`, `</s>`, `<unk>` first; SentencePiece has `<unk>`, `<s>`, `</s>`."""
    own = pieces(folder)
    return lambda text: [{0: 3, 1: 0, 2: 2}.get(token_id, token_id + 1) for token_id in own(text)]


def library(class_name: str) -> Callable[[Path], Callable[[str], list[int]]]:
    def load(folder: Path) -> Callable[[str], list[int]]:
        tokenizer = getattr(transformers, class_name).from_pretrained(str(folder))
        return lambda text: list(tokenizer(text, add_special_tokens=False)["input_ids"])

    return load


@pytest.mark.parametrize(
    ("kind", "hf", "declared", "right"),
    [
        ("spiece", transformers.T5Config(), None, pieces),
        ("spiece", transformers.MT5Config(), "T5Tokenizer", pieces),
        ("fairseq", transformers.MBartConfig(), None, fairseq),
        ("fairseq", transformers.MBartConfig(), "MBartTokenizer", fairseq),
        ("fairseq", transformers.TrOCRConfig(), "XLMRobertaTokenizer", fairseq),
        ("fairseq", transformers.TrOCRConfig(), None, fairseq),
        ("bpe", transformers.BartConfig(), None, library("BartTokenizer")),
        ("bpe", transformers.TrOCRConfig(), "RobertaTokenizer", library("RobertaTokenizer")),
        ("bpe", transformers.TrOCRConfig(), None, library("RobertaTokenizer")),
        ("bpe", transformers.GPT2Config(), "GPT2TokenizerFast", library("GPT2Tokenizer")),
        ("wordpiece", transformers.BertConfig(), None, library("BertTokenizer")),
        ("wordpiece", transformers.BertConfig(), "BertTokenizer", library("BertTokenizer")),
    ],
)
def test_ids_are_those_of_the_library(
    kind: str, hf: object, declared: str | None, right: Callable[[Path], Callable[[str], list[int]]],
    vocabularies: dict[str, Path], tmp_path: Path,
) -> None:  # fmt: skip
    folder = shutil.copytree(vocabularies[kind], tmp_path / "source")
    if declared:
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": declared}))
    tokenizer, expected = read_tokenizer(folder, FAMILY, hf), right(vocabularies[kind])
    different = [text for text in ASKED if tokenizer.encode(text, add_special_tokens=False).ids != expected(text)]
    assert different == []


def test_a_converted_checkpoint_has_the_tokenizer_and_its_added_tokens(
    vocabularies: dict[str, Path], tmp_path: Path
) -> None:
    source = tmp_path / "source"
    make_source("donut", source)
    (source / "tokenizer.json").unlink()
    shutil.copy(vocabularies["fairseq"] / "sentencepiece.bpe.model", source)
    count = read_tokenizer(source, FAMILY, transformers.MBartConfig()).get_vocab_size()
    (source / "added_tokens.json").write_text(json.dumps({"<s_cord-v2>": count, "<s_menu>": count + 1}))
    (source / "special_tokens_map.json").write_text(json.dumps({"additional_special_tokens": ["<s_name>"]}))
    assert main(["convert", str(source), str(tmp_path / "ours")]) == 0
    tokenizer = load_checkpoint(tmp_path / "ours").codec.tokenizer
    assert tokenizer.encode("<s_cord-v2>", add_special_tokens=False).ids == [count]
    assert tokenizer.token_to_id("<s_menu>") == count + 1
    assert tokenizer.token_to_id("<s_name>") == count + 2
    expected = fairseq(vocabularies["fairseq"])
    assert all(tokenizer.encode(text, add_special_tokens=False).ids == expected(text) for text in ASKED)


def test_added_tokens_have_the_flags_of_their_settings(vocabularies: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(vocabularies["spiece"], tmp_path / "source")
    count = read_tokenizer(folder, FAMILY, transformers.T5Config()).get_vocab_size()
    decoder = {
        str(count): {"content": "<task>", "special": True},
        str(count + 1): {"content": "kept", "special": False},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    tokenizer = read_tokenizer(folder, FAMILY, transformers.T5Config())
    assert tokenizer.decode([count, count + 1], skip_special_tokens=True) == "kept"


def test_what_is_wrong_with_a_tokenizer_is_one_sentence(vocabularies: dict[str, Path], tmp_path: Path) -> None:
    folder, hf = shutil.copytree(vocabularies["bpe"], tmp_path / "source"), transformers.BartConfig()
    (folder / "added_tokens.json").write_text(json.dumps({"<far>": 9000}))
    with pytest.raises(UserError, match=r"added token '<far>' of source .* has the id 9000, but the vocabulary"):
        read_tokenizer(folder, FAMILY, hf)
    (folder / "added_tokens.json").unlink()
    (folder / "merges.txt").unlink()
    (folder / "vocab.json").unlink()
    with pytest.raises(
        UserError, match=r"neither tokenizer.json nor spiece.model, sentencepiece.bpe.model, merges.txt"
    ):
        read_tokenizer(folder, FAMILY, hf)
    (folder / "spiece.model").write_bytes(b"no model")
    with pytest.raises(UserError, match=r"cannot be made of spiece.model"):
        read_tokenizer(folder, FAMILY, hf)


def test_florence2_has_the_tokens_that_its_processor_adds(vocabularies: dict[str, Path]) -> None:
    """Only where the vocabulary of the weights has room for them."""
    folder, family = vocabularies["bpe"], FAMILIES["florence2"]
    count = read_tokenizer(folder, FAMILY, transformers.BartConfig()).get_vocab_size()
    for room in (count, count + 1024):
        hf = transformers.Florence2Config(text_config={"model_type": "bart", "vocab_size": room})
        tokenizer = read_tokenizer(folder, family, hf)
        assert tokenizer.get_vocab_size() == room
    assert tokenizer.token_to_id("</od>") == count + 1
    assert tokenizer.token_to_id("<loc_0>") == count + 4
    assert tokenizer.token_to_id("<and>") == room - 1
    assert tokenizer.encode("a<loc_52>", add_special_tokens=False).ids[-1] == count + 56


def test_outputs_of_a_japanese_bert_are_decoded_as_the_library_does(tmp_path: Path) -> None:
    """Manga-OCR's kind: no program that splits Japanese into words is needed to read what a model says."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"あいうえお日本語。", "##ん", "##っ", "!"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    settings = {"tokenizer_class": "BertJapaneseTokenizer", "word_tokenizer_type": "mecab"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    hf = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.ViTConfig(), transformers.BertConfig(vocab_size=len(words))
    )
    tokenizer = read_tokenizer_files(tmp_path, hf)
    library = transformers.BertJapaneseTokenizer(
        str(tmp_path / "vocab.txt"), word_tokenizer_type="basic", subword_tokenizer_type="character"
    )
    rng = random.Random(0)
    for _ in range(50):
        ids = [rng.randrange(len(words)) for _ in range(rng.randint(0, 12))]
        assert tokenizer.decode(ids, skip_special_tokens=True) == library.decode(ids, skip_special_tokens=True)
