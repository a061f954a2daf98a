"""The data module in real fits: exact resume, accumulation, evaluation, refusals."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from pretrain_corpora import Documents, make_folder, random_documents
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from ponet import PoNetConfig
from pretrain.batches import SegmentConfig
from pretrain.datamodule import PretrainDataModule
from pretrain.loader import (
    StreamBatchSampler,
    accumulation_steps,
    evaluation_batches,
    fitting_micro_batch,
)
from pretrain.masking import MaskingConfig
from pretrain.run_config import check_encoder


class Recorder(LightningModule):
    """Trains one number and writes down which examples it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, list[int], int]] = []
        self.validated: list[int] = []

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        checksum = int(batch["input_ids"].sum() + batch["masked_positions"].sum())
        self.seen.append((self.global_step, batch["example_ids"].tolist(), checksum))
        return self.weight * batch["input_ids"].float().mean()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.validated += batch["example_ids"].tolist()

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.validated += batch["example_ids"].tolist()

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> list[int]:
        return batch["example_ids"].tolist()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    documents: Documents = random_documents(16, seed=3)
    return make_folder(
        tmp_path_factory.mktemp("module"),
        documents,
        validation=random_documents(9, seed=4),
        num_continuations=40,
    )


def data_module(folder: Path, **changes: object) -> PretrainDataModule:
    settings: dict[str, object] = {
        "folder": str(folder),
        "max_len": 32,
        "global_batch_size": 8,
        "micro_batch_size": 4,
        "num_workers": 0,
        "eval_examples": 10,
        "eval_batch_size": 4,
    }
    return PretrainDataModule(**(settings | changes))


def trainer(tmp_path: Path, **changes: object) -> Trainer:
    settings: dict[str, object] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "limit_val_batches": 0,
        "enable_checkpointing": False,
        "default_root_dir": str(tmp_path),
    }
    return Trainer(**(settings | changes))


def fit(tmp_path: Path, data: PretrainDataModule, **options: object) -> Recorder:
    ckpt_path = options.pop("ckpt_path", None)
    model = Recorder()
    trainer(tmp_path, **options).fit(model, data, ckpt_path=ckpt_path)
    return model


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_reads_the_same_examples_as_an_uninterrupted_one(
    tmp_path: Path, folder: Path, workers: int
) -> None:
    probe = data_module(folder)
    probe.setup("fit")
    steps = probe.steps_per_epoch
    total = 2 * steps + 3
    whole = fit(tmp_path, data_module(folder), max_steps=total).seen
    # Mid-epoch, at the border of an epoch, and inside the second epoch.
    for stop in (2, steps, steps + 1):
        saver = ModelCheckpoint(dirpath=tmp_path / f"{workers}-{stop}", every_n_train_steps=1)
        saving = {"enable_checkpointing": True, "callbacks": [saver]}
        data = data_module(folder, num_workers=workers)
        first = fit(tmp_path, data, max_steps=stop, **saving).seen
        data = data_module(folder, num_workers=workers)
        rest = fit(tmp_path, data, max_steps=total, ckpt_path=saver.best_model_path).seen
        assert first + rest == whole


def test_a_checkpoint_from_the_end_of_an_epoch_resumes_at_the_next(
    tmp_path: Path, folder: Path
) -> None:
    whole = fit(tmp_path, data_module(folder), max_epochs=3).seen
    saver = ModelCheckpoint(dirpath=tmp_path, save_on_train_epoch_end=True)
    saving = {"enable_checkpointing": True, "callbacks": [saver]}
    first = fit(tmp_path, data_module(folder), max_epochs=1, **saving).seen
    path = saver.best_model_path
    rest = fit(tmp_path, data_module(folder), max_epochs=3, ckpt_path=path).seen
    assert first + rest == whole


def test_the_stream_of_a_fit_has_no_gaps_and_no_repeats(tmp_path: Path, folder: Path) -> None:
    seen = fit(tmp_path, data_module(folder, num_workers=2), max_epochs=2).seen
    samples = [sample for _, ids, _ in seen for sample in ids]
    assert samples == list(range(len(samples)))


def test_limited_epochs_continue_the_stream_and_must_end_at_a_step(
    tmp_path: Path, folder: Path
) -> None:
    seen = fit(tmp_path, data_module(folder), max_epochs=3, limit_train_batches=4).seen
    samples = [sample for _, ids, _ in seen for sample in ids]
    assert samples == list(range(3 * 4 * 4))
    whole = data_module(folder, micro_batch_size=8)
    seen = fit(tmp_path, whole, max_epochs=3, limit_train_batches=1).seen
    assert [ids[0] for _, ids, _ in seen] == [0, 8, 16]
    with pytest.raises(ValueError, match="multiple of 2"):
        fit(tmp_path, data_module(folder), max_epochs=1, limit_train_batches=3)
    assert len(fit(tmp_path, data_module(folder), fast_dev_run=True).seen) == 1


@pytest.mark.parametrize(("share", "steps"), [(1.0, 4), (0.7, 2), (0.5, 2), (0.001, 1)])
def test_a_share_of_the_batches_is_one_of_the_whole_steps_of_an_epoch(
    tmp_path: Path, folder: Path, share: float, steps: int
) -> None:
    seen = fit(tmp_path, data_module(folder), max_epochs=2, limit_train_batches=share).seen
    assert len(seen) == 2 * 2 * steps and seen[-1][0] == 2 * steps - 1


def test_accumulation_follows_from_the_global_batch(tmp_path: Path, folder: Path) -> None:
    seen = fit(tmp_path, data_module(folder, micro_batch_size=2), max_steps=3).seen
    assert [step for step, _, _ in seen] == [0] * 4 + [1] * 4 + [2] * 4


class OneRank(PretrainDataModule):
    """The data of one rank at a step, with epochs of five steps."""

    place = (0, 1)
    steps_per_epoch = 5
    steps_done = 0

    def _rank_of(self) -> tuple[int, int]:
        return self.place


def test_a_step_reads_the_same_examples_on_any_number_of_ranks(folder: Path) -> None:
    def samples_of_step(world_size: int, micro: int, step: int) -> list[int]:
        found = []
        for rank in range(world_size):
            data = OneRank(folder=str(folder), global_batch_size=24, micro_batch_size=micro)
            data.place, data.steps_done = (rank, world_size), step
            sampler = StreamBatchSampler(data)
            batches = list(sampler)
            assert len(sampler) == 5 * data.accumulation
            assert len(batches) == (5 - step % 5) * data.accumulation
            found += sum(batches[: data.accumulation], [])
        return sorted(found)

    for step in (0, 3, 5, 12):
        expected = list(range(step * 24, (step + 1) * 24))
        for world_size, micro in ((1, 24), (1, 4), (2, 3), (3, 8), (4, 2)):
            assert samples_of_step(world_size, micro, step) == expected


def test_impossible_batch_sizes_are_refused_with_the_possible_ones(folder: Path) -> None:
    with pytest.raises(ValueError, match="may be 1, 2, 4, 8"):
        data_module(folder, micro_batch_size=3)
    with pytest.raises(ValueError, match="try 6 or 9"):
        accumulation_steps(8, 1, 3)


@pytest.mark.parametrize(("step", "given", "devices", "fitting"), [
    (192, 48, 8, 24),  # configs/pretrain/paper.yaml on two nodes of four
    (32, 32, 2, 16),  # small.yaml on two devices
    (24, 4, 4, 3),
    (24, 4, 2, 4),
    (24, 5, 1, 5),  # one device: a mistake, and refused as such
    (24, 4, 5, 4),
])  # fmt: skip
def test_more_devices_take_smaller_micro_batches(
    step: int, given: int, devices: int, fitting: int
) -> None:
    assert fitting_micro_batch(step, given, devices) == fitting


def test_evaluation_reads_each_example_once_and_ignores_the_run_s_seed(
    tmp_path: Path, folder: Path
) -> None:
    model = Recorder()
    runner = trainer(tmp_path, limit_val_batches=1.0)
    runner.validate(model, data_module(folder), verbose=False)
    assert model.validated == list(range(10))
    batches = [
        next(iter(module.val_dataloader()))
        for module in (
            data_module(folder, seed=1),
            data_module(folder, seed=2, masking=MaskingConfig(mask_prob=0.4), num_workers=1),
        )
    ]
    for name, value in batches[0].items():
        assert torch.equal(value, batches[1][name]), name


def test_test_and_predict_read_the_whole_validation_split(tmp_path: Path, folder: Path) -> None:
    data, model = data_module(folder), Recorder()
    trainer(tmp_path).test(model, data, verbose=False)
    size = len(data.evaluation_dataset())
    assert size > 10 and model.validated == list(range(size))
    predicted = trainer(tmp_path).predict(model, data_module(folder))
    assert predicted is not None
    assert sum(predicted, []) == list(range(size))


def test_ranks_share_the_evaluation_examples_without_repeats(folder: Path) -> None:
    def examples_of(rank: int) -> list[int]:
        data = data_module(folder)
        data._rank_of = lambda: (rank, 3)  # type: ignore[method-assign]
        return torch.cat([batch["example_ids"] for batch in data.val_dataloader()]).tolist()

    assert sorted(sum(map(examples_of, range(3)), [])) == list(range(10))


def test_every_rank_has_as_many_evaluation_batches_as_the_others() -> None:
    for size, batch_size, num_ranks in itertools.product((4, 9, 33, 64, 65), (1, 2, 32), (1, 2, 4)):
        shares = [evaluation_batches(size, batch_size, n, num_ranks) for n in range(num_ranks)]
        assert len({len(batches) for batches in shares}) == 1
        assert sorted(sum(sum(shares, []), [])) == list(range(size))
        sizes = {len(batch) for batches in shares for batch in batches}
        assert 1 <= min(sizes) and max(sizes) <= batch_size + (num_ranks > 1)
    with pytest.raises(ValueError, match="there are 3 validation examples .* for 4 devices"):
        evaluation_batches(3, 2, 0, 4)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("seed", {"seed": 7}),
        ("objective", {"objective": "mlm"}),
        ("max_len", {"max_len": 40}),
        ("masking", {"masking": MaskingConfig(mask_prob=0.3)}),
        ("segments", {"segments": SegmentConfig(rule="text")}),
        ("global_batch_size", {"global_batch_size": 16}),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused_by_name(
    folder: Path, name: str, change: dict[str, object]
) -> None:
    saved = data_module(folder).state_dict()
    data_module(folder).load_state_dict(saved)
    with pytest.raises(ValueError, match=f"{name} was"):
        data_module(folder, **change).load_state_dict(saved)


def test_a_checkpoint_of_another_corpus_is_refused(tmp_path: Path, folder: Path) -> None:
    saved = data_module(folder).state_dict()
    other = make_folder(tmp_path, random_documents(5, seed=9))
    with pytest.raises(ValueError, match=r"data was .*tokenizer was"):
        data_module(other).load_state_dict(saved)


def test_the_state_is_plain_values(folder: Path) -> None:
    import json

    state = data_module(folder).state_dict()
    assert json.loads(json.dumps(state)) == state
    assert state["samples_seen"] == 0


def test_missing_shards_are_an_error_with_the_command_to_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="python -m data_prep build"):
        data_module(tmp_path / "nothing").prepare_data()


def test_an_encoder_must_have_an_embedding_and_a_position_for_every_token(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = data_module(folder)
    assert data.vocab_size == 200 and data.tokenizer_path.is_file()
    for changes in ({"vocab_size": 208}, {"vocab_size": 200, "max_positions": 32}):
        check_encoder(PoNetConfig.preset("nano", **changes), data)
    assert not capsys.readouterr().err
    check_encoder(PoNetConfig.preset("nano", vocab_size=30522), data)
    assert "30,322 are never used; --model.encoder.vocab_size 200" in capsys.readouterr().err
    with pytest.raises(ValueError, match="vocab_size to 200"):
        check_encoder(PoNetConfig.preset("nano", vocab_size=199), data)
    with pytest.raises(ValueError, match="give --model.encoder.max_positions 32, or a smaller"):
        check_encoder(PoNetConfig.preset("nano", vocab_size=200, max_positions=31), data)


def test_baselines_equal_a_direct_count(folder: Path) -> None:
    data = data_module(folder)
    scores = data.baselines()
    labels, pairs = [], []
    for batch in data.val_dataloader():
        labels += batch["masked_labels"][batch["masked_labels"] != -100].tolist()
        pairs += batch["pair_labels"].tolist()
    train = data._dataset("train").shards
    counts = np.bincount(train.tokens, minlength=200)
    hit_rate = np.mean(np.array(labels) == counts.argmax())
    loss = -np.mean(np.log((counts[labels] + 1) / (counts.sum() + 200)))
    assert scores["unigram_accuracy"] == pytest.approx(hit_rate)
    assert scores["unigram_loss"] == pytest.approx(loss)
    assert scores["pair_chance"] == pytest.approx(1 / 3)
    assert scores["pair_majority"] == np.bincount(pairs).max() / len(pairs)


@pytest.mark.parametrize("objective", ["mlm", "mlm_nsp", "mlm_sso"])
def test_batches_have_the_agreed_names_shapes_and_dtypes(folder: Path, objective: str) -> None:
    data = data_module(folder, objective=objective, join_texts=False)
    batch = next(iter(data.train_dataloader()))
    slots = MaskingConfig().num_slots(32)
    for name in ("input_ids", "token_type_ids", "segment_ids"):
        assert batch[name].shape == (4, 32) and batch[name].dtype == torch.int64
    for name in ("mask", "special_mask"):
        assert batch[name].shape == (4, 32) and batch[name].dtype == torch.bool
    for name in ("masked_positions", "masked_labels"):
        assert batch[name].shape == (4, slots) and batch[name].dtype == torch.int64
    for name in ("pair_labels", "example_ids"):
        assert batch[name].shape == (4,) and batch[name].dtype == torch.int64
    assert (batch["pair_labels"] == -100).all() == (objective == "mlm")
