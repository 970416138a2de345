"""List pairs of a query and a document, for a reranker's gate and for int8's calibration."""

from __future__ import annotations

from tessera_export.texts import sample_groups, samples

QUERIES = 7  # of the samples that stand as queries


def judged() -> list[tuple[str, str]]:
    """The pairs that a graph is compared on: English prose and texts of many sorts."""
    queries, documents = samples.texts()[:QUERIES], samples.texts()[QUERIES:]
    found = [(queries[i % QUERIES], text) for i, text in enumerate(documents)]
    found += [(queries[i % QUERIES], text) for i, (_, text) in enumerate(sample_groups.judged())]
    found += [("", ""), ("", documents[0]), (documents[-1], documents[-1])]
    return [*found, (queries[0], " ".join(documents)), (" ".join(documents), queries[0])]


def measured() -> list[tuple[str, str]]:
    """The pairs that the scales of int8 are measured on; none of them is judged."""
    queries = [text.lower() for text in samples.texts()[-QUERIES:]]
    texts = [*sample_groups.measured(), *(text[::-1] for text in samples.texts())]
    texts += [" ".join(samples.texts()[i::5]) for i in range(5)]
    return [(queries[i % QUERIES], text) for i, text in enumerate(texts)]
