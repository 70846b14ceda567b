"""Precision and compilation of scoring, against torch's own autocast and counter of compilations."""

import dataclasses
import json
from functools import partial

import pytest
import torch
from tiny_model import save_tiny_model
from torch._dynamo.testing import CompileCounter

import eval as script
import modeling  # noqa: F401  registers the architectures
from processing.collation import AudioCollator
from processing.layouts import LAYOUTS
from processing.models import load_countermeasure
from processing.precision import Precision
from processing.resuming import describe_difference
from processing.scores import read_scores
from processing.scoring import Batches, identify_scoring, score_rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def countermeasure(folder):
    return load_countermeasure(str(folder))


@pytest.fixture
def corpus(la_corpus):
    return LAYOUTS["asvspoof2019-la"].load(la_corpus)


def test_bf16_scores_are_those_of_autocast_and_results_say_so(
    countermeasure, corpus, la_corpus, folder, tmp_path
):
    arguments = ["--model", folder, "--data_dir", la_corpus, "--num_resamples", 0, "--bf16"]
    script.main([*map(str, arguments), "--output_dir", str(tmp_path)])

    rows = corpus.splits["eval"]
    batch = AudioCollator(countermeasure.feature_extractor)([rows[i] for i in range(len(rows))])
    model = countermeasure.model.eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        logits = model(input_values=batch["input_values"]).logits.float()
    label2id = model.config.label2id
    expected = logits[:, label2id["bonafide"]] - logits[:, label2id["spoof"]]
    in_float32 = score_rows(model, AudioCollator(countermeasure.feature_extractor), rows)
    scores = torch.tensor(read_scores(tmp_path / "scores.txt")["score"].to_numpy(), dtype=torch.float32)
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-6)
    assert not torch.equal(scores, in_float32)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["bf16"] is True and "tf32" not in results


def test_scores_of_another_precision_are_another_scoring(countermeasure, corpus):
    rest = (corpus, "eval", corpus.splits["eval"], Batches())
    in_bf16 = dataclasses.replace(countermeasure, precision=Precision(bf16=True))

    difference = describe_difference(
        identify_scoring(countermeasure, *rest), identify_scoring(in_bf16, *rest)
    )

    assert difference == "bf16 was None, now True"


def test_last_batch_is_not_compiled_again_and_scores_stay(countermeasure, corpus, monkeypatch):
    rows, model = corpus.splits["eval"], countermeasure.model
    collator, batches = AudioCollator(countermeasure.feature_extractor), Batches(5)
    assert len(rows) % batches.batch_size
    expected = score_rows(model, collator, rows, batches=batches)
    counter = CompileCounter()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    Precision(torch_compile=True).apply(model, torch.device("cpu"))

    score_rows(model, collator, rows.select(range(5)), batches=batches)
    compiled = counter.frame_count
    scores = score_rows(model, collator, rows, batches=batches)

    with torch.inference_mode():
        assert len(model(input_values=torch.zeros(2, 8000)).embeddings) == 2
    assert counter.frame_count == compiled > 0
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-5)


def test_tf32_needs_a_gpu(countermeasure):
    with pytest.raises(ValueError, match="--tf32 needs an Ampere or newer GPU"):
        Precision(tf32=True).apply(countermeasure.model, torch.device("cpu"))


def test_float32_on_a_gpu_is_without_the_tf32_that_a_training_left_on(countermeasure):
    kinds = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn)
    before = [kind.fp32_precision for kind in kinds]
    try:
        for kind in kinds:
            kind.fp32_precision = "tf32"
        Precision().apply(countermeasure.model, torch.device("cuda"))

        assert [kind.fp32_precision for kind in kinds] == ["ieee"] * 3
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision
