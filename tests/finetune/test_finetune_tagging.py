"""Tagged texts: their files in every layout, and their scores."""

import gzip
import json
from collections import Counter

import pytest
import torch

from finetune.metrics import tagging_scores
from finetune.tagging.files import CUT_WORDS, OTHER_SCHEMES, has_plain_texts, read_tagged
from finetune.tagging.marked_spans import CUT_SPANS, NO_WORD, OVERLAPS
from finetune.tagging.predictions import tag_answer, with_words
from finetune.tagging.scores import Parse, Span, spans_of, tag_scores
from finetune.tasks.registry import OwnFiles, load_task
from finetune.tasks.spec import Row, Wanted


def conlleval_chunks(tags):
    """Spans by the tables of the Perl script, written down from its rules for BIO tags."""
    found, start = [], None
    previous, kind = "O", ""
    for place, tag in enumerate([*tags, "O"]):
        prefix, _, name = tag.partition("-")
        ends = (
            (previous in "BI" and prefix in ("B", "O"))
            or (previous != "O" and kind != name)
        )  # fmt: skip
        begins = prefix == "B" or (prefix == "I" and (previous == "O" or kind != name))
        if ends and start is not None:
            found.append(Span(kind, start, place))
            start = None
        if begins:
            start = place
        previous, kind = prefix, name
    return found


TAGS = ["O", "B-a", "I-a", "B-b", "I-b"]


@pytest.mark.parametrize("length", range(5))
def test_spans_follow_conlleval(length):
    texts = [()]
    for _ in range(length):
        texts = [(*text, tag) for text in texts for tag in TAGS]
    assert all(spans_of(text) == conlleval_chunks(text) for text in texts)


def test_a_tag_of_another_scheme_is_named():
    with pytest.raises(ValueError, match="'S-a' of word 1"):
        spans_of(["O", "S-a"])


def test_scores_of_hand_worked_texts():
    gold = [
        Parse(("B-x", "I-x", "O"), "play"),
        Parse(("O", "B-y", "O"), "stop"),
        Parse(("O", "O"), "play#stop"),
        Parse(("B-x",), "play"),
    ]
    predicted = [
        Parse(("B-x", "I-x", "O"), "play"),  # all right
        Parse(("O", "B-x", "O"), "stop"),  # a wrong kind
        Parse(("O", "O"), "stop"),  # the second of two labels
        Parse((), "stop"),  # cut before its word
    ]
    found = tag_scores(gold, predicted)
    assert found == {
        "slot_em": 0.5, "token_accuracy": 0.5, "span_precision": 0.5, "span_recall": 1 / 3,
        "span_f1": 0.4, "intent_accuracy": 0.5, "frame_em": 0.25, "intent_first": 0.5,
        "intent_any": 0.75,
    }  # fmt: skip


def test_an_all_o_tagger_is_not_rewarded_for_words_without_a_slot():
    gold = [Parse(("O", "B-x"), None), Parse(("O",), None)]
    found = tag_scores(gold, [Parse(("O", "O"), None), Parse(("O",), None)])
    assert found["token_accuracy"] == 0 and found["span_f1"] == 0 and found["slot_em"] == 0.5
    assert "frame_em" not in found


MTOP_ROW = (
    "7", "IN:CREATE_CALL", "5:13:SL:CONTACT", "call Nicholas now", "calling", "en_XX", "[]",
    json.dumps({"tokens": ["call", "Nicholas", "now"], "tokenSpans": [
        {"start": 0, "length": 4}, {"start": 5, "length": 8}, {"start": 14, "length": 3}]}),
)  # fmt: skip
WORDS, BIO = ("call", "Nicholas", "now"), ("O", "B-CONTACT", "O")
FILES = {
    "mtop.txt": "\t".join(MTOP_ROW) + "\n",
    "atis.tsv": "id\tutterance\tslot_labels\tintent\n"
    "7\tcall Nicholas now\tO B-CONTACT O\tCREATE_CALL\n",
    "own.jsonl": json.dumps({"words": WORDS, "tags": BIO, "label": "CREATE_CALL", "id": "7"})
    + "\n",
    "ner.conll": "-DOCSTART- -X- O\n\ncall NN O\nNicholas NN B-CONTACT\nnow RB O\n\n",
}


@pytest.mark.parametrize("start", ["", "\n \n"])
@pytest.mark.parametrize("name", FILES)
def test_every_layout_gives_the_same_text(tmp_path, name, start):
    (tmp_path / name).write_text(start + FILES[name])
    with gzip.open(tmp_path / f"{name}.gz", "wt") as file:
        file.write(FILES[name])
    for path in (tmp_path / name, tmp_path / f"{name}.gz"):
        (text,) = read_tagged(path, Counter())
        assert (text.words, text.tags) == (WORDS, BIO)
        assert text.label == (None if name == "ner.conll" else "CREATE_CALL")
        assert [text.text[start:end] for start, end in text.offsets] == list(WORDS)


@pytest.mark.parametrize("name", ["own.jsonl", "hub.jsonl", "ner.conll", "mtop.txt"])
def test_white_space_makes_no_other_tag_or_label(tmp_path, name):
    changes = {
        "own.jsonl": [("B-CONTACT", " B-CONTACT "), ('"CREATE_CALL"', '" CREATE_CALL\\t"')],
        "hub.jsonl": [('"tags"', '"ner_tags"'), ('"O"', '"O "')],
        "ner.conll": [(" NN ", "\tNN\t"), (" RB ", "\tRB\t"), ("B-CONTACT", "B-CONTACT ")],
        "mtop.txt": [("CREATE_CALL", "CREATE_CALL "), ("SL:CONTACT", "SL:CONTACT ")],
    }
    content = FILES.get(name, FILES["own.jsonl"])
    for given, becomes in changes[name]:
        assert given in content
        content = content.replace(given, becomes)
    (tmp_path / name).write_text(content)
    (text,) = read_tagged(tmp_path / name, Counter())
    assert text.tags == BIO and text.label == (None if name == "ner.conll" else "CREATE_CALL")


def test_a_folder_of_lines_is_read(tmp_path):
    (tmp_path / "seq.in").write_text("call Nicholas now\nstop\n")
    (tmp_path / "seq.out").write_text("O B-CONTACT O\nO\n")
    (tmp_path / "label").write_text("CREATE_CALL\nSTOP\n")
    texts = read_tagged(tmp_path, Counter())
    assert [(text.words, text.tags, text.label) for text in texts] == [
        (WORDS, BIO, "CREATE_CALL"), (("stop",), ("O",), "STOP"),
    ]  # fmt: skip
    with gzip.open(tmp_path / "seq.in.gz", "wb") as packed:
        packed.write((tmp_path / "seq.in").read_bytes())
    (tmp_path / "seq.in").unlink()
    assert read_tagged(tmp_path, Counter()) == texts
    (tmp_path / "label").write_text("CREATE_CALL\n")
    with pytest.raises(ValueError, match="seq.in 2, seq.out 2, label 1"):
        read_tagged(tmp_path, Counter())


def test_a_whole_number_is_a_label_of_a_text_too(tmp_path):
    lines = [json.dumps({"words": ["a"], "tags": ["O"], "label": label}) for label in (3, "b")]
    (tmp_path / "own.jsonl").write_text("\n".join(lines))
    assert [text.label for text in read_tagged(tmp_path / "own.jsonl", Counter())] == ["3", "b"]


@pytest.mark.parametrize("names", [("tokens", "tags"), ("tokens", "ner_tags")])
def test_words_and_tags_may_have_the_names_of_hub_data_sets(tmp_path, names):
    row = dict(zip(names, (WORDS, BIO), strict=True), id=7, pos_tags=[1, 2, 3])
    (tmp_path / "own.jsonl").write_text(json.dumps(row))
    (text,) = read_tagged(tmp_path / "own.jsonl", Counter())
    assert (text.words, text.tags, text.id) == (WORDS, BIO, "7")


BIOES = ("S-a", "B-a", "E-a", "O", "B-b", "I-b", "E-b", "E-a")
SCHEMES = {"BIOES": BIOES, "BILOU": [tag.replace("S-", "U-").replace("E-", "L-") for tag in BIOES]}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_tags_of_other_schemes_become_bio_in_every_layout_and_are_counted(tmp_path, scheme):
    words, tags = list("abcdefgh"), SCHEMES[scheme]
    (tmp_path / "own.jsonl").write_text(json.dumps({"words": words, "tags": tags}))
    rows = "\n".join(f"{word} {tag}" for word, tag in zip(words, tags, strict=True))
    (tmp_path / "own.conll").write_text(rows)
    cells = "\t".join(("1", " ".join(words), " ".join(tags), "x"))
    (tmp_path / "own.tsv").write_text(f"id\tutterance\tslot_labels\tintent\n{cells}\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "seq.in").write_text(" ".join(words))
    (tmp_path / "folder" / "seq.out").write_text(" ".join(tags))
    for name in ("own.jsonl", "own.conll", "own.tsv", "folder"):
        repairs = Counter()
        (text,) = read_tagged(tmp_path / name, repairs)
        assert text.tags == ("B-a", "B-a", "I-a", "O", "B-b", "I-b", "I-b", "I-a")
        assert repairs == {OTHER_SCHEMES: 4}
    own = OwnFiles(kind="tags", **dict.fromkeys(("train", "validation"), f"{tmp_path}/own.conll"))
    assert load_task("own", own=own).splits["train"].repairs == {OTHER_SCHEMES: 4}
    (tmp_path / "new.txt").write_text(rows)
    assert not has_plain_texts(tmp_path / "new.txt", ("O", "B-a", "I-a", "B-b", "I-b"))


MARKED = "\u00c9mile's  aunt lives in New-York."
ENTITIES = [{"start": 23, "end": 31, "label": "LOC"}, {"start": 0, "end": 5, "label": "PER"}]


def shapes_of(text, entities):
    """The same spans in every shape that is read."""
    lists = [[one["start"], one["end"], one["label"]] for one in entities]
    names = {"start": "start_offset", "end": "end_offset", "label": "label"}
    offsets = [{names[key]: value for key, value in one.items()} for one in entities]
    rows = [{"label": lists}, {"entities": entities}, {"entities": lists}, {"spans": entities},
            {"spans": lists}, {"entities": offsets, "relations": []}]  # fmt: skip
    return [{"text": text, **row} for row in rows]


@pytest.mark.parametrize("row", shapes_of(MARKED, ENTITIES))
def test_spans_of_characters_become_tags_of_the_words_that_predict_sees(tmp_path, row):
    (tmp_path / "own.jsonl").write_text(json.dumps(row))
    repairs = Counter()
    (text,) = read_tagged(tmp_path / "own.jsonl", repairs)
    words = "\u00c9mile ' s aunt lives in New - York .".split()
    assert text.words == tuple(words) and text.text == MARKED and not repairs
    assert text.tags == ("B-PER", *"OOOOO", "B-LOC", "I-LOC", "I-LOC", "O")
    new = with_words(Row(1, "", MARKED, "", None)).tagged
    assert (new.words, new.offsets) == (text.words, text.offsets)
    assert text.label is None and text.line == 1 and text.id == "0"
    spans = [
        (one["start"], one["end"], one["kind"]) for one in tag_answer(text, text.tags)["spans"]
    ]
    assert spans == [(0, 5, "PER"), (23, 31, "LOC")]


@pytest.mark.parametrize(("spans", "tags", "counts"), [
    ([[4, 6, "x"]], "O B O", {CUT_SPANS: 1}),
    ([[3, 7, "x"], [8, 8, "x"], [2, 3, "x"]], "O B O", {NO_WORD: 2}),
    ([[0, 2, "x"], [0, 7, "x"], [3, 10, "x"]], "B I O", {OVERLAPS: 2}),
    ([[4, 5, "x"], [5, 7, "x"]], "O B O", {CUT_SPANS: 1, OVERLAPS: 1}),
    ([[0, 2, "x"], [0, 2, "x"]], "B O O", {OVERLAPS: 1}),
    ([[2, 8, "x"]], "O B O", {}),
    ([], "O O O", {}),
])  # fmt: skip
def test_spans_that_do_not_fit_the_words_are_counted(tmp_path, spans, tags, counts):
    (tmp_path / "own.jsonl").write_text(json.dumps({"text": "ab cdef gh", "label": spans}))
    repairs = Counter()
    (text,) = read_tagged(tmp_path / "own.jsonl", repairs)
    assert text.tags == tuple(tag if tag == "O" else f"{tag}-x" for tag in tags.split())
    assert repairs == counts


@pytest.mark.parametrize(("row", "message"), [
    ({"label": [[0, 11, "x"]]}, r"line 2: label holds \[0, 11, 'x'\]; .* end <= 10"),
    ({"label": [[-1, 2, "x"]]}, "0 <= start"),
    ({"spans": [[3, 2, "x"]]}, "line 2: spans holds"),
    ({"spans": [[True, 2, "x"]]}, "True"),
    ({"entities": [[0, 2, " "]]}, "and a name"),
    ({"entities": [{"start": 0, "end": 2}]}, "line 2: entities holds {'start': 0"),
    ({"entities": ["ab"]}, "holds 'ab'"),
    ({"entities": [[0, 2, "x"]], "spans": [[0, 2, "x"]]}, "entities and spans both hold spans"),
    ({"entities": [], "text": " "}, "line 2: a text without a word"),
    ({"entities": [], "label": 0.5}, "label is 0.5"),
])  # fmt: skip
def test_a_span_that_is_none_is_an_error_with_its_place(tmp_path, row, message):
    (tmp_path / "own.jsonl").write_text("\n" + json.dumps({"text": "ab cdef gh", **row}))
    with pytest.raises(ValueError, match=message):
        read_tagged(tmp_path / "own.jsonl", Counter())


def test_a_text_with_spans_may_have_a_label_and_words_with_tags_win(tmp_path):
    rows = [
        {"text": "ab cd", "entities": [[0, 2, "x"]], "label": "go", "id": "z", "tags": "news"},
        {"text": "ab cd", "entities": [[0, 2, "x"]], "tokens": [{"text": "ab"}, {"text": "cd"}]},
        {"text": "ab cd", "entities": [[0, 2, "x"]], "words": ["q"], "tags": ["B-y"]},
    ]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, rows)))
    texts = read_tagged(tmp_path / "own.jsonl", Counter())
    assert [(text.id, text.label) for text in texts] == [("z", "go"), ("1", None), ("2", None)]
    assert [text.tags for text in texts] == [("B-x", "O"), ("B-x", "O"), ("B-y",)]


BROKEN = {
    "tags.jsonl": ('{"words": ["a", "b"], "tags": ["O"]}', "line 1: 2 words but 1 tags"),
    "scheme.jsonl": ('{"words": ["a"], "tags": ["X"]}', "line 1: tag 'X'"),
    "numbers.jsonl": ('{"words": ["a"], "tags": [0]}', r"line 1: tags is \[0\]; a list of names"),
    "hub.jsonl": (
        '{"tokens": ["a", "b"], "ner_tags": [3, 0]}',
        r"line 1: ner_tags is \[3, 0\]; .*dataset.features\['ner_tags'\].feature.names",
    ),
    "labels.jsonl": ('{"words": ["a"], "label": 0.5}', "line 1: label is 0.5; a name or a whole"),
    "no_words.jsonl": ('{"text": "a b"}', "line 1: needs a key words"),
    "slot.txt": ("\t".join([*MTOP_ROW[:2], "99:100:SL:X", *MTOP_ROW[3:]]), "covers no word"),
    "columns.tsv": ("id\tutterance\tslot_labels\tintent\n1\ta\tO", "line 2: 3 columns"),
    "ragged.conll": ("a O\nb X O", "line 2: 3 columns"),
    "what.tsv": ("a\tb\tc\td\te\tf", "line 1: is of no known layout"),
    "list.json": ('[{"words": ["a"], "tags": ["O"]}]', "line 1: is of no known layout"),
    "words.conll": ("\na\nb", "line 2: is of no known layout"),
    "commas.csv": ("word,tag\na,O", "line 1: is of no known layout"),
    "empty.tsv": ("", "is empty"),
}


def test_the_message_for_a_row_of_no_form_shows_a_line_of_each_that_is_read(tmp_path):
    (tmp_path / "own.jsonl").write_text('{"sentence": "a b", "labels": [[0, 1, "x"]]}')
    with pytest.raises(ValueError) as error:
        read_tagged(tmp_path / "own.jsonl", Counter())
    lines = str(error.value).partition(" such as ")[2].split(", or ")
    (tmp_path / "shown.jsonl").write_text("\n".join(lines))
    texts = read_tagged(tmp_path / "shown.jsonl", Counter())
    assert len(texts) == 5
    assert {(text.words, text.tags) for text in texts} == {(("IBM", "hires"), ("B-ORG", "O"))}


@pytest.mark.parametrize("name", BROKEN)
def test_damage_is_named_with_file_and_line(tmp_path, name):
    content, message = BROKEN[name]
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        read_tagged(tmp_path / name, Counter())
    assert name in str(error.value)


def test_a_slot_edge_inside_a_word_is_counted(tmp_path):
    row = "\t".join([*MTOP_ROW[:2], "7:13:SL:CONTACT", *MTOP_ROW[3:]])
    (tmp_path / "mtop.txt").write_text(row + "\n")
    repairs = Counter()
    (text,) = read_tagged(tmp_path / "mtop.txt", repairs)
    assert text.tags == BIO and repairs == {CUT_WORDS: 1}


def test_the_real_files_have_their_known_sizes(shared_dir):
    folder = shared_dir / "data"
    if not (folder / "mtop").is_dir() or not (folder / "atis").is_dir():
        pytest.skip(f"MTOP and ATIS not found in {folder}")
    repairs = Counter()
    mtop = {
        split: read_tagged(folder / "mtop" / name, repairs)
        for split, name in {
            "train": "train.en.derived.tsv.gz", "eval": "eval.en.txt.gz", "test": "test.en.txt.gz",
        }.items()
    }  # fmt: skip
    assert {split: len(texts) for split, texts in mtop.items()} == {
        "train": 15_645, "eval": 2_235, "test": 4_386,
    }  # fmt: skip
    assert len({tag for text in mtop["train"] for tag in text.tags}) == 136
    assert repairs == {CUT_WORDS: 33}  # in 32 rows
    known = {" ".join(text.words).casefold() for text in mtop["train"]}
    assert sum(" ".join(text.words).casefold() in known for text in mtop["eval"]) == 23
    gold = [Parse(text.tags, text.label) for text in mtop["eval"]]
    all_o = [Parse(("O",) * len(text.words), text.label) for text in mtop["eval"]]
    assert tag_scores(gold, all_o)["slot_em"] == pytest.approx(0.064, abs=5e-4)
    atis = {split: read_tagged(folder / "atis" / split, repairs) for split in ("train", "test")}
    assert {split: len(texts) for split, texts in atis.items()} == {"train": 4_478, "test": 893}
    assert sum("#" in text.label for text in atis["test"]) == 15


def test_a_label_of_any_language_is_one_that_training_saw(tmp_path):
    header, row = "id\tutterance\tslot_labels\tintent\n", "1\tgo\tO\t{}\n"
    for split in ("train", "dev"):
        (tmp_path / f"{split}_DE.tsv").write_text(header + row.format("left"))
        (tmp_path / f"{split}_EN.tsv").write_text(header + row.format("right"))
    task = load_task("multiatis", folder=str(tmp_path))
    assert task.spec.labels == ("left", "right")
    assert all(not split.repairs for split in task.splits.values())


def test_every_language_counts_alike_also_in_the_scores_of_new_texts(tmp_path):
    header, row = "id\tutterance\tslot_labels\tintent\n", "1\t{}\tB-place\tgo\n"
    (tmp_path / "train_EN.tsv").write_text(header + row.format("home") + "2\tnow\tO\tgo\n")
    for language, words in {"DE": ("heim", "hier", "dort"), "EN": ("there",)}.items():
        rows = "".join(map(row.format, words))
        (tmp_path / f"dev_{language}.tsv").write_text(header + rows)
    task = load_task("multiatis", folder=str(tmp_path))
    rows = task.splits["validation"].rows
    said = [[int(row.tagged.language != "en")] for row in rows]
    assert task.spec.tags == ("B-place", "O") and len(rows) == 4
    found = tagging_scores(
        task.spec, rows, torch.zeros(4, 1), said, train=task.splits["train"].rows
    )
    assert found["slot_em"] == found["slot_em_new"] == 0.5
    assert found["frame_em/de"] == 0 and found["frame_em_new"] == found["frame_em"] == 0.5


@pytest.mark.parametrize("place", [0, 1])
def test_a_text_without_the_label_that_is_asked_for_is_no_unseen_label(tmp_path, place):
    rows = [{"words": ["go"], "tags": ["O"], "label": label} for label in ("left", "right")]
    train, other = tmp_path / "train.jsonl", tmp_path / "dev.jsonl"
    train.write_text("\n".join(map(json.dumps, rows)))
    del rows[place]["label"]
    other.write_text("\n".join(map(json.dumps, rows)))
    own = OwnFiles(kind="tags", train=str(train), validation=str(other))
    with pytest.raises(ValueError, match=rf"dev.jsonl, line {place + 1}: the text has no label"):
        load_task("own", own=own)
    found = load_task("own", own=own, wanted=Wanted(targets="tags"))
    assert found.spec.labels == () and len(found.splits["validation"].rows) == 2


@pytest.mark.parametrize(("content", "is_plain"), [
    ("a O\nb B-x", False), ("call me\nnow", True), ("{user} call me", True),
    ('{"words": ["a"]}', False),
])  # fmt: skip
def test_an_empty_line_before_the_first_text_says_nothing_of_a_layout(tmp_path, content, is_plain):
    (tmp_path / "new.txt").write_text("\n" + content)
    assert has_plain_texts(tmp_path / "new.txt", ("B-x",)) == is_plain


@pytest.mark.parametrize(("content", "is_plain"), [
    ("take vitamin B-12\n", True), ("gate B-12\ngate B-13\n\ngate B-x\n", True),
    ("a B-x\nb I-x\nc O\n\nd O\n", False), ("a\tNN\tB-x\nb\tVB\tO\n", False),
    ("a O\n\ncall me\n", True), ("a O\nb c O\n", True), ("a O\nb B-x\n-DOCSTART-\n\nc O\n", False),
])  # fmt: skip
def test_a_txt_has_columns_only_where_its_tags_are_the_models(tmp_path, content, is_plain):
    (tmp_path / "new.txt").write_text(content)
    assert has_plain_texts(tmp_path / "new.txt", ("O", "B-x")) == is_plain
