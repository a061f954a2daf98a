"""The HTML report: which runs belong together, what is judged, and what the page holds."""

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_runs import PONET, write_run, write_study

from pretrain.cli import main
from training.configuration import flatten
from training.reports.curves import curves_of
from training.reports.figures import Column, Result
from training.reports.pretraining import StudyReport, details_of
from training.reports.runs import find_runs, read_run
from training.reports.study import Study, choose_baseline, make_study, measured, short_names
from training.run_folder import add_event, provenance, versions


def study_of(*paths: Path, group_by: tuple[str, ...] = ()) -> Study:
    runs, problems = find_runs(paths)
    assert not problems
    return make_study(runs, group_by)


def labels_of(study: Study) -> list[str]:
    return [configuration.label for configuration in study.configurations]


def column_called(study: Study, title: str) -> Column:
    return next(c for c in measured(study) if c.measure.title == title)


def first_cell(study: Study, title: str) -> Result:
    return next(iter(column_called(study, title).cells.values()))


def text_of(*paths: Path, group_by: tuple[str, ...] = ()) -> str:
    """The report as Markdown, which draws nothing and is made at once."""
    runs, problems = find_runs(paths)
    study = make_study(runs, group_by)
    report = StudyReport(
        title="", study=study, baseline=study.configurations[0], problems=problems, out=Path("o")
    )
    return report.text("md")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report on a study."""
    folder = tmp_path_factory.mktemp("report")
    page_of(write_study(folder / "runs"), out=folder / "o")
    return folder / "o"


def page_of(*arguments: object, out: Path) -> str:
    assert main(["report", *map(str, arguments), "--out", str(out)]) == 0
    return (out / "index.html").read_text(encoding="utf-8")


def test_settings_are_named_like_the_flags_of_fit() -> None:
    nested = {"model": {"encoder": {"class_path": "a.B", "init_args": {"size": 4}}}, "seed": 1}
    assert flatten(nested) == {"model.encoder": "a.B", "model.encoder.size": 4, "seed": 1}


def test_short_names_are_as_long_as_they_must_be_to_differ() -> None:
    keys = ["model.optimizer.lr", "data.masking.rule", "data.segments.rule"]
    assert list(short_names(keys).values()) == ["lr", "masking.rule", "segments.rule"]


def test_runs_that_differ_only_in_seed_and_place_are_one_configuration(tmp_path: Path) -> None:
    study = study_of(write_study(tmp_path))
    assert labels_of(study) == ["unchanged", "global_pool=none", "use_segment_pool=false"]
    assert [len(c.runs) for c in study.configurations] == [3, 3, 3]
    assert study.unchanged == {"global_pool": "attention", "use_segment_pool": "true"}


def test_an_argument_of_one_class_says_nothing_about_another_class(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", encoder="ponet.BertConfig", arguments={"hidden_size": 8})
    write_run(tmp_path / "c", encoder="ponet.FNetConfig", arguments={"hidden_size": 16})
    study = study_of(tmp_path)
    assert labels_of(study) == [
        "PoNet",
        "BERT",
        "FNet, hidden_size=16",
    ]
    assert study.unchanged == {"hidden_size": "8"}
    assert "model.encoder.local_window" not in study.names


def test_a_full_grid_names_both_of_its_settings_in_every_row(tmp_path: Path) -> None:
    for objective in ("mlm", "mlm_sso"):
        for rate in (0.001, 0.01):
            options = {"model__objective": objective, "model__optimizer__lr": rate}
            write_run(tmp_path / f"{objective}{rate}", **options)
    assert labels_of(study_of(tmp_path)) == [
        "mlm, lr=0.001",
        "mlm, lr=0.01",
        "mlm_sso, lr=0.001",
        "mlm_sso, lr=0.01",
    ]


def test_grouping_by_chosen_settings_says_what_it_mixes(tmp_path: Path) -> None:
    study = study_of(write_study(tmp_path / "runs"), group_by=("model.encoder.global_pool",))
    assert labels_of(study) == ["global_pool=attention", "global_pool=none"]
    assert list(study.configurations[0].mixed) == ["model.encoder.use_segment_pool"]
    text = text_of(tmp_path / "runs", group_by=("model.encoder.global_pool",))
    assert "mixes runs that differ in" in text


def test_an_unknown_setting_or_baseline_is_refused_with_what_there_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = str(write_study(tmp_path / "runs"))
    assert main(["report", runs, "--out", str(tmp_path / "o"), "--group_by", "global_pool"]) == 2
    assert "did you mean model.encoder.global_pool" in capsys.readouterr().err
    assert main(["report", runs, "--out", str(tmp_path / "o"), "--baseline", "best"]) == 2
    assert "there are: unchanged; global_pool=none" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_a_baseline_is_found_by_label_by_run_and_by_folder(tmp_path: Path) -> None:
    study = study_of(write_study(tmp_path))
    wanted = study.configurations[1]
    for name in ("global_pool=none", "none-seed43", str(tmp_path / "none-seed43")):
        assert choose_baseline(study, name) is wanted


def test_only_what_every_seed_shows_is_marked_best(tmp_path: Path) -> None:
    cells = column_called(study_of(write_study(tmp_path)), "Masked-LM accuracy").cells
    assert [cell.is_best for cell in cells.values()] == [
        False,
        False,
        False,
    ]  # the third is too near
    write_run(tmp_path / "x42", seed=42, accuracy=0.500, model__objective="mlm")
    write_run(tmp_path / "x43", seed=43, accuracy=0.504, model__objective="mlm")
    write_run(tmp_path / "x44", seed=44, accuracy=0.503, model__objective="mlm")
    study = study_of(tmp_path)
    cells = column_called(study, "Masked-LM accuracy").cells
    assert [label for label, cell in cells.items() if cell.is_best] == labels_of(study)[-1:]


def test_one_seed_is_never_best_and_has_no_spread(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "a", accuracy=0.9)
    write_run(tmp_path / "runs" / "b", accuracy=0.1, model__objective="mlm")
    text = text_of(tmp_path / "runs")
    assert "one seed: no spread" in text and "one pair: not judged" in text
    assert "** ★" not in text


def test_pair_accuracies_of_two_and_three_classes_are_not_compared(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        write_run(tmp_path / "runs" / f"a{seed}", seed=seed, accuracy=0.3 + seed / 100)
        options = {"model__objective": "mlm_nsp", "chance": 0.5}
        write_run(tmp_path / "runs" / f"b{seed}", seed=seed, **options)
    study = study_of(tmp_path / "runs")
    column = column_called(study, "Pair accuracy")
    assert not column.measure.is_one_question(study.runs)
    assert not any(cell.is_best for cell in column.cells.values())
    text = text_of(tmp_path / "runs")
    assert "Pair accuracy is not the same question" in text
    assert "another question: chance differs" in text


def test_a_diverged_seed_is_flagged_and_drawn_but_bends_no_mean(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        write_run(tmp_path / "runs" / f"a{seed}", seed=seed, diverged_at=30 if seed == 2 else None)
    study = study_of(tmp_path / "runs")
    cell = first_cell(study, "Masked-LM loss")
    assert set(cell.by_seed) == {"1", "3"} and cell.num_not_finite == 1
    together, strays = curves_of(study.configurations[0], "val/mlm_loss")
    assert len(together) == 2 and [list(points) for points in strays] == [[10, 20]]
    text = text_of(tmp_path / "runs")
    assert "1 diverged, not in the mean" in text and "1 diverged, in the mean" in text
    assert "diverged at step 30" in text and "nan" not in text


def test_an_unfinished_run_is_not_averaged_with_finished_ones(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "a1", seed=1)
    write_run(tmp_path / "runs" / "a2", seed=2, steps=20)
    write_run(tmp_path / "runs" / "b1", seed=1, steps=30, model__objective="mlm")
    study = study_of(tmp_path / "runs")
    cells = list(column_called(study, "Masked-LM accuracy").cells.values())
    assert list(cells[0].by_seed) == ["1"] and list(cells[1].by_seed) == ["1"]
    text = text_of(tmp_path / "runs")
    assert "Not finished: a2, b1" in text and "not finished, step 30" in text


def test_two_runs_of_one_seed_count_as_one_seed(tmp_path: Path) -> None:
    write_run(tmp_path / "a", accuracy=0.2)
    write_run(tmp_path / "b", accuracy=0.4)
    cell = first_cell(study_of(tmp_path), "Masked-LM accuracy")
    assert cell.by_seed == {"42": pytest.approx(30.0)}


def test_missing_and_broken_runs_are_listed_with_their_reasons(tmp_path: Path) -> None:
    good = write_run(tmp_path / "runs" / "good")
    broken = write_run(tmp_path / "runs" / "broken")
    (broken / "metrics.jsonl").write_text('{"step": 1\n{"step": 2}\n')
    lonely = tmp_path / "runs" / "lonely"
    lonely.mkdir()
    (lonely / "run_config.yaml").write_text("seed_everything: 1\n")
    (tmp_path / "empty").mkdir()
    runs, problems = find_runs([tmp_path / "runs", tmp_path / "no", tmp_path / "empty", good])
    assert [run.name for run in runs] == ["good"]
    told = {Path(folder).name: reason for folder, reason in problems.items()}
    assert "line 1" in told["broken"] and "not logged anything" in told["lonely"]
    assert "no such folder" in told["no"] and "holds no run" in told["empty"]
    assert told["good"] == "named twice; read once"
    text = text_of(tmp_path / "runs", tmp_path / "no")
    assert "Missing or broken" in text and "there is no such folder" in text


def test_a_report_on_nothing_ends_in_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(tmp_path / "no"), "--out", str(tmp_path / "o")]) == 2
    assert "there is no such folder" in capsys.readouterr().err


def test_a_run_without_a_configuration_or_with_a_damaged_one_is_kept_and_said(
    tmp_path: Path,
) -> None:
    (write_run(tmp_path / "runs" / "a") / "run_config.yaml").unlink()
    (write_run(tmp_path / "runs" / "b") / "run_config.yaml").write_text("model: [")
    assert labels_of(study_of(tmp_path / "runs")) == ["a (no settings)", "b (no settings)"]
    text = text_of(tmp_path / "runs")
    assert "has no run_config.yaml" in text and "is not YAML" in text


class Elements(HTMLParser):
    """Tags, attributes and balance of a page."""

    VOID = frozenset({"meta", "link", "input", "br", "wbr"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_one_well_formed_file_that_loads_nothing(written: Path) -> None:
    page = (written / "index.html").read_text(encoding="utf-8")
    elements = Elements(page)
    assert not elements.open
    names = {path.name for path in written.iterdir()}
    tables = {"table.md", "table.csv", "table.json"}
    assert names == {"index.html", "figure.png", "curves.png", *tables}
    for tag, attributes in elements.found:
        assert "src" not in attributes and tag not in ("img", "iframe", "object")
        address = attributes.get("href") or ""
        assert not re.match(r"(?i)\s*(https?:)?//", address), address
    assert "url(http" not in page and "@import" not in page
    assert len([tag for tag, _ in elements.found if tag == "svg"]) > 6
    targets = [a["href"] for tag, a in elements.found if tag == "a" and a["href"].endswith("yaml")]
    assert len(targets) == 9 and all((written / target).exists() for target in targets)


def test_nothing_from_a_run_can_become_markup(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"'><img src=x>"
    for seed in (1, 2):
        options = {"model__objective": evil, "model__note": evil + str(seed), "scores": {evil: 0.5}}
        folder = write_run(tmp_path / "runs" / f"<b>&{seed}", seed=seed, **options)
    (folder / "events.jsonl").write_text(json.dumps({"event": evil, "command": evil}) + "\n")
    page = page_of(tmp_path / "runs", "--title", evil, out=tmp_path / "o")
    tags = [tag for tag, _ in Elements(page).found]
    assert "script" not in tags and "img" not in tags and "b&" not in tags
    assert "&lt;script&gt;alert(1)" in page


def test_commands_and_versions_are_those_of_the_run(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "runs" / "a")
    events = [
        {"event": "started", "command": "python -m pretrain fit -c x", "versions": {"torch": "9"}},
        {"event": "resumed", "step": 5, "command": "python -m pretrain fit -c y", "versions": {}},
    ]
    lines = [json.dumps(event) for event in events]
    (folder / "events.jsonl").write_text("\n".join(lines) + '\n{"event"')
    text = details_of(read_run(folder))[1][0]
    assert "# started (torch 9)\npython -m pretrain fit -c x" in text
    assert "# resumed\npython -m pretrain fit -c y" in text
    assert f"--config {folder}/run_config.yaml --run.name NEW_NAME" in text


def test_a_run_records_a_command_that_can_be_typed_again() -> None:
    found = provenance()
    assert not str(found["command"]).startswith("/")
    assert {"python", "ponet", "torch", "pytorch-lightning"} == set(versions())


def test_a_folder_of_fine_tuning_runs_is_sent_to_their_own_report(tmp_path: Path) -> None:
    for place in ("runs/a/downstream/cola", "grid/cola"):
        (tmp_path / place).mkdir(parents=True)
        for name in ("result.json", "trial.json", "metrics.jsonl"):
            (tmp_path / place / name).write_text("{}")
    (tmp_path / "runs" / "a" / "metrics.jsonl").write_text('{"step": 1, "val/loss": 1.0}\n')
    runs, problems = find_runs([tmp_path / "runs", tmp_path / "grid"])
    assert [run.name for run in runs] == ["a"]
    assert "python -m finetune report" in problems[str(tmp_path / "grid")]


def test_metrics_that_are_no_numbers_are_a_reason_and_not_a_crash(tmp_path: Path) -> None:
    for number, line in enumerate(('["a"]', '{"step": 1, "loss": "low"}', '{"loss": 1.0}', "")):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "metrics.jsonl").write_text(line + "\n")
    runs, problems = find_runs([tmp_path])
    assert not runs and len(problems) == 4


def test_a_trial_that_never_logged_is_listed_and_its_command_is_shown_where_it_did(
    tmp_path: Path,
) -> None:
    trial = json.dumps({"command": ["python", "-m", "pretrain", "fit", "--x", "a b"]})
    (write_run(tmp_path / "sweep" / "lr=1") / "trial.json").write_text(trial)
    (tmp_path / "sweep" / "lr=2").mkdir()
    (tmp_path / "sweep" / "lr=2" / "trial.json").write_text(trial)
    runs, _ = find_runs([tmp_path / "sweep"])
    assert "python -m pretrain fit --x 'a b'" in details_of(runs[0])[1][0]
    assert "has not logged anything yet" in text_of(tmp_path / "sweep")


def test_downstream_scores_stand_beside_pretraining(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "a", arguments={**PONET}, scores={"CoLA": 0.4536})
    cell = first_cell(study_of(tmp_path / "runs"), "CoLA")
    assert cell.by_seed == {"42": pytest.approx(45.36)}
    assert "Fine-tuning: CoLA 45.4 (n 2)" in details_of(read_run(tmp_path / "runs" / "a"))[0]


def test_the_numbers_of_the_page_are_there_for_programs_too(written: Path) -> None:
    found = json.loads((written / "table.json").read_text())
    first = found["results"][0]
    assert (first["measure"], first["estimate"]["n"]) == ("Masked-LM accuracy", 3)
    assert {item["minus"] for item in found["differences"]} == {"unchanged"}
    assert found["differences"][0]["verdict"] == "separable"
    assert found["configurations"]["global_pool=none"]["settings"]["global_pool"] == "none"
    rows = list(csv.DictReader((written / "table.csv").read_text().splitlines()))
    values = [float(r["value"]) for r in rows if r["measure"] == first["measure"]][:3]
    assert sum(values) / 3 == pytest.approx(first["estimate"]["mean"])
    text = (written / "table.md").read_text()
    assert "| global_pool=none<br>seeds 42, 43, 44 | **20.2**<br>± 0.5, n 3 |" in text
    for name in ("figure.png", "curves.png"):
        assert (written / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("events", "bundled", "finished"),
    [((), 0, False), ((), 20, False), ((), 30, True), ((30,), 0, True), ((20,), 0, False)],
)
def test_a_run_of_so_many_epochs_is_finished_when_it_says_so(
    events: tuple[int, ...], bundled: int, finished: bool, tmp_path: Path
) -> None:
    folder = write_run(tmp_path / "run", steps=30, planned=-1, trainer__max_epochs=3)
    for step in events:
        add_event(folder, "finished", step=step)
        add_event(folder, "resumed", step=step)
    if bundled:
        (folder / "bundle").mkdir()
        content = {"metadata": {"objective": "mlm_sso", "steps": bundled}}
        (folder / "bundle" / "config.json").write_text(json.dumps(content))
    assert read_run(folder).is_finished is finished
    (folder / "run_config.yaml").unlink()
    assert read_run(folder).is_finished  # of a run of which nothing is known


@pytest.mark.parametrize(("bundled", "finished"), [(20, False), (30, True)])
def test_a_run_that_was_made_longer_is_not_finished_by_the_bundle_of_before(
    bundled: int, finished: bool, tmp_path: Path
) -> None:
    folder = write_run(tmp_path / "run", steps=30, planned=40)
    (folder / "bundle").mkdir(exist_ok=True)
    content = {"metadata": {"objective": "mlm_sso", "steps": bundled}}
    (folder / "bundle" / "config.json").write_text(json.dumps(content))
    assert read_run(folder).is_finished is finished
