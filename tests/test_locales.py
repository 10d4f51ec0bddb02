"""The page's words in each language: all there, saying the same, and free of what the page would read as a command."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "locales"
LANGUAGES = ("en", "es", "fr", "ja", "ko", "ru", "zh")
FILES = ("main.json", "nodeDefs.json", "settings.json")
NUMBER = re.compile(r"\d+(?:\.\d+)?")
# What the user sees in English in every language: ids of widgets, their options, names.
ID = re.compile(r"\b[a-z]+_[a-z_]+\b|\b(?:Custom|auto|triton|torch|gain|SVG2?|PSNR|SSIM|k-means|arXiv)\b")


def texts(language: str) -> dict[str, str]:
    """Path of keys -> text, of all files of a language."""
    found = {}

    def walk(value, path: str):
        if isinstance(value, dict):
            for key, part in value.items():
                walk(part, f"{path}/{key}")
        else:
            found[path] = value

    for name in FILES:
        walk(json.loads((FOLDER / language / name).read_text(encoding="utf-8")), name)
    return found


ENGLISH = texts("en")


def test_every_language_has_every_file():
    found = {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.is_file()}
    assert found == {f"{language}/{name}" for language in LANGUAGES for name in FILES}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_the_same_keys_in_the_same_order(language):
    assert list(texts(language)) == list(ENGLISH)
    assert all(isinstance(text, str) and text == text.strip() != "" for text in texts(language).values())


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_bare_sign_of_the_translation(language):
    """`@` refers to another message, `{x}` to a value, and `|` parts plurals; only {'@'} and the like are plain text."""
    for path, text in texts(language).items():
        assert not set("@{}|") & set(re.sub(r"\{'[@{}|]'\}", "", text)), path


@pytest.mark.parametrize("language", LANGUAGES[1:])
def test_translations_say_what_the_english_says(language):
    """The labels of inputs and outputs stay as they are, so that tutorials fit; sentences keep their numbers and ids."""
    for path, text in texts(language).items():
        english = ENGLISH[path]
        if path.endswith(("tooltip", "description")):
            assert text != english, path
            assert sorted(NUMBER.findall(text)) == sorted(NUMBER.findall(english)), path
            assert set(ID.findall(english)) <= set(re.findall(r"[A-Za-z0-9_-]+", text)), path
        elif "/inputs/" in path or "/outputs/" in path:
            assert text == english, path


def test_settings_are_those_of_the_page():
    page = (ROOT / "web" / "sparse_videogen.js").read_text(encoding="utf-8")
    ids = re.findall(r'^ +id: "(.+)",$', page, re.MULTILINE)
    assert ids
    for setting in ids:
        name, tooltip = (ENGLISH[f"settings.json/{setting.replace('.', '_')}/{key}"] for key in ("name", "tooltip"))
        assert f'name: "{name}"' in page and f'tooltip: "{tooltip}"' in page
    categories = re.findall(r"category: \[(.+)\]", page)
    shown = {label for category in categories for label in re.findall(r'"(.+?)"', category)[:2]}
    assert shown == {path.split("/")[-1] for path in ENGLISH if path.startswith("main.json/settingsCategories/")}
