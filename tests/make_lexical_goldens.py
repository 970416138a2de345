"""Make tests/artifacts/lexical.json: ids and weights of BM25 and BM42, as fastembed computes them.

`python tests/make_lexical_goldens.py` where fastembed 0.9.1 and its packages are installed, and
this package is not. fastembed reads the stop words of this package from a folder, since it would
download the same lists. Nothing else in the file comes from this project's code.
"""

# ruff: noqa: RUF001 (letters of many scripts)

from __future__ import annotations

import json
import random
import shutil
import tempfile
import unicodedata
from pathlib import Path

from fastembed.sparse.bm25 import Bm25, supported_languages
from fastembed.sparse.bm42 import Bm42

ROOT = Path(__file__).parents[1]
STOP_WORDS = ROOT / "tessera_onnx" / "models" / "stop_words"
GOLDEN = ROOT / "tests" / "artifacts" / "lexical.json"
NO_STEMMER = "none"  # this package's name for disable_stemmer=True

# Written for this test, with the letters, endings and stop words of each language.
TEXTS = {
    "arabic": [
        "الكتب القديمة في المكتبة أجمل من الكتب الجديدة",
        "ذهب الأولاد إلى المدرسة، ثم عادوا!",
    ],
    "danish": [
        "Børnene løber gennem skovene, og de gamle bøger ligger på bordet.",
        "Det er ikke dyrt",
    ],
    "dutch": [
        "De kinderen lopen door de bossen; de oude boeken liggen op de tafels.",
        "Zij waren er",
    ],
    "english": [
        "The children are running through the forests, and the older books' covers were torn.",
        "I must not fear. Fear is the mind-killer. FEAR!",
        "We're not in Infinity; we're in the suburbs: don't, won't, it's y'all's",
        "hello world",
        "a a a the the the",
        "snake_case __init__ _ _x_ ‿ e-mail@example.org 3.14 1,000 ²½Ⅷ",
    ],
    "finnish": ["Lapset juoksevat metsissä, ja vanhat kirjat ovat pöydillä.", "En minä tiedä sitä"],
    "french": [
        "Mangez-vous vraiment des grenouilles?",
        "Je suis au lit",
        "L'élève français s'écrie : « Où est mon crayon ? »",
    ],
    "german": [
        "Über den größten Flüssen Österreichs äußern sich Experten häufig: STRASSE, Straße!",
        "Die Häuser der Städte und die Bücher der Kinder waren nicht teuer.",
    ],
    "greek": [
        "Ο Ξενοφών είπε: «Ψάχνω για ένα ωραίο δώρο για τη γιαγιά μου.»",
        "ΟΔΟΣ ΟΔΟΣ'Α ΟΔΟΣ. ΣΣ Σ",
    ],
    "hungarian": [
        "A gyerekek az erdőkben futnak, és a régi könyvek az asztalokon vannak.",
        "Nem az",
    ],
    "italian": ["I bambini corrono nei boschi e i vecchi libri sono sui tavoli.", "Dell'acqua c'è"],
    "norwegian": ["Barna løper gjennom skogene, og de gamle bøkene ligger på bordet.", "Ikke jeg"],
    "portuguese": [
        "As crianças correm pelas florestas e os livros velhos estão nas mesas.",
        "Não é",
    ],
    "romanian": [
        "Într-o zi însorită, Ștefan și Ioana au mâncat mămăligă cu brânză și țuică.",
        "Nu e",
    ],
    "russian": ["Дети бегают по лесам, а старые книги лежали на столах.", "привет мир! Ёлки и ели"],
    "spanish": [
        "¡Los niños corren por los bosques y los libros viejos están en las mesas!",
        "¿Qué es?",
    ],
    "swedish": [
        "Barnen springer genom skogarna, och de gamla böckerna ligger på borden.",
        "Inte jag",
    ],
    "tamil": ["பழைய புத்தகங்கள் மேசைகளில் உள்ளன", "குழந்தைகள் காடுகளில் ஓடுகிறார்கள்"],
    "turkish": [
        "Üzgün öğretmen öğrencilere seslendi: Lütfen gürültü yapmayın!",
        "İSTANBUL Istanbul ıI iİ",
    ],
    NO_STEMMER: ["Zażółć gęślą jaźń, the running dogs", "日本語の文章 และ ภาษาไทย 한국어 문장"],
}
# Of the words and letters of the graph's small vocabulary.
WORDS = [
    "the cat sat on the mat",
    "what is machine learning and what is late interaction",
    "models, models and a model: every token of every document",
    "rained raining rains cats dogs vectored searching",
    "rain in spain falls over new york now, now, now!",
    "[MASK] cat [SEP] dog [unused0] [UNK] passage",
    "zebra \u65e5\u672c cat \u00e9t\u00e9 caf\u00e9 unknown",
    "the of and to in is what",
    "cat ing ed ##ing ##ed",
    "search vectors " * 30,
    "don't stop-words a_b x",
]
# Read in every language.
ODD = [
    "",
    ".",
    " \t\r\n\x0b\x0c\x1c\x85\u2028\u3000",
    "_",
    "a\x00b\x07c",
    "\ufeffbom zero\u200bwidth soft\u00adhyphen right\u202eto left",
    "e\u0301 \u00e9 a\u0308\u0323 \U0001f469\u200d\U0001f680 \U00020000",
    "İ ẞ ﬁ ſ ŉ ǅ Σ ς K Å",
    "x" * 40 + " " + "y" * 41 + " " + "é" * 40 + " " + "İ" * 21,
    "fox aadicsu8 fox abya4md5 fox",  # three words of one id: the last one's count is the weight
    "abya4md5 fox aadicsu8 aadicsu8",
    "tree " * 100 + "rivers",
]


def noise() -> list[str]:
    """Random texts of the characters of Unicode 3.2, which every Python knows alike."""
    choose = random.Random(8)
    ranges = ((32, 0x250), (0x250, 0x3000), (0x3000, 0xD800), (0xE000, 0x20000))
    texts = []
    for _ in range(24):
        first, last = choose.choice(ranges)
        letters = [chr(choose.randrange(first, last)) for _ in range(60)]
        known = [c for c in letters if unicodedata.ucd_3_2_0.category(c) != "Cn"]
        texts.append("".join(c if choose.random() < 0.8 else " The " for c in known))
    return texts


def attention() -> list[dict[str, object]]:
    """The rows of BM42 on the graph of tests/artifacts/attention."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(GOLDEN.parent / "attention", folder, dirs_exist_ok=True)
        path = Path(folder)
        (path / "config.json").write_text('{"pad_token_id": 0}')
        limits = {"model_max_length": 32, "pad_token": "[PAD]"}
        (path / "tokenizer_config.json").write_text(json.dumps(limits))
        special = {
            f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")
        }
        (path / "special_tokens_map.json").write_text(json.dumps(special))
        model = Bm42("Qdrant/bm42-all-minilm-l6-v2-attentions", specific_model_path=folder)
        return [row(model, text) for text in (*WORDS, *ODD)]


def row(model: Bm25 | Bm42, text: str) -> dict[str, object]:
    """The text, the document's weights by id, and the query's ids."""
    (document,) = model.embed([text])
    (query,) = model.query_embed([text])
    order = document.indices.argsort()
    return {
        "text": text,
        "indices": document.indices[order].tolist(),
        "values": document.values[order].tolist(),
        "query": sorted(query.indices.tolist()),
        "words": model.token_count([text]),
    }


def main() -> None:
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(STOP_WORDS, folder, dirs_exist_ok=True)
        (Path(folder) / "config.json").write_text("{}")
        for language, texts in TEXTS.items():
            options = {"language": language, "disable_stemmer": language == NO_STEMMER}
            model = Bm25("Qdrant/bm25", specific_model_path=folder, **options)
            several = [*texts, *ODD, *(noise() if language in {"english", NO_STEMMER} else ())]
            found[language] = [row(model, text) for text in several]
        options = {"k": 0.9, "b": 0.4, "avg_len": 3.5, "language": "english"}
        model = Bm25("Qdrant/bm25", specific_model_path=folder, **options)
        tuned = [row(model, text) for text in (*TEXTS["english"], *ODD)]
    assert set(supported_languages) == set(found) - {NO_STEMMER}
    content = {
        "attention": attention(),
        "languages": found,
        "tuned": {"options": options, "rows": tuned},
    }
    GOLDEN.write_text(json.dumps(content, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
