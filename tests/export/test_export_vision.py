"""Image models: split graphs against upstream's whole classes, on their processors' own inputs."""

import json

import numpy as np
import page_models
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing

from tessera_export import artifact
from tessera_export.errors import ExportError
from tessera_export.graph import storage
from tessera_export.images import gate, torch_modules, vision
from tessera_onnx.images import decode, preprocess, prompt_ids
from tessera_onnx.models import catalogue
from tessera_onnx.models.foreign import graph_io

pytestmark = pytest.mark.export

# Pages that are cut into 4 x 3, 3 x 4 and 4 x 4 tiles by the models that cut them.
PAGES = [page_models.page(96, 64, 1), page_models.page(70, 100, 2), page_models.page(33, 32, 3)]
QUERIES = ["what is the late interaction of pages?", "rain", "a table of cats " * 4]
PROMPTS = {
    "colidefics3": "<|im_start|>User:<image>Describe the image.<end_of_utterance>\nAssistant:",
    "colmodernvbert": (
        "<|begin_of_text|>User:<image>Describe the image.<end_of_utterance>\nAssistant:"
    ),
    "colqwen2": (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>"
        "Describe the image.<|im_end|><|endoftext|>"
    ),
}
FAMILIES = ["colpali", "engine_colpali", "colidefics3", "colmodernvbert"]
PAIRS = ["clip", "siglip"]


class Running:
    """An artifact of an image model, its graphs joined in NumPy as its model.toml says."""

    def __init__(self, place):
        (self.spec,) = catalogue.read_catalogue(place / "model.toml")
        self.recipe = self.spec.vision
        self.tokenizer = page_models.Tokenizer.from_file(str(place / self.spec.text.tokenizer))
        self.place = place

    def ids(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def run(self, part, output, precision="fp32", **feeds):
        session = storage.session(self.place / getattr(part, precision))
        return session.run([output], feeds)[0]

    def inputs(self, part):
        return {port.name for port in graph_io.read(self.place / part.fp32).inputs}

    def page(self, page):
        """Ids and embeddings of an array (h, w, 3)."""
        picture = decode.open_image(page, where="page", alpha=self.recipe.image.alpha)
        pixels = preprocess.pixels(picture, self.recipe.image)
        grid = (pixels.rows, pixels.columns)
        ids = prompt_ids.document_ids(self.recipe.prompt, self.recipe.image.tokens, *grid, self.ids)
        embeddings = self.embeddings(ids)
        features = self.run(self.recipe.tile_graph, "features", pixel_values=pixels.tiles)
        image = prompt_ids.image_id(self.recipe.prompt, self.ids)
        embeddings[ids == image] = features.reshape(-1, features.shape[-1])
        return ids, embeddings

    def any_page(self, page):
        """Ids, embeddings and cells of an image that is one tile of any size."""
        pixels = preprocess.pixels(Image.fromarray(page), self.recipe.image)
        down, across = pixels.cells
        ids = prompt_ids.document_ids(self.recipe.prompt, down * across, 1, 1, self.ids)
        embeddings = self.embeddings(ids)
        features = self.run(self.recipe.tile_graph, "features", pixel_values=pixels.tiles)
        image = prompt_ids.image_id(self.recipe.prompt, self.ids)
        embeddings[ids == image] = features[0]
        return ids, embeddings, (down, across)

    def query(self, text):
        ids = np.array(self.ids(self.recipe.query.prefix + text + self.recipe.query.suffix))
        return ids, self.embeddings(ids)

    def embeddings(self, ids):
        part = self.recipe.token_graph
        return self.run(part, part.output, input_ids=ids[None].astype(np.int64))[0]

    def vectors(self, rows, positions=None):
        """Unit vectors of embeddings of any lengths, from one padded batch."""
        shape = (len(rows), max(map(len, rows)))
        embeds = np.zeros((*shape, rows[0].shape[1]), np.float32)
        mask = np.zeros(shape, np.int64)
        for number, row in enumerate(rows):
            embeds[number, : len(row)], mask[number, : len(row)] = row, 1
        feeds = {"inputs_embeds": embeds, "attention_mask": mask}
        if positions is not None:
            feeds["position_ids"] = np.zeros((3, *shape), np.int64)
            for number, places in enumerate(positions):
                feeds["position_ids"][:, number, : places.shape[1]] = places
        found = self.run(self.spec.graph, self.recipe.output, **feeds)
        return [vectors[: len(row)] for vectors, row in zip(found, rows, strict=True)]


def prefix(name):
    return None if name == "colpali" else "Query: "


@pytest.fixture
def exported(tmp_path):
    """exported(family, ...): upstream's model and processor, and the running artifact."""

    def build(name, precisions=("fp32",)):
        place = tmp_path / name
        model, processor = getattr(page_models, name)(place)
        facts = vision.read(place, prefix(name) if name not in PAIRS else None)
        vision.export(facts, tmp_path / "artifact", artifact.Origin("test"), precisions)
        return model, processor, Running(tmp_path / "artifact")

    return build


def upstream_pages(name, processor, pages):
    pictures = [Image.fromarray(page) for page in pages]
    options = {"return_tensors": "pt", "padding": "longest"}
    if name == "colpali":
        inputs = processor(images=pictures)
    elif name == "engine_colpali":
        # As in colpali-engine 0.2, with which ColPali was trained: the class adds <bos> and the
        # line end. Later versions spell a <bos> of their own, and pages get two.
        text = ["<image>Describe the image."] * len(pages)
        # Of PyTorch's tensors the class makes labels in a way that NumPy deprecates.
        options["return_tensors"] = "np"
        arrays = processor(text=text, images=pictures, **options)
        inputs = {key: torch.from_numpy(value) for key, value in arrays.items()}
    else:
        nested = [[picture] for picture in pictures]
        inputs = processor(text=[PROMPTS[name]] * len(pages), images=nested, **options)
    return {key: value for key, value in inputs.items() if key != "labels"}


def upstream_queries(name, processor, texts):
    if name == "colpali":
        return dict(processor(text=texts))
    if name == "engine_colpali":
        # colpali-engine leaves the token types to transformers, which then attends to what
        # follows on unpadded input alone; ones were never trained, so zeros it is.
        texts = [f"<bos>Query: {text}{'<pad>' * 10}" for text in texts]
        inputs = processor.tokenizer(
            texts, return_tensors="pt", padding="longest", return_token_type_ids=True
        )
        assert not inputs["token_type_ids"].any()
        return dict(inputs)
    texts = [f"Query: {text}{'<end_of_utterance>' * 10}" for text in texts]
    return dict(processor(text=texts, return_tensors="pt", padding="longest"))


def upstream_vectors(model, inputs):
    """Upstream's vectors (n, dim) of each row of a batch, whichever side it pads."""
    with torch.no_grad():
        found = model(**inputs)
    found = getattr(found, "embeddings", found)
    mask = inputs["attention_mask"] > 0
    assert not found[~mask].any()  # upstream's padding is zeros
    return [rows[real].numpy() for rows, real in zip(found, mask, strict=True)]


def close(ours, theirs, limit=1e-4):
    assert [rows.shape for rows in ours] == [rows.shape for rows in theirs]
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=limit)


@pytest.mark.parametrize("name", FAMILIES)
def test_joined_graphs_equal_upstreams_class(name, exported):
    model, processor, running = exported(name)
    ids, rows = zip(*map(running.page, PAGES), strict=True)
    queries = [running.query(text) for text in QUERIES]
    alone, together = [], upstream_pages(name, processor, PAGES)
    for number, page in enumerate(PAGES):
        inputs = upstream_pages(name, processor, [page])
        assert inputs["input_ids"][0].tolist() == ids[number].tolist()
        alone += upstream_vectors(model, inputs)
    close(running.vectors(rows), alone)
    close(running.vectors(rows), upstream_vectors(model, together))
    batch = upstream_queries(name, processor, QUERIES)
    for row, mask, (mine, _) in zip(
        batch["input_ids"], batch["attention_mask"], queries, strict=True
    ):
        assert row[mask > 0].tolist() == mine.tolist()
    found = upstream_vectors(model, batch)
    close(running.vectors([embeddings for _, embeddings in queries]), found)
    for (_, embeddings), theirs in zip(queries, found, strict=True):
        close(running.vectors([embeddings]), [theirs])
    # Every page differs from the others, and its vectors among themselves.
    assert np.abs(alone[0][:20] - alone[1][:20]).max() > 0.1
    assert np.median(alone[0] @ alone[0].T) < 0.9


def test_colqwen2_equals_upstreams_class(exported):
    """Images of any size, each alone and all in one padded batch."""
    model, processor, running = exported("colqwen2")
    rows, positions, theirs, seen = [], [], [], set()
    for page in PAGES:
        ids, embeddings, cells = running.any_page(page)
        inputs = processor(images=Image.fromarray(page), return_tensors="pt")
        grid = inputs["image_grid_thw"]
        assert (grid[0] // torch.tensor([1, 2, 2])).tolist() == [1, *cells]
        text = PROMPTS["colqwen2"].replace("<|image_pad|>", "<|image_pad|>" * cells[0] * cells[1])
        assert running.ids(text) == ids.tolist()
        batch = {"input_ids": torch.from_numpy(ids)[None], "image_grid_thw": grid}
        batch["attention_mask"] = torch.ones_like(batch["input_ids"])
        batch["mm_token_type_ids"] = (batch["input_ids"] == model.config.image_token_id).int()
        batch["pixel_values"] = inputs["pixel_values"][None]
        kinds, mask = batch["mm_token_type_ids"], batch["attention_mask"]
        places, _ = model.get_rope_index(
            batch["input_ids"], kinds, image_grid_thw=grid, attention_mask=mask
        )
        image = model.config.image_token_id
        positions.append(prompt_ids.positions(ids, image, *cells))
        assert np.array_equal(positions[-1], places[:, 0].numpy())
        rows.append(embeddings)
        seen.add(cells)
        theirs += upstream_vectors(model, batch)
    assert len(seen) > 1  # grids of cells
    close(running.vectors(rows, positions), theirs)
    texts = [f"Query: {text}{'<|endoftext|>' * 10}" for text in QUERIES]
    rows = [running.query(text) for text in QUERIES]
    for (ids, _), text in zip(rows, texts, strict=True):
        assert running.ids(text) == ids.tolist()
    theirs = []
    for ids, _ in rows:
        batch = {"input_ids": torch.from_numpy(ids)[None]}
        batch["attention_mask"] = torch.ones_like(batch["input_ids"])
        theirs += upstream_vectors(model, batch)
    positions = [prompt_ids.positions(ids, -1, 0, 0) for ids, _ in rows]
    close(running.vectors([embeddings for _, embeddings in rows], positions), theirs)


def test_transformers_forgets_the_grid_of_colqwen2(tmp_path):
    """Why the oracle is colpali-engine's class: should this fail, upstream has changed."""
    tokenizer = page_models.qwen_tokenizer()
    config = page_models.qwen_config(tokenizer).to_dict()
    config = page_models.transformers.ColQwen2Config(vlm_config=config, embedding_dim=16)
    model = page_models.lively(page_models.transformers.ColQwen2ForRetrieval(config), 6)
    image = model.vlm.config.image_token_id
    ids = torch.tensor([[60, 61, *[image] * 6, 62]])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    batch["image_grid_thw"] = torch.tensor([[1, 4, 6]])
    batch["pixel_values"] = torch.randn(1, 24, 1176, generator=torch.Generator().manual_seed(0))
    found = upstream_vectors(model, batch)
    line = torch.arange(9).expand(3, 1, -1)
    close(found, upstream_vectors(model, {**batch, "position_ids": line}), 1e-6)
    grid = torch.from_numpy(prompt_ids.positions(ids[0].numpy(), image, 2, 3))[:, None]
    trained = upstream_vectors(model, {**batch, "position_ids": grid})
    assert np.abs(found[0] - trained[0]).max() > 0.01


@pytest.mark.parametrize("name", PAIRS)
def test_towers_equal_upstreams_class(name, exported):
    model, processor, running = exported(name)
    pixels = np.concatenate(
        [preprocess.pixels(Image.fromarray(page), running.recipe.image).tiles for page in PAGES]
    )
    inputs = processor(images=[Image.fromarray(page) for page in PAGES], return_tensors="pt")
    np.testing.assert_allclose(pixels, inputs["pixel_values"].numpy(), atol=1e-6)
    with torch.no_grad():
        theirs = model.get_image_features(**inputs).pooler_output
    ours = running.run(running.spec.graph, "embeddings", pixel_values=pixels)
    close([ours], [torch.nn.functional.normalize(theirs, dim=-1).numpy()], 1e-5)
    fixed = {"padding": "max_length", "max_length": 16} if name == "siglip" else {"padding": True}
    texts = processor(text=QUERIES, truncation=True, return_tensors="pt", **fixed)
    with torch.no_grad():
        theirs = model.get_text_features(**texts).pooler_output
    part = running.recipe.text_graph
    names = running.inputs(part)
    feeds = {key: texts[key].numpy() for key in names}
    assert names == set(texts) & {"input_ids", "attention_mask"}
    ours = running.run(part, part.output, **feeds)
    close([ours], [torch.nn.functional.normalize(theirs, dim=-1).numpy()], 1e-5)


def test_facts_of_colpali(exported):
    _, _, running = exported("colpali")
    assert (running.recipe.dimension, running.recipe.image.tokens) == (16, 16)
    assert running.recipe.image.alpha == "white"
    assert running.recipe.query.prefix == "<bos>Question: "
    assert running.recipe.query.suffix == "<pad>" * 10 + "\n"
    assert running.spec.text.prefix_ids == ()
    assert running.inputs(running.spec.graph) == {"inputs_embeds", "attention_mask"}


def test_facts_of_colsmol(exported):
    _, _, running = exported("colidefics3")
    assert running.recipe.image.resize == "tiles"
    assert (running.recipe.image.size, running.recipe.image.longest) == (32, 128)
    assert running.recipe.image.alpha == "dropped"
    assert running.recipe.query.prefix == "Query: "
    assert running.recipe.dimension == 128


def test_the_saved_prefix_of_a_query_is_taken(tmp_path):
    page_models.colpali(tmp_path)
    path = tmp_path / "processor_config.json"
    table = json.loads(path.read_text())
    path.write_text(json.dumps(table | {"query_prefix": "Find: ", "visual_prompt_prefix": "Read."}))
    facts = vision.read(tmp_path)
    assert facts.recipe.query.prefix == "<bos>Find: "
    assert facts.recipe.prompt.text == "{image}<bos>Read.\n"


def test_tokens_that_the_tokenizer_adds_are_spelled_out(tmp_path):
    page_models.colmodernvbert(tmp_path)
    tokenizer = page_models.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    ends = [(token, tokenizer.token_to_id(token)) for token in ("<|endoftext|>", "<|im_end|>")]
    tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A <|im_end|>", special_tokens=ends
    )
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    facts = vision.read(tmp_path, "")
    assert facts.text.prefix_ids == facts.text.suffix_ids == ()
    assert facts.recipe.prompt.text.startswith("<|endoftext|><|begin_of_text|>User:{image}")
    assert facts.recipe.prompt.text.endswith("Assistant:<|im_end|>")
    assert facts.recipe.query.prefix == "<|endoftext|>"
    assert facts.recipe.query.suffix == "<end_of_utterance>" * 10 + "<|im_end|>"


def test_names_of_older_files(tmp_path):
    """Before version 5 of transformers the tower's tensors had one more name in front."""
    model, _ = page_models.engine_colpali(tmp_path)
    path = tmp_path / "model.safetensors"
    old = {
        key.replace("model.vision_tower.", "model.vision_tower.vision_model."): value
        for key, value in load_file(path).items()
    }
    assert old.keys() != load_file(path).keys()
    save_file(old, path, metadata={"format": "pt"})
    loaded = torch_modules.load(tmp_path, "paligemma", None)
    expected = model.model.model.vision_tower.encoder.layers[1].mlp.fc1.weight
    assert torch.equal(loaded.vision_tower.encoder.layers[1].mlp.fc1.weight, expected)


def test_an_image_token_beyond_the_table(tmp_path):
    """The table of PaliGemma's first checkpoints may lack the image token's row."""
    model, _ = page_models.colpali(tmp_path)
    reader = model.vlm
    reader.config.image_token_id = reader.get_input_embeddings().num_embeddings
    ids = torch.tensor([[5, reader.config.image_token_id, 7]])
    with torch.no_grad():
        found = torch_modules.Tokens(reader)(ids)
    assert torch.equal(found[0, 0], reader.get_input_embeddings()(ids[0, :1])[0])


@pytest.mark.parametrize("name", ["colpali", "colidefics3", "clip"])
def test_every_precision_has_every_graph(name, exported):
    _, _, running = exported(name, ("fp32", "fp16", "int8", "int4"))
    recipe, spec = running.recipe, running.spec
    for precision in ("fp32", "fp16", "int8", "int4"):
        files = spec.files_for(precision)
        assert len(files) == len(recipe.parts()) + 2  # the main graph and the tokenizer
        assert set(files) <= {path.name for path in running.place.iterdir()}
    assert {row.precision for row in spec.export.parity} == {"fp32", "fp16", "int8", "int4"}
    outputs = {row.output for row in spec.export.parity}
    pages = {"features", "inputs_embeds", "embeddings"}
    assert outputs == ({"embeddings", "text_embeds"} if name == "clip" else pages)
    if name == "clip":
        return
    rows = [running.page(PAGES[0])[1]]
    truth = running.vectors(rows)[0]
    session = storage.session(running.place / spec.graph.int8)
    mask = np.ones((1, len(rows[0])), np.int64)
    (found,) = session.run(["embeddings"], {"inputs_embeds": rows[0][None], "attention_mask": mask})
    cosines = (found[0] * truth).sum(axis=1)
    assert cosines.mean() > 0.97
    graphs = [running.place / file for file in spec.files_for("int8") if file.endswith(".onnx")]
    assert any(b"_s8" in path.read_bytes() for path in graphs)  # small matrices stay fp32


def test_weights_in_files_of_their_own(exported, monkeypatch):
    """As of a graph above 2 GB."""
    monkeypatch.setattr(storage, "INLINE", 20_000)
    model, processor, running = exported("colidefics3")
    names = {path.name for path in running.place.iterdir()}
    assert {f"{stem}.fp32.onnx_data" for stem in ("tiles", "tokens", "model")} < names
    assert {file.name for file in running.spec.files} == names - {"model.toml"}
    _, rows = running.page(PAGES[0])
    inputs = upstream_pages("colidefics3", processor, PAGES[:1])
    close(running.vectors([rows]), upstream_vectors(model, inputs))


def test_transformers_attends_otherwise_without_token_types(tmp_path):
    """Why the graph makes its own mask: should this fail, upstream has changed."""
    model, processor = page_models.colpali(tmp_path)
    short, long = QUERIES[1], QUERIES[0]
    alone, padded = processor(text=[short]), processor(text=[short, long])
    typed = [upstream_vectors(model, dict(inputs))[0] for inputs in (alone, padded)]
    close(typed[:1], typed[1:], 1e-5)
    for inputs in (alone, padded):
        inputs.pop("token_type_ids")
    bare = [upstream_vectors(model, dict(inputs))[0] for inputs in (alone, padded)]
    close(bare[:1], typed[:1], 1e-5)
    assert np.abs(bare[1] - typed[1]).max() > 0.01


class TestGate:
    """A wrong graph must not become an artifact."""

    @pytest.fixture
    def place(self, tmp_path):
        place = tmp_path / "model"
        page_models.colpali(place)
        return place

    def refused(self, place, match, query=None, precisions=("fp32",)):
        target = place.parent / "artifact"
        with pytest.raises(ExportError, match=match):
            vision.export(vision.read(place, query), target, artifact.Origin("test"), precisions)
        assert not target.exists()

    def test_a_causal_mask(self, place, monkeypatch):
        forward = torch_modules.Language.forward

        def causal(self, inputs_embeds, attention_mask):
            self.prefix = False
            return forward(self, inputs_embeds, attention_mask)

        monkeypatch.setattr(torch_modules.Language, "forward", causal)
        self.refused(place, "'embeddings' in fp32 has max_relative")

    def test_padding_that_is_seen(self, place, monkeypatch):
        forward = torch_modules.Language.forward

        def seen(self, inputs_embeds, attention_mask):
            return forward(self, inputs_embeds, torch.ones_like(attention_mask))

        monkeypatch.setattr(torch_modules.Language, "forward", seen)
        self.refused(place, "embeddings")

    def test_embeddings_without_their_scale(self, place, monkeypatch):
        def unscaled(self, input_ids):
            return torch.nn.functional.embedding(input_ids, self.table.weight)

        monkeypatch.setattr(torch_modules.Tokens, "forward", unscaled)
        self.refused(place, "'inputs_embeds' in fp32 has max_relative")

    def test_another_projection_of_the_tiles(self, place, monkeypatch):
        forward = torch_modules.Tiles.forward
        monkeypatch.setattr(
            torch_modules.Tiles,
            "forward",
            lambda self, pixel_values: forward(self, pixel_values) * 1.01,
        )
        self.refused(place, "'features' in fp32 has max_relative")

    def test_tiles_in_another_order(self, tmp_path, monkeypatch):
        place = tmp_path / "model"
        page_models.colmodernvbert(place)
        forward = torch_modules.Tiles.forward
        monkeypatch.setattr(
            torch_modules.Tiles,
            "forward",
            lambda self, pixel_values: forward(self, pixel_values).flip(0),
        )
        self.refused(place, "'features' in fp32 has max_relative", "")
        assert [each.name for each in tmp_path.iterdir()] == ["model"]  # nothing half made

    @pytest.mark.parametrize("precisions", [(), ("fp32", "int2")])
    def test_precisions_that_are_none(self, place, precisions):
        self.refused(place, "precisions are one or more of fp32", None, precisions)

    def test_a_text_tower_that_pools_all_tokens(self, tmp_path, monkeypatch):
        place = tmp_path / "model"
        page_models.clip(place)

        def mean(self, input_ids, attention_mask=None):
            states = self.tower(input_ids=input_ids, attention_mask=attention_mask)
            pooled = self.projection(states.last_hidden_state.mean(1))
            return torch.nn.functional.normalize(pooled, dim=-1)

        monkeypatch.setattr(torch_modules.Texts, "forward", mean)
        self.refused(place, "'text_embeds' in fp32 has max_abs")


class TestRefused:
    """What no recipe here can say, with the reason."""

    @pytest.fixture
    def place(self, tmp_path):
        page_models.colidefics3(tmp_path)
        return tmp_path

    def edit(self, path, **changes):
        table = json.loads(path.read_text())
        nested = table.get("image_processor", table)
        nested.update(changes)
        path.write_text(json.dumps(table))

    @pytest.mark.parametrize(
        ("changes", "match"),
        [
            ({"do_normalize": False}, "do_normalize is False"),
            ({"rescale_factor": 1.0}, "rescale_factor"),
            ({"image_std": [0.5, 0, 0.5]}, "image_std"),
            ({"image_mean": [0.5, 0.5]}, "image_mean"),
            ({"image_mean": [float("nan")] * 3}, "three numbers each"),
            ({"do_image_splitting": False}, "cut into tiles in training"),
            ({"max_image_size": {"longest_edge": 64}}, "squares of 64, the model reads 32"),
            ({"resample": 0}, "resample 0"),
        ],
    )
    def test_steps_of_the_processor(self, place, changes, match):
        self.edit(place / "processor_config.json", **changes)
        with pytest.raises(ExportError, match=match):
            vision.read(place, "")

    def test_a_count_of_tokens_that_the_model_does_not_make(self, place):
        path = place / "processor_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"image_seq_len": 64}))
        with pytest.raises(ExportError, match="64 tokens an image, the model makes 4"):
            vision.read(place, "")

    def test_a_prefix_that_nobody_said(self, place):
        with pytest.raises(ExportError, match="give --query-prompt as the model was trained"):
            vision.read(place)

    def test_an_adapter(self, tmp_path):
        (tmp_path / "adapter_config.json").write_text("{}")
        with pytest.raises(ExportError, match=r"LoRA adapter: .* merge_and_unload"):
            vision.read(tmp_path)

    def test_no_processor(self, place):
        (place / "processor_config.json").unlink()
        with pytest.raises(ExportError, match="no image processor"):
            vision.read(place, "")

    def test_a_token_that_is_missing(self, place):
        path = place / "tokenizer.json"
        path.write_text(path.read_text().replace("<global-img>", "<other-img>"))
        with pytest.raises(ExportError, match="<global-img>"):
            vision.read(place, "")

    def test_another_image_token(self, place):
        path = place / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"image_token_id": 7}))
        with pytest.raises(ExportError, match="not the token 7"):
            vision.read(place, "")

    def test_no_projection(self, place):
        path = place / "model.safetensors"
        kept = {key: value for key, value in load_file(path).items() if "linear" not in key}
        save_file(kept, path, metadata={"format": "pt"})
        with pytest.raises(ExportError, match="no projection"):
            vision.read(place, "")

    def test_weights_that_are_missing(self, place, tmp_path):
        path = place / "model.safetensors"
        kept = {key: value for key, value in load_file(path).items() if "connector" not in key}
        save_file(kept, path, metadata={"format": "pt"})
        with pytest.raises(ExportError, match=r"do not fill the tensor 'connector"):
            vision.export(vision.read(place, ""), tmp_path / "out", artifact.Origin("test"))

    @pytest.mark.parametrize(("kind", "match"), [("siglip2", "NaFlex"), ("bert", "known are")])
    def test_other_models(self, tmp_path, kind, match):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
        with pytest.raises(ExportError, match=match):
            vision.read(tmp_path)

    def test_pixels_that_the_recipe_does_not_make(self, place, monkeypatch):
        monkeypatch.setattr(
            gate.preprocess, "pixels", lambda image, recipe: preprocess.Pixels(
                np.zeros((13, 3, 32, 32), np.float32), 4, 3, (2, 2), image.size, (0, 0, 1, 1)
            ),
        )  # fmt: skip
        with pytest.raises(ExportError, match="makes other pixels of an image of 640 x 480"):
            vision.read(place, "")
