"""Every metric beside scikit-learn and scipy on random data, and beside a number worked by hand."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy import stats
from sklearn import metrics as sk

from finetune.metrics import is_of_one_class, scores
from finetune.tasks.spec import UNSEEN, TaskSpec


def task(num_classes: int, *score: Any) -> TaskSpec:
    return TaskSpec(
        name="toy",
        title="Toy",
        labels=tuple(f"class {k}" for k in range(num_classes)),
        score=score or ("accuracy" if num_classes else "pearson",),
        segments="separators",
        sizes={},
    )


def logits_for(predicted: list[int], num_classes: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(predicted), num_classes).float()


@pytest.mark.parametrize("num_classes", [2, 3, 11])
@pytest.mark.parametrize("num_rows", [7, 400])
def test_class_metrics_are_those_of_scikit_learn(num_classes: int, num_rows: int) -> None:
    generator = torch.Generator().manual_seed(num_classes * num_rows)
    outputs = torch.randn(num_rows, num_classes, generator=generator)
    targets = torch.randint(num_classes, (num_rows,), generator=generator)
    predicted = outputs.argmax(-1)
    wanted = {
        "accuracy": sk.accuracy_score(targets, predicted),
        "micro_f1": sk.f1_score(targets, predicted, average="micro"),
        "macro_f1": sk.f1_score(targets, predicted, average="macro"),
        "matthews": sk.matthews_corrcoef(targets, predicted),
    }
    if num_classes == 2:
        wanted["f1"] = sk.f1_score(targets, predicted)
    wanted["score"] = wanted["accuracy"]
    of_each = {"average": None, "labels": range(num_classes), "zero_division": 0}
    for name, metric in (
        ("precision", sk.precision_score),
        ("recall", sk.recall_score),
        ("f1", sk.f1_score),
    ):
        values = metric(targets, predicted, **of_each)
        wanted |= {f"{name}/class {k}": value for k, value in enumerate(values)}
    assert scores(task(num_classes), outputs, targets) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_a_label_that_training_never_saw_is_an_error_of_a_class_more(num_classes: int) -> None:
    predicted, targets = [0, 1, 1, 0], [0, 1, UNSEEN, UNSEEN]
    found = scores(task(num_classes), logits_for(predicted, num_classes), torch.tensor(targets))
    assert found["accuracy"] == found["micro_f1"] == 0.5
    assert found["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert found["recall/class 0"] == 1.0 and found["precision/class 0"] == 0.5
    assert found.get("f1") == (pytest.approx(2 / 3) if num_classes == 2 else None)


@pytest.mark.parametrize("with_ties", [False, True])
def test_regression_metrics_are_those_of_scipy(with_ties: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    targets = torch.rand(300, generator=generator) * 5
    outputs = targets + torch.randn(300, generator=generator)
    if with_ties:
        targets, outputs = targets.round(), outputs.round()
    pearson = stats.pearsonr(outputs, targets).statistic
    spearman = stats.spearmanr(outputs, targets).statistic
    wanted = {
        "pearson": pearson,
        "spearman": spearman,
        "mse": sk.mean_squared_error(targets, outputs),
        "r2": sk.r2_score(targets, outputs),
        "score": (pearson + spearman) / 2,
    }
    found = scores(task(0, "pearson", "spearman"), outputs[:, None], targets)
    assert found == pytest.approx(wanted, abs=1e-5)


def test_two_classes_by_hand() -> None:
    """Three hits of class 1, one miss, two false alarms, two right 0s."""
    predicted, targets = [1, 1, 1, 0, 1, 1, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0]
    found = scores(task(2, "accuracy", "f1"), logits_for(predicted, 2), torch.tensor(targets))
    f1, f1_of_0 = 6 / 9, 4 / 7
    assert {k: v for k, v in found.items() if not is_of_one_class(k)} == pytest.approx(
        {
            "accuracy": 5 / 8,
            "f1": f1,
            "micro_f1": 5 / 8,
            "macro_f1": (f1 + f1_of_0) / 2,
            "matthews": (3 * 2 - 2 * 1) / (5 * 4 * 4 * 3) ** 0.5,
            "score": (5 / 8 + f1) / 2,
        }
    )
    assert (found["precision/class 1"], found["recall/class 1"]) == (3 / 5, 3 / 4)


def test_f1_is_that_of_the_label_that_was_chosen() -> None:
    predicted, targets = [1, 1, 1, 0, 1, 1, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0]
    spec = replace(task(2, "f1"), positive_label="class 0")
    found = scores(spec, logits_for(predicted, 2), torch.tensor(targets))
    assert found["f1"] == found["score"] == found["f1/class 0"] == pytest.approx(4 / 7)
    assert (spec.f1_label, task(2).f1_label, task(3).f1_label) == ("class 0", "class 1", "")


def test_many_classes_have_no_scores_of_each() -> None:
    found = scores(task(21), torch.zeros(2, 21), torch.zeros(2, dtype=torch.int64))
    assert sorted(found) == ["accuracy", "macro_f1", "matthews", "micro_f1", "score"]


def test_the_explained_share_of_a_constant_answer_is_not_positive() -> None:
    targets = torch.tensor([1.0, 2.0, 3.0])
    assert scores(task(0, "r2"), torch.full((3, 1), 2.0), targets)["r2"] == 0.0
    assert scores(task(0, "r2"), torch.full((3, 1), 3.0), targets)["r2"] == pytest.approx(-1.5)


def test_correlations_by_hand() -> None:
    outputs, targets = torch.tensor([[1.0], [2.0], [6.0]]), torch.tensor([1.0, 3.0, 2.0])
    found = scores(task(0), outputs, targets)
    assert found["spearman"] == pytest.approx(0.5, abs=1e-5)  # ranks 1 2 3 beside 1 3 2
    assert found["pearson"] == pytest.approx(1 / (14 * 2) ** 0.5)
    assert found["mse"] == pytest.approx((0 + 1 + 16) / 3)


def test_a_class_in_neither_targets_nor_predictions_does_not_count() -> None:
    predicted, targets = [0, 0, 1, 1], [0, 1, 1, 1]
    found = scores(task(5), logits_for(predicted, 5), torch.tensor(targets))
    assert found["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert found["macro_f1"] == pytest.approx(sk.f1_score(targets, predicted, average="macro"))


@pytest.mark.filterwarnings("ignore:A single label was found")
@pytest.mark.parametrize("predicted", [[1, 1, 1, 1], [0, 0, 0, 0]])
@pytest.mark.parametrize("targets", [[1, 1, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]])
def test_matthews_is_zero_where_one_side_is_constant(predicted: Any, targets: Any) -> None:
    found = scores(task(2, "matthews"), logits_for(predicted, 2), torch.tensor(targets))
    assert found["matthews"] == found["score"] == 0.0 == sk.matthews_corrcoef(targets, predicted)
    assert found["f1"] == pytest.approx(sk.f1_score(targets, predicted, zero_division=0))


@pytest.mark.parametrize("value", [0.1, float("nan")])
def test_correlations_of_constant_or_undefined_predictions_are_zero(value: float) -> None:
    targets = torch.tensor([0.1, 0.7, 0.3])
    found = scores(task(0, "pearson", "spearman"), torch.full((3, 1), value), targets)
    assert found["pearson"] == found["spearman"] == found["score"] == 0.0


def test_the_order_of_the_rows_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(50, 3, generator=generator)
    targets = torch.randint(3, (50,), generator=generator)
    order = torch.randperm(50, generator=generator)
    assert scores(task(3), outputs, targets) == scores(task(3), outputs[order], targets[order])


def test_half_precision_outputs_are_scored() -> None:
    outputs = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.bfloat16)
    assert scores(task(0), outputs, torch.tensor([0.0, 1.0, 2.0]))["pearson"] == pytest.approx(1.0)


def test_what_cannot_be_scored_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"the score f1 does not exist for 3 classes"):
        scores(task(3, "f1"), torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"outputs \(2, 3\) and targets \(3,\) given"):
        scores(task(3), torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="N >= 1"):
        scores(task(3), torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
