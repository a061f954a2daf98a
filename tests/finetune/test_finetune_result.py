"""result.json of a fit: what it must hold, and what earlier versions did not say."""

import json
from pathlib import Path
from typing import Any

import pytest
from grid_fakes import make_result

from training.result import has_thresholds, read_result, write_result


def whole_result(folder: Path) -> dict[str, Any]:
    """A result with every key of this version."""
    path = folder / "fake.json"
    path.write_text(json.dumps(make_result(dropout_prob=0.1, gradient_clip=1.0)))
    return read_result(path)


def test_a_result_from_before_a_setting_was_kept_is_read(tmp_path: Path) -> None:
    result = whole_result(tmp_path)
    for name in ("dropout_prob", "gradient_clip"):
        del result["settings"][name]
    path = tmp_path / "result.json"
    path.write_text(json.dumps(result))
    settings = read_result(path)["settings"]
    assert settings == {**result["settings"], "dropout_prob": None, "gradient_clip": None}
    with pytest.raises(ValueError, match="settings lacks dropout_prob, gradient_clip"):
        write_result(path, result)


def test_a_result_with_missing_or_unknown_keys_is_refused(tmp_path: Path) -> None:
    result = whole_result(tmp_path)
    path = tmp_path / "result.json"
    write_result(path, result)
    assert read_result(path) == result
    with pytest.raises(ValueError, match=r"result.json: the result lacks score"):
        write_result(path, {k: v for k, v in result.items() if k != "score"})
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
