"""Which licence a model's folder states, and what of it travels with the weights."""

import json
from pathlib import Path

import pytest

from conf.licence import Licence, licence_of, read_licence, travelling_texts

APACHE = "\n                                 Apache License\n                           Version 2.0, January 2004\n"
MIT = """MIT License

Copyright (c) Somebody

Permission is hereby granted, free of charge, to any person obtaining a copy of this software, to deal in it.
The above copyright notice and this permission
notice shall be included in all copies."""
BSD_2 = "Copyright (c) 2022, Somebody\nRedistribution and use in source and binary forms, with or without modification"
BSD_3 = f"{BSD_2}, are permitted. Neither the name of Somebody may be used."


def card(front_matter: str) -> str:
    return f"---\n{front_matter}\n---\n\n# A model\n"


@pytest.mark.parametrize(
    ("front_matter", "licence"),
    [
        ("license: mit", Licence("mit")),
        ("tags:\n- a\nlicense: apache-2.0 # ours\nlanguage: en", Licence("apache-2.0")),
        ("license:\n- mit", Licence("mit")),
        ("license: [mit, apache-2.0]", Licence("other", "mit, apache-2.0")),
        (
            "license: other\nlicense_name: our-terms\nlicense_link: https://example.org/terms",
            Licence("other", "our-terms", "https://example.org/terms"),
        ),
        ("license: other\nlicense_name: our-terms\nlicense_link: LICENSE", Licence("other", "our-terms")),
        ("license: other\nlicense_link: ../../etc/passwd", Licence("other")),
        ("license: other\nlicense_link: javascript:alert(1)", Licence("other")),
        ("license: mit\nresults: [[[\n", Licence("mit")),  # what else is wrong with it does not matter
        ("extra:\n  license: mit", None),
        ("license: 3", None),
        ("license: '\\e[31mred'", Licence("\\e[31mred")),
        ('license: "\\e[31mred"', None),  # would drive a terminal
        (f"license: {'a' * 500}", None),
        ("license: {mit", None),
        ("licensed: mit", None),
    ],
)
def test_the_front_matter_says_it(front_matter: str, licence: Licence | None, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(card(front_matter))
    assert read_licence(tmp_path) == licence
    assert licence_of(tmp_path) == (None if licence is None else licence.name or licence.id)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (APACHE, "apache-2.0"),
        (MIT, "mit"),
        (f"{MIT} The name of Somebody shall not be used in advertising.", "other"),
        (BSD_2, "bsd-2-clause"),
        (BSD_3, "bsd-3-clause"),
        (f"{BSD_3} All advertising materials must say so.", "other"),
        ("GNU GENERAL PUBLIC LICENSE\n   Version 3, 29 June 2007", "gpl-3.0"),
        ("GNU AFFERO GENERAL PUBLIC LICENSE\n   Version 3", "agpl-3.0"),
        ("Creative Commons Legal Code\n\nCC0 1.0 Universal", "cc0-1.0"),
        ("Attribution 4.0 International", "cc-by-4.0"),
        ("Attribution-NonCommercial-ShareAlike 4.0 International", "cc-by-nc-sa-4.0"),
        (f"The code: {MIT}\nThe weights: Attribution-NonCommercial 4.0 International", "other"),
        ("Terms of use: ask us.", "other"),
    ],
)
def test_well_known_texts_are_known_and_no_other_is_guessed(text: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "LICENSE.txt").write_text(text)
    assert read_licence(tmp_path) == Licence(name, None, "LICENSE.txt")


def test_a_checkpoints_own_card_comes_first_then_what_came_with_its_source(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    assert licence_of(tmp_path) is None
    assert licence_of(tmp_path / "nowhere") is None
    (source / "LICENSE").write_text(APACHE)
    assert read_licence(tmp_path) == Licence("apache-2.0", None, "source/LICENSE")
    (source / "LICENCE-weights").write_text(MIT)  # two that differ: nobody can say which
    assert licence_of(tmp_path) == "other"
    hf_config = {"license": "from-config", "model_type": "t5"}
    (tmp_path / "config.json").write_text(json.dumps({"license": "no", "encoder": {"hf_config": hf_config}}))
    assert licence_of(tmp_path) == "from-config"
    (source / "README.md").write_text(card("license: other\nlicense_name: own\nlicense_link: LICENSE"))
    assert read_licence(tmp_path) == Licence("other", "own", "source/LICENSE")
    (tmp_path / "README.md").write_text("# No front matter\n---\nlicense: mit\n---\n")
    assert licence_of(tmp_path) == "own"
    (tmp_path / "README.md").write_text(card("license: mit"))
    assert licence_of(tmp_path) == "mit"


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"license": 3}), json.dumps({"encoder": {"hf_config": []}})])
def test_a_configuration_that_is_damaged_says_nothing(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    assert licence_of(tmp_path) is None


def test_a_model_directory_names_it_in_its_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5", "license": "mit"}))
    assert licence_of(tmp_path) == "mit"


def test_only_small_texts_travel(tmp_path: Path) -> None:
    kept = ["COPYING", "LICENSE", "NOTICE.txt", "README.md", "license-code.md"]
    for name in (*kept, "LICENSES_DATA", "README.rst", "licensed.safetensors", "model.safetensors", "noticeable"):
        (tmp_path / name).write_text("text")
    (tmp_path / "LICENSE.large").write_bytes(b" " * 1_000_001)
    (tmp_path / "NOTICE").mkdir()
    assert travelling_texts(tmp_path) == kept
