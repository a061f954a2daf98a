"""Rows of a task to the batches of a rank."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from finetune.data.batches import TaskBatch
from finetune.data.datamodule import TaskDataModule
from finetune.tasks.spec import LoadedTask, Row, SplitRows, TaskSpec

WORDS = ("good", "great", "film", "it", "was", "bad.", "awful")


def split(
    num_rows: int, *, is_labelled: bool = True, labels: int = 2, offset: int = 0
) -> SplitRows:
    rows = tuple(
        Row(
            number + 1,
            str(number),
            " ".join(WORDS[(number + offset + k) % len(WORDS)] for k in range(1 + number % 11)),
            "",
            float(number % labels) if is_labelled else None,
        )
        for number in range(num_rows)
    )
    return SplitRows(source="films.csv", rows=rows)


def loaded(**splits: SplitRows) -> LoadedTask:
    spec = TaskSpec(
        name="films",
        title="Films",
        labels=("bad", "good"),
        score=("accuracy",),
        segments="sentences",
        sizes={},
    )
    return LoadedTask(spec=spec, splits={"train": split(70), "validation": split(23), **splits})


@pytest.fixture
def make(bundle, monkeypatch):
    """Returns a function that makes a data module whose task is given."""

    def made(task: LoadedTask | None = None, /, **options: object) -> TaskDataModule:
        rows = task or loaded()
        monkeypatch.setattr(TaskDataModule, "load_rows", lambda self, stage, **trained: rows)
        defaults = {"task": "films", "folder": "films", "max_len": 24, "encoder": str(bundle)}
        return TaskDataModule(**{**defaults, **options})

    return made


def on_rank(datamodule: TaskDataModule, rank: int, num_devices: int) -> TaskDataModule:
    datamodule.trainer = SimpleNamespace(world_size=num_devices, global_rank=rank)
    return datamodule


@pytest.mark.parametrize("join_texts", [True, False])
def test_batches_hold_texts_targets_weights_and_row_numbers_that_belong_together(
    make, join_texts
) -> None:
    datamodule = make(global_batch_size=16, micro_batch_size=8, join_texts=join_texts)
    datamodule.setup("fit")
    rows = datamodule.loaded.splits["train"].rows
    texts = datamodule.text_encoder.encode(rows, "films.csv")
    seen = []
    for batch in datamodule.train_dataloader():
        assert batch.targets_B.dtype == torch.int64
        assert batch.weights_B.dtype == torch.float32
        for place, row in enumerate(batch.row_ids_B.tolist()):
            expected = texts[row].input_ids.tolist()
            if batch.inputs.text_places is None:
                found = batch.inputs.input_ids[place][batch.inputs.mask[place]]
            else:
                assert len(batch.inputs.input_ids) == 1
                found = batch.inputs.input_ids[0][batch.inputs.text_places[place, : len(expected)]]
            assert found.tolist() == expected
            assert batch.targets_B[place] == rows[row].target
            seen += [row] * bool(batch.weights_B[place])
    assert sorted(seen) == list(range(70))


@pytest.mark.parametrize("num_devices", [1, 2, 3])
def test_the_loss_of_a_step_is_the_mean_of_its_rows_on_any_number_of_devices(
    make, num_devices
) -> None:
    datamodule = make(global_batch_size=16, micro_batch_size=4)
    datamodule.setup("fit")
    accumulation = datamodule.accumulation(num_devices)
    losses = torch.linspace(-1, 1, 70) ** 3
    micro = [
        [float((losses[b.row_ids_B] * b.weights_B).sum()) for b in loader]
        for loader in (
            on_rank(datamodule, rank, num_devices).train_dataloader() for rank in range(num_devices)
        )
    ]
    steps = np.array(micro).reshape(num_devices, -1, accumulation).mean((0, 2))
    on_rank(datamodule, 0, 1)
    sampler = datamodule.train_dataloader().sampler
    expected = [float(losses[rows].mean()) for rows in sampler.global_batches()]
    np.testing.assert_allclose(steps, expected, atol=1e-6)


def test_evaluation_covers_every_row_exactly_once_on_uneven_ranks(make) -> None:
    datamodule = make(eval_batch_size=4)
    datamodule.setup("validate")
    rows, counts = [], []
    for rank in range(3):
        (loader,) = on_rank(datamodule, rank, 3).val_dataloader()
        mine = [row for batch in loader for row in batch.row_ids_B.tolist()]
        rows += mine
        counts.append(len(mine))
    assert sorted(rows) == list(range(23))
    assert len(set(counts)) > 1


def test_more_devices_than_rows_of_a_split_is_an_error(make) -> None:
    datamodule = make(loaded(validation=split(2)))
    datamodule.setup("fit")
    with pytest.raises(ValueError, match="validation split has 2 rows but 3 devices"):
        on_rank(datamodule, 0, 3).val_dataloader()


def test_there_is_a_loader_for_every_split_that_is_scored(make) -> None:
    datamodule = make(
        loaded(validation_mismatched=split(5), test=split(6), test_mismatched=split(7))
    )
    datamodule.setup("fit")
    count = [sum(len(batch.row_ids_B) for batch in one) for one in datamodule.val_dataloader()]
    assert count == [23, 5]
    count = [sum(len(batch.row_ids_B) for batch in one) for one in datamodule.test_dataloader()]
    assert count == [6, 7]


def test_test_rows_without_labels_are_looked_at_but_cannot_be_scored(make) -> None:
    datamodule = make(loaded(test=split(6, is_labelled=False)))
    datamodule.setup("test")
    assert datamodule.inspection["splits"]["test"]["num_rows"] == 6
    assert datamodule.inspection["overlaps"]["test in train"] == 6
    with pytest.raises(ValueError, match="test labels are not public; use `submit`"):
        datamodule.test_dataloader()
    without = make()
    without.setup("test")
    with pytest.raises(ValueError, match="no test split"):
        without.test_dataloader()


def test_every_split_is_encoded_once_and_only_when_needed(make, monkeypatch) -> None:
    datamodule = make(loaded(test=split(6)))
    encoded = []
    encode = TaskDataModule._encode
    monkeypatch.setattr(
        TaskDataModule,
        "_encode",
        lambda self, name, rows: encoded.append(name) or encode(self, name, rows),
    )
    datamodule.setup("validate")
    assert encoded == ["validation"]
    assert datamodule.inspection["splits"]["train"]["lengths"] is None
    for stage in ("fit", "validate", "test"):
        datamodule.setup(stage)
    assert encoded == ["validation", "train", "test"]
    assert datamodule.inspection["splits"]["train"]["lengths"]["longest"] == 15


def test_a_subset_for_quick_runs_is_used_everywhere_and_reported(make) -> None:
    datamodule = make(loaded(test=split(20)), max_train_rows=20, max_eval_rows=10)
    datamodule.setup("fit")
    splits = datamodule.inspection["splits"]
    assert {name: (s["num_rows"], s["num_rows_whole"]) for name, s in splits.items()} == {
        "train": (20, 70),
        "validation": (10, 23),
        "test": (10, 20),
    }
    assert splits["train"]["labels"] == {"bad": 10, "good": 10}
    assert len(datamodule.loaded.splits["train"].rows) == 20
    assert sum(len(batch.row_ids_B) for batch in datamodule.train_dataloader()) == 20


def test_the_segment_rule_is_the_tasks_unless_one_is_given(make) -> None:
    for option, expected in (("auto", "sentences"), ("separators", "separators")):
        datamodule = make(segments=option)
        datamodule.setup("fit")
        assert datamodule.spec.segments == datamodule.text_encoder.segments == expected
        (batch,) = datamodule.val_dataloader()[0]
        assert (batch.inputs.segment_ids.max() > 3) == (expected == "sentences")


@pytest.mark.parametrize(("max_len", "expected"), [(512, "separators"), (513, "sentences")])
def test_own_long_texts_are_cut_into_sentences(make, max_len, expected) -> None:
    own = {"task": "own", "folder": "", "max_len": max_len}
    spec = replace(loaded().spec, segments="separators")
    assert make(**own)._rule(spec) == expected
    assert make(**own, segments="paragraphs")._rule(spec) == "paragraphs"


def write_rte(folder, *stems: str) -> str:
    folder.mkdir(exist_ok=True)
    for stem in stems:
        lines = ["index\tsentence1\tsentence2\tlabel", "0\tgood film\tit was\tentailment"]
        (folder / f"{stem}.tsv").write_text("\n".join(lines) + "\n")
    return str(folder)


def test_scoring_reads_only_the_split_that_is_scored(bundle, tmp_path) -> None:
    folder = write_rte(tmp_path / "RTE", "dev")
    datamodule = TaskDataModule(task="rte", folder=folder, encoder=str(bundle))
    datamodule.setup("validate")
    assert list(datamodule.loaded.splits) == ["validation"]
    (batch,) = datamodule.val_dataloader()[0]
    assert batch.row_ids_B.tolist() == [0] and datamodule.inspection["majority"] == {}
    datamodule.setup("test")
    with pytest.raises(ValueError, match="test labels are not public"):
        datamodule.test_dataloader()
    with pytest.raises(ValueError, match=r"no train\.tsv"):
        datamodule.setup("fit")
    write_rte(tmp_path / "RTE", "train", "test")
    datamodule.setup("fit")
    assert list(datamodule.loaded.splits) == ["train", "validation", "test"]


def test_a_validation_file_that_is_missing_is_named_when_it_is_scored(bundle, tmp_path) -> None:
    folder = write_rte(tmp_path / "RTE", "train")
    datamodule = TaskDataModule(task="rte", folder=folder, encoder=str(bundle))
    with pytest.raises(ValueError, match=r"no dev\.tsv"):
        datamodule.setup("validate")


def test_own_rows_that_are_scored_have_the_classifiers_labels(bundle, tmp_path) -> None:
    (tmp_path / "v.csv").write_text("text,label\ngood,b\nbad,b\n")
    datamodule = TaskDataModule(validation=str(tmp_path / "v.csv"), encoder=str(bundle))
    with pytest.raises(ValueError, match=r"no train file"):
        datamodule.setup("validate")
    datamodule.follow_classifier(("a", "b", "c"), (), "sentences")
    datamodule.setup("validate")
    assert datamodule.spec.labels == ("a", "b", "c") and datamodule.spec.segments == "sentences"
    (batch,) = datamodule.val_dataloader()[0]
    assert batch.targets_B.tolist() == [1, 1]
    scored = TaskDataModule(validation=str(tmp_path / "v.csv"), encoder=str(bundle))
    scored.follow_classifier((), (), "separators")
    with pytest.raises(ValueError, match="data.kind is classification but the classifier gives sc"):
        scored.setup("validate")


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_own_files_are_loaded_without_code(bundle, tmp_path, kind) -> None:
    lines = [f"good film,it was {word},{n % 2}" for n, word in enumerate(WORDS)]
    for name in ("train", "validation"):
        (tmp_path / f"{name}.csv").write_text("\n".join(["first,second,mark", *lines]) + "\n")
    datamodule = TaskDataModule(
        train=str(tmp_path / "train.csv"),
        validation=str(tmp_path / "validation.csv"),
        text="first",
        text_pair="second",
        label="mark",
        kind=kind,
        encoder=str(bundle),
    )
    datamodule.setup("fit")
    (batch,) = datamodule.train_dataloader()
    assert batch.inputs.token_type_ids.any()
    assert batch.targets_B.is_floating_point() == (kind == "regression")
    assert sorted(batch.targets_B.tolist()) == [0, 0, 0, 0, 1, 1, 1]
    assert datamodule.inspection["overlaps"]["validation in train"] == len(WORDS)


def test_a_regression_has_float_targets(make) -> None:
    task = loaded()
    spec = TaskSpec(
        name="similarity",
        title="Similarity",
        labels=(),
        score=("pearson",),
        segments="separators",
        sizes={},
    )
    datamodule = make(LoadedTask(spec=spec, splits=task.splits))
    datamodule.setup("fit")
    assert next(iter(datamodule.train_dataloader())).targets_B.dtype == torch.float32


def test_workers_give_the_same_batches(make) -> None:
    batches = []
    for num_workers in (0, 2):
        datamodule = make(num_workers=num_workers)
        datamodule.setup("fit")
        batches.append([batch.row_ids_B.tolist() for batch in datamodule.train_dataloader()])
    assert batches[0] == batches[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_train_rows": -1}, "data.max_train_rows is -1; 0 or more"),
        ({"eval_batch_size": 0}, "data.eval_batch_size is 0"),
        ({"global_batch_size": 0}, "global_batch_size is 0"),
        ({"train": "x.csv"}, "data.task is films, which has no use for data.train; leave it out"),
        ({"num_folds": 5}, "data.task is films, which has no use for data.num_folds; leave it"),
        ({"text": "body"}, "data.task is films, which has no use for data.text; leave it out"),
        ({"task": "own", "fold": 1}, "data.task is own, which has no use for data.folder, data.f"),
        (
            {"task": "own", "folder": "", "repeat": 1},
            "data.repeat; .* have folds with data.num_folds: .* --seeds 1 2 3",
        ),
        ({"task": "own", "fold": 0}, "data.folder; leave it out, or give another data.task$"),
    ],
)
def test_a_mistake_in_an_option_is_an_error(make, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_a_missing_encoder_is_an_error(make) -> None:
    with pytest.raises(ValueError, match="set model.encoder"):
        make(encoder="").setup("fit")


class Recorder(pl.LightningModule):
    """Notes which rows a trainer hands over."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.epochs: list[list[int]] = []
        self.validated: list[int] = []

    def on_train_epoch_start(self) -> None:
        self.epochs.append([])

    def training_step(self, batch: TaskBatch) -> torch.Tensor:
        self.epochs[-1] += batch.row_ids_B.tolist()
        return (self.weight * batch.weights_B).sum()

    def validation_step(self, batch: TaskBatch) -> None:
        self.validated += batch.row_ids_B.tolist()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_trainer_gets_every_row_in_another_order_every_epoch(make, tmp_path) -> None:
    datamodule = make(global_batch_size=16, micro_batch_size=4)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=2,
        accumulate_grad_batches=datamodule.accumulation(1),
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    module = Recorder()
    trainer.fit(module, datamodule=datamodule)
    first, second = module.epochs
    assert sorted(first) == sorted(second) == list(range(70))
    assert first != second
    assert sorted(module.validated) == sorted([*range(23)] * 2)
    assert trainer.global_step == 2 * 5
