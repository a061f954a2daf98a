from dataclasses import asdict
from pathlib import Path

import pytest

from data_prep.cli import main, parse_overrides
from data_prep.config import BuildConfig, HubSource, LocalSource

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "data").glob("*.yaml"))


def plain(**changes):
    return {"output": "out", "source": {"kind": "local", "path": "texts"}, **changes}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_config_parses_and_starts_with_a_comment(path):
    config = BuildConfig.from_yaml(path)
    assert path.read_text().startswith("# ")
    assert BuildConfig.from_dict(asdict(config)) == config


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (plain(sentence={}), ["sentence", "Did you mean 'sentences'", "Allowed"]),
        (plain(num_workers="many"), ["num_workers", "many", "whole number"]),
        (plain(num_workers=True), ["num_workers", "whole number"]),
        (plain(cleaning={"unicode_form": "NFX"}), ["cleaning.unicode_form", "NFC"]),
        (plain(source={"kind": "lokal"}), ["kind", "local, hub, python_docs"]),
        (plain(source={"kind": ["local"]}), ["kind", "local, hub, python_docs"]),
        (plain(source={"kind": "local", "path": "a", "txt_field": "b"}), ["text_field"]),
        (plain(source={"kind": "hub", "id": "a"}), ["revision", "missing"]),
        (plain(sources=[]), ["both"]),
        ({"output": "out"}, ["sources", "missing", "--source.path"]),
        (plain(sentences={"language": "deutsch"}), ["language", "deutsch", "'de'"]),
        (plain(sentences={"language": "pt_BR"}), ["Did you mean 'pt-br'"]),
        (plain(sentences={"language": "englsh"}), ["Did you mean 'en'"]),
        (plain(sentences={"language": "klingon"}), ["klingon", "ISO 639-1"]),
        (plain(validation_fraction=1.5), ["validation_fraction", "1.5"]),
    ],
)
def test_a_wrong_setting_is_one_message_naming_key_and_mend(values, words):
    with pytest.raises(ValueError) as caught:
        BuildConfig.from_dict(values)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_overrides_reach_nested_keys_and_take_the_type_of_the_field(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("output: a\nsource: {kind: local, path: b}\n")
    overrides = parse_overrides(
        ["--output", "2018", "--source.path=x y", "--tokenizer.vocab_size", "99"]
    )
    config = BuildConfig.from_yaml(path, overrides)
    assert (config.output, config.tokenizer.vocab_size) == ("2018", 99)
    assert config.sources == (LocalSource(path="x y"),)
    with pytest.raises(ValueError, match="whole number"):
        BuildConfig.from_yaml(path, {"tokenizer.vocab_size": "big"})


def test_overrides_reach_a_source_of_a_list(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("output: a\nsources: [{kind: hub, id: b, revision: c}]\n")
    config = BuildConfig.from_yaml(path, {"sources.0.revision": "d"})
    assert config.sources == (HubSource(id="b", revision="d"),)
    with pytest.raises(ValueError, match="place in the list"):
        BuildConfig.from_yaml(path, {"sources.1.revision": "d"})


def test_a_key_that_stands_twice_is_refused_and_1e_2_is_a_number(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("output: a\nsource: {path: b}\noutput: c\n")
    with pytest.raises(ValueError, match="'output' stands there twice, in line 1 and line 3"):
        BuildConfig.from_yaml(path)
    path.write_text("output: a\nsource: {path: b, max_megabytes: 1e-1}\n")
    config = BuildConfig.from_yaml(path, {"validation_fraction": "1e-2"})
    assert config.sources == (LocalSource(path="b", max_megabytes=0.1),)
    assert config.validation_fraction == 0.01


@pytest.mark.parametrize("code", ["en", "zh", "sw", "gsw", "pt-br", "simple"])
def test_codes_of_languages_are_taken_also_those_without_rules_of_their_own(code):
    assert BuildConfig.from_dict(plain(sentences={"language": code})).sentences.language == code


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["build", "--config", "absent.yaml"], "absent.yaml"),
        (["build", "--config", "CONFIG", "--sorce.path", "x"], "sorce"),
        (["build", "--config", "CONFIG", "--source.path"], "no value"),
        (["build", "--config", "CONFIG", "stray"], "stray"),
        (["build", "--source.path", "a.txt", "b.txt"], "--source.path takes one value: put a pat"),
        (["build", "--source.path", "a", "--source.path", "b"], "'[{path: a}, {path: b}]'"),
        (["build", "--output", "out"], "--source.path"),
        (["build", "--config", "CONFIG", "--source.path", "absent"], "absent"),
        (["inspect", "absent"], "absent"),
        (["inspect", "absent", "--samples", "-1"], "--samples is -1; give the number of samples"),
        (["verify", "absent"], "absent"),
    ],
)
def test_a_mistake_on_the_command_line_ends_with_one_line_and_code_2(
    arguments, word, tmp_path, capsys
):
    config = tmp_path / "c.yaml"
    config.write_text(f"output: {tmp_path}/out\nsource: {{kind: local, path: b}}\n")
    arguments = [str(config) if item == "CONFIG" else item for item in arguments]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert word in error and error.count("\n") == 1 and "Traceback" not in error


def test_several_places_are_given_as_a_list_as_the_message_says():
    config = BuildConfig.from_yaml(
        "", parse_overrides(["--output", "c", "--sources", "[{path: a}, {path: b}]"])
    )
    assert config.sources == (LocalSource(path="a"), LocalSource(path="b"))


def test_the_later_of_two_equal_settings_counts():
    assert parse_overrides(["--output", "a", "--output=b"]) == {"output": "b"}


def test_a_second_config_of_a_build_is_refused_and_not_taken_alone(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["build", "--config", "a.yaml", "--config", "b.yaml"])
    assert caught.value.code == 2
    assert "--config is given twice, a.yaml and b.yaml" in capsys.readouterr().err


def test_help_explains_every_setting(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["build", "--help"])
    text = capsys.readouterr().out
    assert caught.value.code == 0
    assert "--tokenizer.vocab_size (default 30522)" in text and "special tokens included" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--help"], "  143  SIGTERM"),
        (["--help"], "`ponet-data` is the same command"),
        (["inspect", "--help"], "\nShow what a shard folder holds"),
        (["build", "--help"], "pip install -c constraints.txt ray"),
        (["build", "--help"], "skip what is damaged and count it. One of error, skip."),
    ],
)
def test_help_says_what_a_command_does_and_how_it_ends(arguments, said, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert " ".join(said.split()) in " ".join(capsys.readouterr().out.split())
