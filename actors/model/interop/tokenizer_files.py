"""The tokenizer of a model directory: tokenizer.json, or one made of the vocabulary files that older models have."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

from actors.model.interop.family import Family
from actors.model.tokenizer import load_tokenizer
from conf.errors import UserError
from conf.json_file import read_object

TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
# What a vocabulary is where neither settings nor the model's type say it: file -> class of the library.
_CLASS_OF_FILE = {
    "spiece.model": "T5Tokenizer",
    "sentencepiece.bpe.model": "XLMRobertaTokenizer",
    "merges.txt": "RobertaTokenizer",
    "vocab.txt": "BertTokenizer",
}
_JAPANESE = "BertJapaneseTokenizer"


def read_tokenizer(path: Path, family: Family, hf: Any) -> Tokenizer:
    """Return the tokenizer of a source directory, with the tokens that its family adds; UserError without one."""
    tokenizer = read_tokenizer_files(path, hf)
    lacking = [token for token in family.added_tokens if tokenizer.token_to_id(token) is None]
    if lacking and tokenizer.get_vocab_size() + len(lacking) <= family.text_config(hf).vocab_size:
        tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in lacking])
    return tokenizer


def read_tokenizer_files(path: Path, hf: Any) -> Tokenizer:
    """Return the tokenizer of a directory, with the tokens that files beside it add; UserError without one.

    No code of the directory is run: vocabularies are converted by the library's own classes.
    """
    file = path / "tokenizer.json"
    if file.is_file():
        tokenizer = load_tokenizer(file)
        known = set(tokenizer.get_vocab())
    else:
        tokenizer, known = _from_vocabulary(path, hf), set[str]()
    _add_tokens(tokenizer, path, known)
    return tokenizer


def tokenizer_settings(path: Path) -> dict[str, Any]:
    """Return tokenizer_config.json; empty where there is none."""
    return read_object(path / TOKENIZER_SETTINGS[0]) or {}


def _from_vocabulary(path: Path, hf: Any) -> Tokenizer:
    import transformers
    from transformers import AutoTokenizer
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    own = getattr(hf, "decoder", hf)  # the half that has tokens, where there are two
    own = getattr(own, "text_config", own)
    found = [name for name in _CLASS_OF_FILE if (path / name).is_file()]
    if not found:
        raise UserError(
            f"source {str(path)!r} has no tokenizer that can be read: neither tokenizer.json nor "
            f"{', '.join(_CLASS_OF_FILE)}; a fine-tune has the one of the model it began with: copy its files there"
        )
    declared = tokenizer_settings(path).get("tokenizer_class") or getattr(own, "tokenizer_class", None)
    if declared == _JAPANESE and own is not hf and (path / "vocab.txt").is_file():
        return _japanese_outputs(path / "vocab.txt")
    named = str(declared or TOKENIZER_MAPPING_NAMES.get(own.model_type)).removesuffix("Fast")
    names = getattr(getattr(transformers, named, None), "vocab_files_names", {})
    if declared or found[0] in names.values():
        chosen, options = AutoTokenizer, {"config": own}
    else:
        chosen, options = getattr(transformers, _CLASS_OF_FILE[found[0]]), {}
    try:
        loaded = chosen.from_pretrained(str(path), trust_remote_code=False, local_files_only=True, **options)
        tokenizer = Tokenizer.from_str(loaded.backend_tokenizer.to_str())
        _normalise_as_trained(tokenizer, path / found[0])
        return tokenizer
    except Exception as error:  # the library raises whatever it likes
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"the tokenizer of source {str(path)!r} cannot be made of {found[0]}: {reason}") from None


def _japanese_outputs(vocabulary: Path) -> Tokenizer:
    """Decode as the library's BertJapaneseTokenizer does; to encode, which vision-encoder-decoders never do, it needs a
    program that splits Japanese into words."""
    tokenizer = Tokenizer(models.WordPiece(models.WordPiece.read_file(str(vocabulary)), unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    tokenizer.add_special_tokens([token for token in special if tokenizer.token_to_id(token) is not None])
    return tokenizer


def _normalise_as_trained(tokenizer: Tokenizer, file: Path) -> None:
    """Give back the character map of a SentencePiece model, which some classes of the library leave behind (mBART)."""
    if file.suffix != ".model" or "Precompiled" in str(tokenizer.normalizer):
        return
    from sentencepiece import sentencepiece_model_pb2

    character_map = sentencepiece_model_pb2.ModelProto.FromString(
        file.read_bytes()
    ).normalizer_spec.precompiled_charsmap
    if character_map:
        mapped = normalizers.Precompiled(character_map)
        before = tokenizer.normalizer
        tokenizer.normalizer = mapped if before is None else normalizers.Sequence([mapped, before])


def _add_tokens(tokenizer: Tokenizer, path: Path, known: set[str]) -> None:
    """Add the tokens that only the settings beside a tokenizer name, under the ids they have there; `known` are those
    of tokenizer.json, which is believed."""
    settings, special, added = (read_object(path / name) or {} for name in TOKENIZER_SETTINGS)
    by_id: dict[int, AddedToken] = {}
    for content, token_id in added.items():
        if isinstance(token_id, int):
            by_id[token_id] = AddedToken(content, normalized=False)
    decoder = settings.get("added_tokens_decoder")
    for token_id, fields in (decoder if isinstance(decoder, dict) else {}).items():
        if token_id.isdecimal() and isinstance(fields, dict) and isinstance(fields.get("content"), str):
            by_id[int(token_id)] = _token(fields)
    for token_id, token in sorted(by_id.items(), key=lambda item: item[0]):
        if token.content in known:
            continue
        if tokenizer.token_to_id(token.content) is None:
            _add(tokenizer, token)
        if (got := tokenizer.token_to_id(token.content)) != token_id:
            raise UserError(
                f"the added token {token.content!r} of source {str(path)!r} has the id {token_id}, but the "
                f"vocabulary gives it {got}"
            )
    for token in _named(settings, special):
        if tokenizer.token_to_id(token.content) is None:
            _add(tokenizer, token)


def _token(fields: dict[str, Any]) -> AddedToken:
    flags = {name: fields[name] is True for name in ("single_word", "lstrip", "rstrip", "normalized") if name in fields}
    return AddedToken(fields["content"], special=fields.get("special") is True, **flags)


def _add(tokenizer: Tokenizer, token: AddedToken) -> None:
    (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])


def _named(*settings: dict[str, Any]) -> Iterator[AddedToken]:
    """Yield the further special tokens that have no id yet: task tokens of fine-tunes."""
    for values in settings:
        more = values.get("additional_special_tokens") or values.get("extra_special_tokens") or []
        for token in more.values() if isinstance(more, dict) else more:
            if isinstance(token, dict) and isinstance(token.get("content"), str):
                yield _token({**token, "special": True})
            elif isinstance(token, str):
                yield AddedToken(token, special=True, normalized=False)
