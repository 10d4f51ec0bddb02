"""The page's words in each language: all there, saying the same, and free of what the page would read as a command."""

from __future__ import annotations

import json
import re
import warnings

import pytest
import words

LANGUAGES = sorted(path.name for path in words.LOCALES.iterdir() if (path / "main.json").exists())
NUMBER = re.compile(r"\d+(?:\.\d+)?")
# What the user sees in English in every language: ids of widgets, their options, names.
ID = re.compile(r"\b[a-z]+_[a-z_]+\b|\b(?:Custom|auto|triton|torch|gain|SVG2?|PSNR|SSIM|k-means|arXiv)\b")
ENGLISH, SOURCES = words.texts("en"), words.sources()


def test_the_english_files_and_help_pages_are_made_of_the_nodes_words():
    """As far as can be told without a ComfyUI; tests/host/test_words.py sees to the rest."""
    nodes = json.loads((words.LOCALES / "en" / "nodeDefs.json").read_text(encoding="utf-8"))
    assert {path.stem for path in words.PAGES.iterdir()} == set(nodes)
    for node, page in words.help_pages(nodes).items():
        assert (words.PAGES / f"{node}.md").read_text(encoding="utf-8") == page, "run python locales/words.py"
        assert "|" not in page  # a wider table is cut off in the pane that shows it
    for name, content in words.setting_words().items():
        assert json.loads((words.LOCALES / "en" / name).read_text(encoding="utf-8")) == content, "run python locales/words.py"


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_is_there_and_has_no_bare_sign_of_the_translation(language):
    """`@` refers to another message, `{x}` to a value, and `|` parts plurals; only {'@'} and the like are plain text."""
    assert list(words.texts(language)) == list(ENGLISH)
    for path, text in words.texts(language).items():
        assert text == text.strip() != "" and not set("@{}|") & set(re.sub(r"\{'[@{}|]'\}", "", text)), path


@pytest.mark.parametrize("language", [language for language in LANGUAGES if language != "en"])
def test_translations_say_what_the_english_says(language):
    """The labels of inputs and outputs stay as they are, so that tutorials fit; sentences keep their numbers and ids.

    Those of an older English are listed as a warning: an English text may be corrected by someone who knows no other language.
    """
    made_from = words.translated_from(language)
    assert made_from.keys() == SOURCES.keys()
    for path, text in words.texts(language).items():
        english = ENGLISH[path]
        if made_from[path] != SOURCES[path]:
            warnings.warn(f"locales/{language}: {path} is a translation of an older English", stacklevel=1)
        elif path.endswith(("tooltip", "description")):
            assert text != english, path
            assert sorted(NUMBER.findall(text)) == sorted(NUMBER.findall(english)), path
            assert set(ID.findall(english)) <= set(re.findall(r"[A-Za-z0-9_-]+", text)), path
        elif "/inputs/" in path or "/outputs/" in path:
            assert text == english, path
