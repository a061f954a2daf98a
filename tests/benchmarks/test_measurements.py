"""The measurements run, their rivals do the same task, and the page shows what they wrote."""

import argparse
import importlib
import json
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from benchmarks import (
    answers,
    encoders,
    harness,
    killed_run,
    lra_table2,
    page,
    pretraining,
    report,
    rivals,
    runs,
    triton_kernels,
)
from benchmarks.rivals import TORCH_DROPOUT
from ponet.dropout import Dropout


@pytest.fixture(autouse=True)
def small_probes(monkeypatch) -> None:
    threads = torch.get_num_threads()
    monkeypatch.setitem(harness.SHORTEST_S, "cpu", 0.0)
    monkeypatch.setitem(encoders.SQUARE, "cpu", 16)
    monkeypatch.setitem(encoders.COPIED_BYTES, "cpu", 1024)
    monkeypatch.setattr(harness.gc, "collect", lambda: 0)  # half a second with all that is imported
    yield
    torch.set_num_threads(threads)


def shown(results: dict[str, tuple[str, report.Content]]) -> str:
    return "\n".join(page.pages(results).values())


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["text", "loader", "encoders", "pretraining", "long_documents", "lra_table2",
             "projection", "resilience", "scale_out", "busy_machine", "inference", "needle",
             "long_pretraining"]
)  # fmt: skip
def test_every_measurement_has_a_short_form_with_file_and_plot(name: str, tmp_path: Path) -> None:
    importlib.import_module(f"benchmarks.{name}").main(["--short", "--output", str(tmp_path)])
    (written,) = (path for path in tmp_path.glob(f"{name}*.json") if "tokenizer" not in path.stem)
    assert json.loads(written.read_text())["machine"]["cores"]
    assert written.with_suffix(".png").stat().st_size > 5000


@pytest.mark.slow
def test_a_killed_run_equals_its_twin(tmp_path: Path) -> None:
    shards = runs.synthetic_folder(
        tmp_path / "shards", num_sentences=4000, vocab_size=64, validation_sentences=800
    )
    fit = ["--data.folder", str(shards), "--model.encoder.vocab_size", "64", "--data.max_len", "32"]
    for config in ("pretrain/small", "encoder/ponet_nano"):
        fit += ["--config", f"configs/{config}.yaml"]
    places = ["--root", str(tmp_path / "runs"), "--output", str(tmp_path)]
    more = ["--trainer.accelerator", "cpu", "--checkpoints.every_n_steps", "5"]
    more += ["--data.eval_examples", "64", "--trainer.log_every_n_steps", "1"]
    killed_run.main(["--short", *places, "--", *fit, *more])
    found = json.loads((tmp_path / "killed_run.json").read_text())
    assert (found["different_lines"], found["different_weights"]) == (0, 0)
    assert len(found["kills"]) == 2


def test_the_triton_measurement_says_what_it_lacks(monkeypatch, capsys, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert triton_kernels.main(["--output", str(tmp_path)]) == 2
    assert "needs a CUDA device" in capsys.readouterr().err


def test_encoders_writes_a_row_for_every_rival_and_the_page_shows_them(tmp_path) -> None:
    options = ["--sizes", "nano", "--parts", "layer", "--lengths", "16", "--tokens_per_step", "32"]
    encoders.main([*options, "--rounds", "1", "--output", str(tmp_path)])
    content = json.loads((tmp_path / "encoders_cpu.json").read_text())
    labels = {row["rival"] for row in content["rows"]}
    others = {"BERT", "local/global attention", "FNet"}
    assert labels == {"official PoNet", "PoNet reference", "PoNet eager", *others}
    assert len(content["rows"]) == len(labels)
    for row in content["rows"]:
        assert set(row["times_as_fast_as"]) == labels - {row["rival"]}
        assert row["peak_mib"] > 0
    assert all(entry["met"] is None for entry in content["targets"])  # nano is not claimed
    written = shown(page.read_results(tmp_path))
    own = next(row for row in content["rows"] if row["rival"] == "PoNet eager")
    assert f"{1e3 * own['s']['median']:,.1f}" in written
    assert f"{own['times_as_fast_as']['BERT']['median']:.2f}" in written
    assert "Not measured: mixer, fp32, width 768, 512 tokens: x official PoNet (>= 2.2)" in written


@pytest.mark.parametrize("part", ["mixer", "layer", "model"])
@pytest.mark.parametrize("mode", ["training", "inference"])
def test_every_rival_does_every_part_and_leaves_no_gradient(part, mode) -> None:
    setting = rivals.Setting(part=part, mode=mode, size="nano", precision="bf16", device="cpu")
    for rival in rivals.rivals_on("cpu", compile_mode=""):
        subject = rivals.Subject(rival, setting, [(2, 8)])
        subject.step(8)()
        assert all(p.grad is None for p in subject.encoder.parameters())
        if mode == "training" and (part != "mixer" or rival.kind != "fnet"):
            subject.step(8, keep_gradients=True)()
            assert any(p.grad is not None for p in subject.encoder.parameters())


def masked_batch() -> dict[str, torch.Tensor]:
    batch = rivals.make_batch(2, 16, vocab_size=64, device="cpu")
    positions_BM = torch.tensor([[2, 5, 9], [1, 7, 0]])
    labels_BM = torch.tensor([[6, 7, 8], [9, 10, -100]])  # the last slot is unused
    return {
        **{name: tensor for name, tensor in batch.tensors().items()},
        "masked_positions": positions_BM,
        "masked_labels": labels_BM,
        "pair_labels": torch.tensor([1, 2]),
    }


def fit_options(**changes) -> argparse.Namespace:
    options = {"encoder": "nano", "vocab_size": 64, "dropout": 0.0, "tokens_per_step": 64}
    options |= {"num_workers": 0, "device": "cpu", "threads": 1, "warmup": 1, "steps": 1}
    return argparse.Namespace(**{**options, **changes})


def test_the_released_step_has_the_loss_of_ours() -> None:
    ours, theirs = (
        pretraining.make_module(rival, 16, fit_options())
        for rival in (
            rivals.Rival(kind="ponet", precision="32"),
            rivals.Rival(kind="official", precision="32", every_position=True),
        )
    )
    theirs.load_state_dict(ours.state_dict())
    batch = masked_batch()
    expected, found = (module.training_step(batch, 0)["loss"] for module in (ours, theirs))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_short_fit_is_timed_with_its_loader(tmp_path) -> None:
    shards = runs.synthetic_folder(
        tmp_path / "shards", num_sentences=400, vocab_size=64, validation_sentences=100
    )
    rival = rivals.Rival(kind="bert", precision="32")
    options = fit_options()
    found = pretraining.fit(pretraining.make_module(rival, 16, options), rival, shards, 16, options)
    assert found["examples"] == 4 and found["fill"] > 0.9
    assert found["flops"] > 0
    assert found["wall_s"] > 0
    assert 0 <= found["waiting_share"] < 1


def test_every_claim_on_whole_steps_finds_its_rivals() -> None:
    options = argparse.Namespace(
        device="cuda", precision="bf16", lengths=[512, 4096, 16_384], savings=False,
        by_length=False, dropout_draws=False,
    )  # fmt: skip
    rows = []
    labels = [rival.label for rival in pretraining.rivals_for(options)]
    for length in options.lengths:
        ratios = {other: {"median": 9.0, "min": 9.0, "max": 9.0} for other in labels}
        row = {"num_tokens": length, "times_as_fast_as": ratios, "mfu": 0.5}
        rows += [{**row, "rival": name, "waiting_share": {"median": 0.0}} for name in labels]
    claims = pretraining.claims(rows, options)
    assert [entry["met"] for entry in claims] == [True] * len(claims)


def test_every_encoder_has_a_twin_with_the_dropout_of_pytorch(monkeypatch) -> None:
    monkeypatch.setattr(pretraining.report, "cpu_has_fast_bf16", lambda: False)
    options = argparse.Namespace(
        device="cpu", encoder="nano", dropout=0.1, vocab_size=64, savings=False, by_length=False,
        dropout_draws=True,
    )  # fmt: skip
    rivals = pretraining.rivals_for(options)
    twins = {rival.label + TORCH_DROPOUT for rival in rivals if not rival.torch_dropout}
    assert twins == {rival.label for rival in rivals if rival.torch_dropout}
    assert len(twins) == 3
    for rival in rivals[:2]:
        model = pretraining.make_module(rival, 16, options).model
        kinds = {type(part) for part in model.modules() if isinstance(part, torch.nn.Dropout)}
        assert kinds == {torch.nn.Dropout if rival.torch_dropout else Dropout}
    options.device, options.precision = "cuda", "bf16"
    with pytest.raises(SystemExit, match="for a CPU"):
        pretraining.rivals_for(options)


@pytest.mark.parametrize(("is_fast", "first", "met"), [(True, "bf16", True), (False, "fp32", None)])
def test_a_cpu_is_judged_in_bf16_where_it_multiplies_it_fast(
    is_fast: bool, first: str, met: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretraining.report, "cpu_has_fast_bf16", lambda: is_fast)
    options = argparse.Namespace(
        device="cpu",
        precision="bf16",
        lengths=[512],
        encoder="small",
        savings=False,
        by_length=False,
        dropout_draws=False,
    )
    assert pretraining.rivals_for(options)[0].label == f"PoNet, {first}"
    names = {rival.label for rival in pretraining.rivals_for(options)}
    ratios = {other: {"median": 9.0, "min": 9.0, "max": 9.0} for other in names}
    rows = [{"rival": name, "num_tokens": 512, "times_as_fast_as": ratios} for name in names]
    assert [entry["met"] for entry in pretraining.claims(rows, options)] == [met] * 3


def test_savings_are_measured_alone_and_together_in_the_same_rounds(tmp_path: Path) -> None:
    options = ["--savings", "--encoder", "nano", "--tokens_per_step", "1024", "--steps", "1"]
    options += ["--rounds", "1", "--vocab_size", "64", "--output", str(tmp_path)]
    pretraining.main(options)
    content = json.loads((tmp_path / "pretraining_cpu_savings_nano.json").read_text())
    assert all(entry["measured"] > 0 for entry in content["targets"])
    assert len(content["targets"]) == 2  # of nano nothing else is claimed
    flops = {row["rival"]: row["flops_per_s"] * row["s"]["median"] for row in content["rows"]}
    assert flops["PoNet, both savings, fp32"] < flops["PoNet, joined texts, fp32"]
    assert flops["PoNet, joined texts, fp32"] < flops["PoNet, no savings, fp32"]
    fills = {row["rival"]: row["fill"]["median"] for row in content["rows"]}
    assert fills["BERT, both savings, fp32"] > 0.9 > fills["BERT, no savings, fp32"]
    assert "| real tokens |" in shown(page.read_results(tmp_path))


def test_all_lengths_are_measured_in_the_same_rounds_by_the_cost_of_a_token(tmp_path: Path) -> None:
    options = ["--by_length", "--encoder", "nano", "--tokens_per_step", "256", "--steps", "1"]
    options += ["--rounds", "1", "--vocab_size", "64", "--output", str(tmp_path)]
    pretraining.main([*options, "--lengths", "64", "256", "--sentences_per_document", "40"])
    content = json.loads((tmp_path / "pretraining_cpu_length_nano.json").read_text())
    rows = {(row["rival"], row["num_tokens"]): row for row in content["rows"]}
    assert len(rows) == 8
    for (rival, length), row in rows.items():
        own, shortest = (rows[rival, n]["us_per_token"]["median"] for n in (length, 64))
        assert row["cost_to_shortest"]["median"] == pytest.approx(own / shortest)
    assert [entry["measured"] > 0 for entry in content["targets"]] == [True]
    assert "real token" in shown(page.read_results(tmp_path))


def test_table_2_shows_published_figures_as_published(tmp_path) -> None:
    options = ["--lengths", "512", "--num_texts", "1", "--rounds", "1", "--limit_s", "0"]
    lra_table2.main([*options, "--output", str(tmp_path)])
    content = json.loads((tmp_path / "lra_table2_cpu.json").read_text())
    assert {row["over"] for row in content["rows"]} == {"0 s"}  # no time was allowed
    assert all(entry["met"] is None for entry in content["targets"])  # a CPU proves nothing here
    published = shown(page.read_results(tmp_path)).split("**published**, not measured")[1]
    assert "50.4, 1.1 GB" in published


def test_the_loader_is_held_to_its_claims_by_the_page() -> None:
    rates = {"ours, one process (CPU time)": {"median": 30_000.0}}
    consumer = {"examples_per_s": 4000.0, "waiting_share": {"median": 0.05}}
    machine = {"cpu": "a CPU", "cores": 2, "load_average": [0.1]}
    lengths = {"512": {"examples_per_s": rates, "consumer": consumer}}
    results = {"loader": ("loader", {"machine": machine, "lengths": lengths})}
    lines = page.pages(results)["performance/method.md"].splitlines()
    (rate,) = (line for line in lines if "examples per second and core" in line)
    (waiting,) = (line for line in lines if "consumer of 4,000" in line)
    assert "| met |" in rate
    assert "| MISSED |" in waiting


def test_the_page_shows_the_slowest_triton_kernel_against_its_claim() -> None:
    spread = {"median": 0.7, "min": 0.6, "max": 0.75}
    row = {"num_tokens": 512, "segment_len": 25, "way": "forward", "s": {"median": 0.002}}
    row |= {"share_of_copy": spread, "times_as_fast_as": {"eager": spread}}
    backward = {**row, "way": "backward"}
    content = {
        "machine": {"cpu": "a CPU", "cores": 2, "load_average": [0.1]},
        "gpu": "a GPU",
        "rows": [row, backward],
        "targets": triton_kernels.claims([row, backward]),
    }
    lines = shown({"triton_kernels": ("triton_kernels", content)}).splitlines()
    claim = "forward, share of copy bandwidth, slowest case"
    assert f"| {claim} | >= 0.8 | 0.7 | MISSED | `triton_kernels.json` |" in lines
    assert "| 512 | 25 | forward | 2.000 | 70% | 0.70 (0.60 to 0.75) |" in lines


def test_a_result_with_a_plot_shows_it(tmp_path: Path) -> None:
    machine = {"cpu": "a CPU", "cores": 2, "load_average": [0.1]}
    (tmp_path / "loader.json").write_text(json.dumps({"machine": machine, "lengths": {}}))
    assert ".png" not in shown(page.read_results(tmp_path))
    (tmp_path / "loader.png").touch()
    assert "](../results/loader.png)" in shown(page.read_results(tmp_path))


def test_the_pages_in_docs_are_what_the_results_say(repository) -> None:
    docs = repository / "docs"
    written = page.pages(page.read_results(docs / "results"))
    for name, text in written.items():
        assert (docs / name).read_text() == text, f"{name} is old: python -m benchmarks.page"
    there = {path.relative_to(docs).as_posix() for path in docs.glob("performance/*.md")}
    assert there | {"performance.md"} == set(written)


def test_every_result_stands_on_one_page_and_every_missed_claim_has_a_reason(repository) -> None:
    results = page.read_results(repository / "docs" / "results")
    first, *others = page.pages(results).values()
    for name in results:
        assert sum(f"\n`{name}.json`: " in text for text in others) == 1, name
    missed = [claim for claim, found in page.claims(results).items() if "MISSED" in str(found)]
    assert all(f"| {claim} | {bound} | " in first for claim, bound in missed)
    assert "| not known |" not in first


def compared(rival: str, seconds: float, **speeds: float) -> report.Row:
    ratios = {name: {"median": speed} for name, speed in speeds.items()}
    row = {"rival": rival, "s": {"median": seconds}, "times_as_fast_as": ratios, "num_tokens": 512}
    return {**row, "part": "encode", "mode": "inference", "size": "small", "precision": "32"}


def test_the_short_answer_takes_the_fastest_form_and_of_several_files_the_lowest_ratio() -> None:
    others = [compared("BERT", 3.0, PoNet=0.5), compared("BERT, ONNX", 2.5, PoNet=0.6)]
    first = {"ours": "PoNet", "machine": {}, "rows": others}
    first["rows"] = [compared("PoNet", 2.0, **{"BERT": 1.5, "BERT, ONNX": 1.25}), *others]
    second = {"ours": "PoNet", "machine": {}, "rows": others[:1]}
    second["rows"] = [compared("PoNet", 2.0, BERT=1.4), *others[:1]]
    found = answers.facts({"a": ("inference", first), "b": ("inference", second)})
    assert [(fact.rival, fact.speed) for fact in found] == [("BERT", 1.25), ("BERT", 1.4)]
    cells = {("encoding, small, CPU, fp32", "BERT"): {512: 1.25}}
    assert answers.by_length(found, ["BERT"]) == cells


def test_memory_of_another_number_of_tokens_is_not_set_beside_the_first_file() -> None:
    rows = []
    for own, rival in ((32.0, "BERT"), (16.0, "FNet")):
        pair = [compared("PoNet", 1.0, **{rival: 2.0}), compared(rival, 2.0, PoNet=0.5)]
        rows.append([{**row, "kib_per_token": own} for row in pair])
    contents = [("inference", {"machine": {}, "ours": "PoNet", "rows": pair}) for pair in rows]
    found = answers.memory(answers.facts(dict(zip("ab", contents, strict=True))), 512)
    assert list(found.values()) == [{"PoNet": 32.0, "BERT": 32.0}]


def test_a_logarithmic_axis_has_three_marks_or_more_around_what_it_shows() -> None:
    axis = Figure().add_subplot()
    axis.plot([128, 8192], [258, 1581])
    report._make_logarithmic(axis, [128, 8192], is_share=False)
    low, high = axis.get_ylim()
    marks = [tick for tick in axis.get_yticks() if low <= tick <= high]
    assert marks == pytest.approx([200, 500, 1000, 2000])


def test_the_tables_in_docs_are_what_their_measurements_say(repository) -> None:
    found = 0
    for path in sorted((repository / "docs" / "results").glob("*.md")):
        results = path.with_suffix(".json")
        content = json.loads(results.read_text()) if results.is_file() else {}
        if "machine" in content:
            kind = "recipes" if path.stem.startswith("recipes_") else path.stem
            assert report.tables(kind, content) in path.read_text(), path.stem
            found += 1
    assert found >= 6
