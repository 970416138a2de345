"""Requests of Qdrant's client, answered by Qdrant's own engine in qdrant-edge-py, with no network.

It takes the models of the client, which are those of the REST interface, and gives them to a shard
of the engine. What it does not know fails.
"""

import uuid
from types import SimpleNamespace

import qdrant_edge as edge
from qdrant_client import models


def edge_config(vectors_config, sparse_vectors_config):
    """The configuration of a collection, as the engine takes it."""
    off = edge.HnswIndexConfig(m=0, ef_construct=100, full_scan_threshold=10000)
    maxsim = edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim)
    dense = {
        key: edge.EdgeVectorParams(
            size=each.size,
            distance=getattr(edge.Distance, each.distance.value.capitalize()),
            datatype=getattr(edge.VectorStorageDatatype, each.datatype.value.capitalize()),
            multivector_config=each.multivector_config and maxsim,
            hnsw_config=each.hnsw_config and off,
        )
        for key, each in vectors_config.items()
    }
    words = {
        key: edge.EdgeSparseVectorParams(
            modifier=edge.Modifier.Idf if each.modifier == models.Modifier.IDF else None
        )
        for key, each in sparse_vectors_config.items()
    }
    return edge.EdgeConfig(dense, words)


class EdgeClient:
    """The methods of QdrantClient that a collection needs."""

    def __init__(self, folder):
        self.folder, self.shards, self.metadata = folder, {}, {}

    def collection_exists(self, name):
        return name in self.shards

    def get_collection(self, name):
        return SimpleNamespace(config=SimpleNamespace(metadata=self.metadata[name]))

    def create_collection(self, name, vectors_config, sparse_vectors_config, metadata):
        config = edge_config(vectors_config, sparse_vectors_config)
        self.folder.mkdir(exist_ok=True)
        self.shards[name] = edge.EdgeShard.create(str(self.folder / name), config)
        self.metadata[name] = metadata

    def create_payload_index(self, name, key, schema, *, wait):
        assert wait
        assert schema == models.PayloadSchemaType.KEYWORD
        made = edge.UpdateOperation.create_field_index(key, edge.PayloadSchemaType.Keyword)
        self.shards[name].update(made)

    def upsert(self, name, points, *, wait):
        assert wait
        made = [
            edge.Point(
                uuid.UUID(each.id), {n: vector(v) for n, v in each.vector.items()}, each.payload
            )
            for each in points
        ]
        self.shards[name].update(edge.UpdateOperation.upsert_points(made))

    def delete(self, name, *, points_selector, wait):
        assert wait
        which = condition(points_selector.filter)
        self.shards[name].update(edge.UpdateOperation.delete_points_by_filter(which))

    def query_points(self, name, *, query, using, limit, query_filter, search_params):
        assert search_params == models.SearchParams(exact=True)
        request = edge.QueryRequest(
            limit=limit,
            query=edge.Query.Nearest(vector(query), using=using),
            with_payload=True,
            filter=None if query_filter is None else condition(query_filter),
            params=edge.SearchParams(exact=True),
        )
        return SimpleNamespace(points=self.shards[name].query(request))

    def scroll(self, name, *, limit, offset, with_payload):
        selected = edge.PayloadSelector.Include(with_payload)
        request = edge.ScrollRequest(offset=offset, limit=limit, with_payload=selected)
        return self.shards[name].scroll(request)

    def count(self, name, *, exact):
        return SimpleNamespace(count=self.shards[name].count(edge.CountRequest(exact=exact)))

    def close(self):
        pass


def vector(value):
    if isinstance(value, models.SparseVector):
        return edge.SparseVector(indices=value.indices, values=value.values)
    return value


def condition(found):
    """A condition of the client as one of the engine."""
    if isinstance(found, models.Filter):
        assert found.min_should is None
        parts = (found.must, found.should, found.must_not)
        return edge.Filter(*(part and [condition(each) for each in part] for part in parts))
    if isinstance(found, models.HasIdCondition):
        return edge.HasIdCondition({uuid.UUID(each) for each in found.has_id})
    assert isinstance(found.match, models.MatchAny)
    return edge.FieldCondition(found.key, match=edge.MatchAny(found.match.any))
