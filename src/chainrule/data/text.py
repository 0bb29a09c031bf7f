"""Text: characters as tokens, and a text as windows in which each character's target is the next one."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from chainrule.core.errors import ArgumentError, DataError
from chainrule.data.dataset import Dataset, frozen, held_out_of
from chainrule.data.files import read_text


class Characters:
    """A vocabulary of characters, numbered in the order of Unicode.

    Parameters
    ----------
    text : str
        The vocabulary is what occurs in it.
    unknown : str, optional
        A character that stands for all others. Without it a character outside the vocabulary is an error.

    Examples
    --------
    >>> import chainrule as cr
    >>> letters = cr.data.Characters("hello")
    >>> letters.characters, letters.encode("hole")
    ('ehlo', array([1, 3, 2, 0]))
    >>> letters.decode([1, 0, 2, 3])
    'helo'
    >>> cr.data.Characters("hello", unknown="?").encode("help")
    array([2, 1, 3, 0])
    """

    def __init__(self, text: str, *, unknown: str | None = None) -> None:
        if unknown is not None and len(unknown) != 1:
            raise ArgumentError(f"Characters: unknown={unknown!r}", mend='give one character, "?" say')
        self._codes = np.unique(_code_points(text + (unknown or "")))
        self.characters = "".join(map(chr, self._codes))
        self.unknown = unknown

    def __len__(self) -> int:
        return len(self._codes)

    def encode(self, text: str) -> npt.NDArray[np.int64]:
        """The numbers of a text's characters.

        Raises
        ------
        DataError
            If a character is not in the vocabulary, and nothing stands for it.
        """
        codes = _code_points(text)
        tokens = np.minimum(np.searchsorted(self._codes, codes), max(len(self) - 1, 0))
        strange = np.flatnonzero(self._codes[tokens] != codes) if len(self) else np.arange(len(codes))
        if len(strange):
            if self.unknown is None:
                place = int(strange[0])
                raise DataError(
                    f"{text[place]!r} (character {place}) is not in the vocabulary of {len(self)} characters",
                    mend='leave it out, or reserve a token: Characters(text, unknown="?")',
                )
            tokens[strange] = np.searchsorted(self._codes, ord(self.unknown))
        return tokens.astype(np.int64)

    def decode(self, tokens: npt.ArrayLike) -> str:
        """The text that these numbers stand for."""
        found = np.asarray(tokens)
        if found.ndim != 1 or (found.dtype.kind not in "iu" and found.size):
            raise DataError(f"decode: tokens of shape {found.shape} and dtype {found.dtype}", mend="decode one sequence of integers at a time")
        if found.size and not 0 <= int(found.min()) <= int(found.max()) < len(self):
            raise DataError(f"decode: tokens from {found.min()} to {found.max()}", mend=f"they lie in 0..{len(self) - 1}")
        return "".join(map(chr, self._codes[found.astype(np.int64)]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Characters) and (self.characters, self.unknown) == (other.characters, other.unknown)

    def __hash__(self) -> int:
        return hash((self.characters, self.unknown))

    def __repr__(self) -> str:
        return f"Characters({self.characters!r}" + (")" if self.unknown is None else f", unknown={self.unknown!r})")


class TextDataset(Dataset):
    """Windows on a text: ``context`` tokens, and as targets the same, one further on.

    Parameters
    ----------
    tokens : integer array of shape (length,)
    context : int
        The length of a window.
    vocabulary : Characters
    stride : int, optional
        From the beginning of a window to that of the next; ``context`` if not given, so that each character is a target once.
    name : str

    Raises
    ------
    DataError
        If the text is shorter than a window.

    Examples
    --------
    >>> import chainrule as cr
    >>> data = cr.data.text("to be or not to be", context=5)
    >>> data
    TextDataset('text', 3 inputs of shape (5,), 7 classes)
    >>> inputs, targets = data[1]
    >>> data.vocabulary.decode(inputs), data.vocabulary.decode(targets)
    (' or n', 'or no')
    """

    def __init__(self, tokens: npt.ArrayLike, context: int, vocabulary: Characters, *, stride: int | None = None, name: str = "text") -> None:
        if context < 1 or (stride is not None and stride < 1):
            raise ArgumentError(f"{name}: context={context}, stride={stride}", mend="both count characters, and are at least 1")
        self.tokens = frozen(np.asarray(tokens))
        self.context = context
        self.vocabulary = vocabulary
        self.stride = context if stride is None else stride
        if len(self.tokens) <= context:
            raise DataError(
                f"{name}: {len(self.tokens)} characters, where a window of {context} and the next character are needed",
                mend="give a longer text or a smaller context; a file is read if its Path is given",
            )
        # Views: overlapping windows take no memory of their own.
        windows = np.lib.stride_tricks.sliding_window_view
        inputs, targets = windows(self.tokens[:-1], context)[:: self.stride], windows(self.tokens[1:], context)[:: self.stride]
        super().__init__(inputs, targets, classes=len(vocabulary), class_names=tuple(vocabulary.characters), name=name)

    def _count_classes(self) -> int:
        """Each token is checked once, not in every window."""
        if not 0 <= int(self.tokens.min()) <= int(self.tokens.max()) < len(self.vocabulary):
            raise DataError(f"{self.name}: tokens from {self.tokens.min()} to {self.tokens.max()}", mend=f"they lie in 0..{len(self.vocabulary) - 1}")
        return len(self.vocabulary)

    def split(self, fraction: float, seed: int = 0) -> tuple[TextDataset, TextDataset]:
        """What to learn from, and the last part of the text, held out: no window reaches from one into the other.

        Parameters
        ----------
        fraction : float
            The part that is held out.
        seed : int
            Without meaning here: the text is split by position.

        Examples
        --------
        >>> import chainrule as cr
        >>> train, validation = cr.data.text("to be or not to be, that is the question", context=4).split(0.25)
        >>> train.vocabulary.decode(validation.tokens)
        'e question'
        """
        place = len(self.tokens) - held_out_of(len(self.tokens), fraction)
        return self._part(self.tokens[:place], self.name), self._part(self.tokens[place:], f"{self.name} held out")

    def _part(self, tokens: npt.NDArray[Any], name: str) -> TextDataset:
        part = TextDataset(tokens, self.context, self.vocabulary, stride=self.stride, name=name)
        part._functions = self._functions
        return part


def text(source: str | Path, *, context: int, tokenizer: Characters | str = "characters", stride: int | None = None, name: str = "") -> TextDataset:
    """A text to learn to continue.

    Parameters
    ----------
    source : str or Path
        The text itself, or the Path of a file that holds it in UTF-8, gzipped or not.
    context : int
        How many characters an input has.
    tokenizer : Characters or "characters"
        The vocabulary; made of the text's own characters if not given.
    stride : int, optional
        From the beginning of an input to that of the next; ``context`` if not given, 1 for all windows that there are.
    name : str
        The file's name if not given.

    Returns
    -------
    TextDataset
        Inputs and targets of shape (context,), int64; ``vocabulary`` encodes and decodes.

    Raises
    ------
    DataError
        If the file cannot be read, a character is not in the vocabulary, or the text is too short.

    Examples
    --------
    >>> import chainrule as cr
    >>> train, validation = cr.data.text(cr.data.python_topics(), context=64).split(0.1)
    >>> inputs, targets = next(iter(cr.data.DataLoader(train, 16, shuffle=True)))
    >>> inputs.shape, targets.shape
    ((16, 64), (16, 64))
    """
    content = read_text(source) if isinstance(source, Path) else source
    if isinstance(source, str) and len(source) < 256 and "\n" not in source and Path(source).is_file():
        raise DataError(f"text: {source!r} is the name of a file", mend=f"to read it, pass Path({source!r})")
    if isinstance(tokenizer, str):
        if tokenizer != "characters":
            raise ArgumentError(f"text: no tokenizer {tokenizer!r}", mend='choose "characters", or pass a vocabulary of Characters')
        tokenizer = Characters(content)
    tokens = tokenizer.encode(content)
    # The smallest integers that hold them; taken as int64.
    small = tokens.astype(np.min_scalar_type(max(len(tokenizer) - 1, 0)))
    return TextDataset(small, context, tokenizer, stride=stride, name=name or (source.name if isinstance(source, Path) else "text"))


def python_topics() -> str:
    """English prose that comes with Python: the topics of its help, some 460,000 characters about the language.

    Returns
    -------
    str
        In the order of the topics' names. It differs a little from version to version of Python.

    Raises
    ------
    DataError
        If this Python was installed without it.

    Examples
    --------
    >>> import chainrule as cr
    >>> prose = cr.data.python_topics()
    >>> len(prose) > 300_000, "the" in prose
    (True, True)
    """
    try:
        topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    except ImportError:
        raise DataError("this Python comes without the text of its help (pydoc_data)", mend="give a text file of your own: text(Path(...))") from None
    return "\n\n".join(topics[name].strip() for name in sorted(topics)) + "\n"


def _code_points(text: str) -> npt.NDArray[np.uint32]:
    # Surrogates, which a text may hold that was decoded with errors="surrogateescape", count as characters too.
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
