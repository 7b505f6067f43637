# SPDX-License-Identifier: Apache-2.0
"""The server's tokenizer against the model's own, run by the `tokenizers` package."""

import json
import random
import subprocess
import unicodedata

import pytest

from server_process import model_directory, sentences

NASTY = [
    "",
    " \t\r\n\u00a0\u2003\u3000 ",
    "naïve café — Ünïcödé “quotes” … ¿qué?",
    "e\u0301 \u0065\u0301\u0323 Å \u212b \ufb01 ﬁ ½ ²",  # composed and decomposed, ligatures, compatibility forms
    "İstanbul ıI ŞŞß ẞ ΣΑΣ Σς ǅ Ⅷ",  # case rules that depend on language or context
    "漢字かな交じり文 𠀀𪜀 豈 中a国1",
    "한국어 \u1112\u1161\u11ab 각",
    "नमस्ते สวัสดี שָׁלוֹם السَّلَامُ",
    "zero\u200bwidth\u200djoin\ufeffbom\u00adsoft",
    "ctrl\x00\x01\x07\x1b\x7f\x85\x9fchars",
    "\ufffd replaced \ufffd",
    "👩‍👩‍👧‍👦 🇩🇪 ☺️ 🏳️‍🌈",
    "a.b,c;d:e!f?g-h_i/j\\k|l~m`n@o#p$q%r^s&t*u(v)w[x]y{z}",
    "$+<=>^`|~ ‖ § ¶ · ‰ ※ 〜 、。「」",
    "[CLS] [SEP] [MASK] [PAD] [UNK] [sep] [[SEP]] [SEP[SEP] x[SEP]y [UNK",
    "##ing ## # ###",
    "x" * 100 + " " + "x" * 101 + " " + "é" * 100 + " " + "é" * 101,
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "http://example.org/a?b=c&d=%20#e user@example.org 3.14e-10 1,000,000",
    "\u0301leading mark", "\ud7ff\ue000\U0010ffff \U000e0001",
]


@pytest.fixture
def tokenize(binary):
    def run(texts):
        lines = "\n".join(json.dumps(text) for text in texts) + "\n"
        command = [str(binary), "--tokenize", "--model", str(model_directory())]
        done = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


def assert_same(texts, ids, reference):
    assert len(ids) == len(texts)
    wrong = [(text, got, want) for text, got in zip(texts, ids) if got != (want := reference.token_ids(text))]
    assert not wrong, f"{len(wrong)} of {len(texts)} differ, the first: {ascii(wrong[0])}"


def stable_characters():
    """Characters whose category is the same today as in Unicode 3.2. Libraries disagree on newer ones, by their year of
    Unicode, and the tokenizer's is older than utf8proc's."""
    old = unicodedata.ucd_3_2_0
    for code in range(1, 0x110000):
        c = chr(code)
        if not 0xD800 <= code < 0xE000 and unicodedata.category(c) == old.category(c) and old.category(c) != "Cn":
            yield c


def test_nasty_strings(tokenize, reference):
    assert_same(NASTY, tokenize(NASTY), reference)


def test_example_sentences(tokenize, reference):
    texts = sentences()
    assert_same(texts, tokenize(texts), reference)


def test_every_stable_character_inside_and_outside_a_word(tokenize, reference):
    texts = [f"a{c}b {c} x" for c in stable_characters()]
    assert len(texts) > 200_000  # 95,000 of them outside the private use planes
    assert_same(texts, tokenize(texts), reference)


def test_random_strings(tokenize, reference):
    rng = random.Random(7)
    pool = [c for c in stable_characters() if ord(c) < 0x3000] + list("  aeinorst[]#") * 40
    texts = ["".join(rng.choices(pool, k=rng.randint(1, 30))) for _ in range(5000)]
    assert_same(texts, tokenize(texts), reference)


def test_a_line_that_is_no_json_string_is_refused(binary):
    command = [str(binary), "--tokenize", "--model", str(model_directory())]
    done = subprocess.run(command, input='"fine"\n17\n', capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "line 2 is not a JSON string" in done.stderr
