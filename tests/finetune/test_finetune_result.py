"""result.json of a fit: what it must hold."""

import json
from pathlib import Path

import pytest
from grid_fakes import make_result

from training.result import has_thresholds, read_result, write_result


def test_a_result_with_missing_or_unknown_keys_is_refused(tmp_path: Path) -> None:
    result, path = make_result(), tmp_path / "result.json"
    write_result(path, result)
    assert read_result(path) == result
    with pytest.raises(ValueError, match=r"result.json: the result lacks score"):
        write_result(path, {k: v for k, v in result.items() if k != "score"})
    settings = {k: v for k, v in result["settings"].items() if k != "dropout_prob"}
    path.write_text(json.dumps({**result, "settings": settings}))
    with pytest.raises(ValueError, match=r"settings lacks dropout_prob; run the fit again"):
        read_result(path)
    with pytest.raises(ValueError, match=r"settings has the unknown size"):
        write_result(path, {**result, "settings": {**result["settings"], "size": 1}})
    with pytest.raises(ValueError, match="format_version is 2"):
        write_result(path, {**result, "format_version": 2})
    path.write_text("{")
    with pytest.raises(ValueError, match="result.json: is not valid JSON"):
        read_result(path)
    with pytest.raises(ValueError, match="no such file"):
        read_result(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("kind", "labels", "expected"),
    [("multilabel", "abc", True), ("sentences", "ab", True), ("sentences", "abc", False),
     ("classification", "ab", False)],
)  # fmt: skip
def test_thresholds_are_for_several_labels_and_for_two_of_sentences(kind, labels, expected):
    data = {"splits": {"train": {"labels": dict.fromkeys(labels, 1)}}}
    assert has_thresholds({"kind": kind, "data": data}) == expected
