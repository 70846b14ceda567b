"""What the `evaluate` modules beside it tell of themselves."""

import inspect

import datasets
import evaluate


def make_info(description: str, usage: str, citation: str) -> evaluate.MetricInfo:
    """The information on a metric of scores, in float64, and the keys of their trials."""
    features = [
        datasets.Features(predictions=datasets.Value("float64"), references=datasets.Value(references))
        for references in ("string", "int64")
    ]
    return evaluate.MetricInfo(
        description=description,
        citation=citation,
        inputs_description=inspect.cleandoc(usage),
        features=features,
    )
