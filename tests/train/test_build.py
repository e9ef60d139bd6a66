import pytest

from robe.data import Field
from robe.train.build import build_embedding
from robe.train.config import EmbeddingConfig

FIELDS = [Field("user", 5000, False), Field("weekday", 7, False), Field("url", 20_000, True)]


def test_small_tables_are_stored_row_by_row():
    coll = build_embedding(EmbeddingConfig(compression=100, direct_rows=7), FIELDS, 16)
    assert [t.direct for t in coll.tables] == [False, True, False]
    assert coll.num_embedding_parameters == round(25_007 * 16 / 100)
    assert not any(t.direct for t in build_embedding(EmbeddingConfig(compression=100), FIELDS, 16).tables)


@pytest.mark.parametrize("kind", ["robe", "full", "hashing", "capped"])
def test_every_kind_counts_its_parameters(kind):
    size = {} if kind == "full" else {"compression": 10.0}
    coll = build_embedding(EmbeddingConfig(kind=kind, **size), FIELDS, 16)
    assert coll.num_embedding_parameters == sum(p.numel() for p in coll.parameters())
    assert coll.compression == pytest.approx(1 if kind == "full" else 10, rel=0.001)


def test_direct_ids_need_a_size_that_is_not_relative():
    fields = [Field("url", None, False)]
    with pytest.raises(ValueError, match=r"embedding.compression: unknown for fields without a vocabulary"):
        build_embedding(EmbeddingConfig(), fields, 16)
    with pytest.raises(ValueError, match=r"embedding.kind: 'full' needs the number of ids"):
        build_embedding(EmbeddingConfig(kind="full"), fields, 16)
    assert build_embedding(EmbeddingConfig(memory="64KB"), fields, 16).num_embedding_parameters == 16_000


def test_every_public_name_is_there():
    import robe.train

    assert [name for name in robe.train.__all__ if not hasattr(robe.train, name)] == []
