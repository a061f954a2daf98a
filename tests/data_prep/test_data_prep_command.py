"""What commands share, the reader of YAML first: nothing is lost without a word."""

import os
from pathlib import Path

import pytest
import yaml

from data_prep.command import check_keys, counted, load_yaml, read_yaml


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\nb: 2\na: 3\n",
        "a: {x: 1, x: 2}",
        "a:\n  - {x: 1, 'x': 2}",
        "trainer:\n  max_steps: 2\ndata: {}\ntrainer:\n  devices: 1\n",
    ],
)
def test_a_key_that_stands_twice_is_refused_with_its_lines(text: str) -> None:
    with pytest.raises(ValueError, match=r"'\w+' stands there twice, in line \d"):
        load_yaml(text)
    with pytest.raises(yaml.YAMLError, match="twice"):
        check_keys(text)


def test_keys_may_come_again_elsewhere_and_anchors_are_followed() -> None:
    text = "a: &one {x: 1}\nb: {<<: *one, y: 2}\nc: {x: 3}\n1: d\n'1': e\n"
    expected = {"a": {"x": 1}, "b": {"x": 1, "y": 2}, "c": {"x": 3}, 1: "d", "1": "e"}
    assert load_yaml(text) == expected
    check_keys(text)


def test_numbers_with_an_exponent_are_numbers_unless_wandb_reads_them() -> None:
    text = "[1e-4, -2E3, 1.5e-1, 1.0e+2, 1e, e5, 7, 1.]"
    assert load_yaml(text) == [1e-4, -2000.0, 0.15, 100.0, "1e", "e5", 7, 1.0]
    assert load_yaml("1e-4", yaml_1_1=True) == "1e-4"
    assert load_yaml("") is None


def test_a_file_that_cannot_be_read_is_one_line_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere.yaml: no such file$"):
        read_yaml(tmp_path / "nowhere.yaml")
    with pytest.raises(ValueError, match="Is a directory"):
        read_yaml(tmp_path)
    path = tmp_path / "a.yaml"
    path.write_bytes("größe: 1".encode("latin-1"))
    with pytest.raises(ValueError, match="a.yaml: is not UTF-8"):
        read_yaml(path)
    path.write_text("a: [")
    with pytest.raises(ValueError, match="a.yaml: is not valid YAML") as raised:
        read_yaml(path)
    assert "\n" not in str(raised.value)


def test_a_pipe_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, b"a: 1")
    os.close(write_end)
    assert read_yaml(f"/dev/fd/{read_end}") == {"a": 1}
    os.close(read_end)
    (tmp_path / "b.yaml").write_text("\ufeffa: 1", encoding="utf-8")
    assert read_yaml(tmp_path / "b.yaml") == {"a": 1}


def test_one_of_a_kind_is_named_in_the_singular() -> None:
    assert counted(1, "step(s)") == counted(1.0, "step(s)") == "1 step"
    assert counted(0, "row(s)") == "0 rows"
    assert counted(2400, "document(s) over the limit") == "2,400 documents over the limit"
