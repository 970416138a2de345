"""What outputs of these names hold, for the reader of folders and for the open graph alike."""

# The states of the encoder, before any layer after it.
ENCODERS = ("last_hidden_state", "hidden_states")
# The vector of a text, if they have two axes. Never "pooler_output", the state of [CLS] after a
# layer that was trained to tell whether two sentences follow each other.
POOLED = (
    "sentence_embedding", "sentence_embeddings", "text_embeds", "text_embedding", "dense_vecs",
    "embeddings", "embedding",
)  # fmt: skip
