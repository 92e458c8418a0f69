"""Tasks of mteb over data sets of this machine; apart from the tests, as mteb takes long to import."""

from typing import Any

from datasets import Dataset
from mteb.abstasks import AbsTaskRetrieval, AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata

from leap.text.sets import RetrievalData, StsData


def metadata(name: str, kind: str, score: str) -> TaskMetadata:
    return TaskMetadata(
        name=name,
        dataset={"path": "local/data", "revision": "1"},
        description="a local set",
        type=kind,
        category="t2t",
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score=score,
    )


class LocalSts(AbsTaskSTS):
    """Sentence pairs that are on this machine."""

    metadata = metadata("LocalSTS", "STS", "cosine_spearman")
    pairs: StsData

    def load_data(self, **_: Any) -> None:
        rows = {
            "sentence1": self.pairs.first,
            "sentence2": self.pairs.second,
            "score": self.pairs.scores.tolist(),
        }
        self.dataset, self.data_loaded = {"test": Dataset.from_dict(rows)}, True


class LocalRetrieval(AbsTaskRetrieval):
    """A retrieval set that is on this machine."""

    metadata = metadata("LocalRetrieval", "Retrieval", "ndcg_at_10")
    ignore_identical_ids = True
    found: RetrievalData

    def load_data(self, **_: Any) -> None:
        def texts(rows: dict[str, str]) -> Dataset:
            return Dataset.from_list([{"id": name, "text": text} for name, text in rows.items()])

        split = {"corpus": texts(self.found.documents), "queries": texts(self.found.queries)}
        split |= {"relevant_docs": self.found.qrels, "top_ranked": None}
        self.dataset, self.data_loaded = {"default": {"test": split}}, True
