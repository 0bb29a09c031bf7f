"""Text as windows of characters, and tables: what is read, and what is refused by name and place."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainrule import data
from chainrule.core.errors import ArgumentError, DataError
from chainrule.data import Characters, DataLoader

# Characters


@given(st.text(max_size=50))
def test_what_is_encoded_is_decoded(text: str) -> None:
    vocabulary = Characters(text)
    assert vocabulary.decode(vocabulary.encode(text)) == text
    assert list(vocabulary.characters) == sorted(set(text))


def test_the_order_of_characters_is_that_of_unicode_whatever_the_texts() -> None:
    assert Characters("bca𝛁é") == Characters("𝛁cbaéabc")
    assert Characters("bca𝛁é").encode("abcé𝛁").tolist() == [0, 1, 2, 3, 4]
    assert Characters("ab") != Characters("abc")


def test_an_unknown_character_is_named_with_its_place() -> None:
    with pytest.raises(DataError, match=r"'z' \(character 2\) is not in the vocabulary of 2 characters") as refused:
        Characters("ab").encode("abzy")
    assert "unknown=" in str(refused.value)
    with pytest.raises(DataError, match="'a'"):
        Characters("").encode("a")


def test_a_reserved_character_stands_for_unknown_ones() -> None:
    vocabulary = Characters("ab", unknown="?")
    assert len(vocabulary) == 3
    assert vocabulary.decode(vocabulary.encode("abz~a")) == "ab??a"
    with pytest.raises(ArgumentError, match="unknown='ab'"):
        Characters("ab", unknown="ab")


def test_tokens_outside_the_vocabulary_are_refused() -> None:
    for tokens, says in (([0, 2], "from 0 to 2"), ([-1], "from -1"), ([[0]], r"shape \(1, 1\)"), ([0.5], "float64")):
        with pytest.raises(DataError, match=says):
            Characters("ab").decode(tokens)
    assert Characters("ab").decode([]) == ""


# Windows


def test_targets_are_inputs_one_further_on() -> None:
    text = data.text("abcdefghij", context=3)
    windows = [tuple(map(text.vocabulary.decode, text[i])) for i in range(len(text))]
    assert windows == [("abc", "bcd"), ("def", "efg"), ("ghi", "hij")]
    inputs, targets = text.take(np.array([0, 2]))
    assert (inputs.shape, inputs.dtype, targets.dtype) == ((2, 3), np.int64, np.int64)
    assert (text.classes, text.input_shape) == (10, (3,))


@given(length=st.integers(2, 40), context=st.integers(1, 10), stride=st.integers(1, 12))
def test_windows_are_all_that_fit(length: int, context: int, stride: int) -> None:
    tokens = np.arange(length)
    if length <= context:
        return
    vocabulary = Characters("".join(map(chr, range(65, 65 + length))))
    found = data.TextDataset(tokens, context, vocabulary, stride=stride)
    inputs, targets = found.take(slice(None))
    assert inputs[:, 0].tolist() == [start for start in range(0, length, stride) if start + context < length]
    np.testing.assert_array_equal(inputs + 1, targets)
    np.testing.assert_array_equal(np.diff(inputs), 1)


def test_each_character_but_the_first_is_a_target_once() -> None:
    _, targets = data.text("abcdefghijk", context=5).take(slice(None))
    assert targets.ravel().tolist() == list(range(1, 11))


def test_the_last_part_is_held_out_and_no_window_reaches_into_it() -> None:
    prose = "".join(chr(65 + i) for i in range(50))
    train, held_out = data.text(prose, context=4, stride=1).split(0.2)
    assert train.vocabulary.decode(train.tokens) + held_out.vocabulary.decode(held_out.tokens) == prose
    assert len(held_out.tokens) == 10
    assert not set(train.take(slice(None))[1].ravel()) & set(held_out.take(slice(None))[0].ravel())
    assert held_out.vocabulary is train.vocabulary
    assert held_out.classes == train.classes == 50


def test_overlapping_windows_take_no_memory_of_their_own() -> None:
    text = data.text("abcd" * 5000, context=1000, stride=1)
    assert len(text) == 19_000
    assert np.shares_memory(text.inputs, text.tokens)
    assert text.tokens.nbytes == 20_000
    with pytest.raises(ValueError, match="read-only"):
        text.inputs[0, 0] = 1


def test_a_file_is_read_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "prose.txt"
    path.write_bytes("first line\r\nsecond é\n".encode())
    text = data.text(path, context=4)
    assert text.vocabulary.decode(text.tokens) == "first line\nsecond é\n"
    assert text.name == "prose.txt"
    packed = tmp_path / "prose.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert data.text(packed, context=4).vocabulary == text.vocabulary
    with pytest.raises(DataError, match="is the name of a file"):
        data.text(str(path), context=4)


def test_files_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "prose.txt"
    path.write_bytes(b"abc\xff")
    with pytest.raises(DataError, match="not text in UTF-8: byte 3 is 0xff"):
        data.text(path, context=2)
    with pytest.raises(DataError, match="does not exist"):
        data.text(tmp_path / "nothing", context=2)


def test_texts_and_windows_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match="3 characters, where a window of 3"):
        data.text("abc", context=3)
    with pytest.raises(ArgumentError, match="context=0"):
        data.text("abc", context=0)
    with pytest.raises(ArgumentError, match="no tokenizer 'words'"):
        data.text("abc", context=1, tokenizer="words")
    with pytest.raises(DataError, match="'z'"):
        data.text("abz", context=1, tokenizer=Characters("ab"))
    with pytest.raises(DataError, match="tokens from 0 to 7"):
        data.TextDataset([0, 7, 1], 1, Characters("ab"))


def test_the_text_that_comes_with_python_is_prose() -> None:
    prose = data.python_topics()
    assert prose == data.python_topics()
    assert prose.count(" the ") > 1000
    train, held_out = data.text(prose, context=32).split(0.1)
    ((inputs, targets), *_) = DataLoader(train, 8, shuffle=True)
    assert inputs.shape == targets.shape == (8, 32)
    assert len(held_out) > 1000


# Tables

FLOWERS = "length,width,kind\n5.1,3.5,setosa\n7.0,3.2,versicolor\n4.9,3.0,setosa\n"


def table(tmp_path: Path, content: str) -> Path:
    path = tmp_path / "table.csv"
    path.write_text(content)
    return path


def test_a_table_gives_numbers_and_classes_by_name(tmp_path: Path) -> None:
    flowers = data.csv(table(tmp_path, FLOWERS), "kind", classes="auto")
    inputs, targets = flowers.take(slice(None))
    assert inputs.tolist() == np.float32([[5.1, 3.5], [7.0, 3.2], [4.9, 3.0]]).tolist()
    assert targets.tolist() == [0, 1, 0]
    assert flowers.class_names == ("setosa", "versicolor")


def test_classes_are_numbered_in_the_order_of_their_names(tmp_path: Path) -> None:
    content = "a,kind\n" + "".join(f"{i},{kind}\n" for i, kind in enumerate("fdbaecg"))
    found = data.csv(table(tmp_path, content), "kind", classes="auto")
    assert found.class_names == tuple("abcdefg")
    assert found.targets.tolist() == [5, 3, 1, 0, 4, 2, 6]


def test_classes_can_be_given_so_that_test_data_have_the_same(tmp_path: Path) -> None:
    path = table(tmp_path, "a,kind\n1,versicolor\n")
    flowers = data.csv(path, "kind", classes=("virginica", "versicolor", "setosa"))
    assert (flowers.targets.tolist(), flowers.classes) == ([1], 3)
    with pytest.raises(DataError, match="line 2, column 'kind': no class 'versicolor'"):
        data.csv(path, "kind", classes=["setosa"])


def test_a_number_as_target_is_a_value_to_predict(tmp_path: Path) -> None:
    prices = data.csv(table(tmp_path, "1;2.5;-3\n4;5e1; 6\n"), -2, header=False, delimiter=";")
    inputs, targets = prices.take(slice(None))
    assert (inputs.tolist(), targets.tolist()) == ([[1, -3], [4, 6]], [[2.5], [50]])
    assert prices.classes is None


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a,b\n1,2\n3,\n", "line 3, column 'b': a missing value"),
        ("a,b\n ,2\n", "line 2, column 'a': a missing value"),
        ("a,b\n1,2\n\nnan,3\n", "line 4, column 'a': 'nan' is no finite number"),
        ("a,b\n1,inf\n", "line 2, column 'b': 'inf'"),
        ("a,b\nred,1\n", "line 2, column 'a': 'red' is no finite number"),
        ("a,b\n1,red\n", "column 'b': 'red' .*\n.*\n.*classes=\"auto\""),
        ("a,b\n1,2,3\n", "line 2: 3 values for 2 columns"),
        ("a,b\n1\n", "line 2: 1 values for 2 columns"),
        ("a,a,b\n1,2,3\n", "several columns 'a'"),
        ('a,b\n1,"2\n', "line 2: unexpected end"),
        ("a;b\n1;2\n", "one column alone, 'a;b'"),
        ("a,b\n", "holds no rows"),
        ("", "holds no rows"),
        ("a,c\n1,2\n", "no column 'b'"),
    ],
)
def test_what_is_wrong_with_a_table_is_said_with_line_and_column(tmp_path: Path, content: str, says: str) -> None:
    with pytest.raises((DataError, ArgumentError), match=says):
        data.csv(table(tmp_path, content), "b")


def test_a_missing_class_and_a_wrong_column_are_refused(tmp_path: Path) -> None:
    path = table(tmp_path, "a,kind\n1,\n")
    with pytest.raises(DataError, match="line 2, column 'kind': a missing value"):
        data.csv(path, "kind", classes="auto")
    with pytest.raises(ArgumentError, match="no column 7"):
        data.csv(path, 7)
    with pytest.raises(ArgumentError, match="classes='both'"):
        data.csv(path, "kind", classes="both")
    with pytest.raises(ArgumentError, match="delimiter=''"):
        data.csv(path, "kind", delimiter="")
