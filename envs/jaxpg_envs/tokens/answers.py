"""Finding the answer in a response, and reading it as a number."""

import re
import unicodedata
from collections.abc import Callable
from fractions import Fraction

from jaxpg_envs.choices import refusal

Extract = Callable[[str], str | None]
"""`(response) -> answer`, None where there is none."""

# Longer ones would take Python seconds, or are refused by it.
_MOST_DIGITS = 400

_DECIMAL = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<![\d.])\.\d+"
_LATEX_FRACTION = r"\\[dt]?frac\s*\{\s*[-+]?\d+\s*\}\s*\{\s*[-+]?\d+\s*\}"
_NUMBER = re.compile(
    rf"[-+]?(?:{_LATEX_FRACTION}|(?:{_DECIMAL})(?:[eE][-+]?\d{{1,2}}(?!\d)|\s*/\s*\d+(?!\d|\.\d))?)"
)
_MINUS_SIGNS = str.maketrans({"\u2212": "-", "\u2013": "-", "\uff0d": "-"})
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_WRAPPING = re.compile(r"\\(?:text|mathrm|textbf|mathbf)\s*\{([^{}]*)\}")
_DECORATION = re.compile(r"\\(?:left|right|[,;:! ])|\\?\$|\\\(|\\\)|\\\[|\\\]|(?<=\d)\s*\\?%")


def whole(response: str) -> str:
    """The response without the white space around it.

    Args:
      response: text.

    Returns:
      The answer.
    """
    return response.strip()


def last_number(response: str) -> str | None:
    """The last number of a text, as it is written there.

    A sign that stands behind a number or a parenthesis is an operator and left out: "3-4" ends in
    4, "x = -4" in -4.
    Fractions ("3/4", "\\frac{3}{4}"), thousands separators and exponents of up to two digits are
    parts of a number.

    Args:
      response: text.

    Returns:
      The number, or None where there is none.

    >>> last_number("I had $1,200 and spent 300, so 900 is left."), last_number("none")
    ('900', None)
    """
    text = response.translate(_MINUS_SIGNS)
    numbers = list(_NUMBER.finditer(text))
    if not numbers:
        return None
    found = numbers[-1]
    before = text[: found.start()].rstrip()
    operator = found[0][0] in "+-" and (before[-1:].isdigit() or before.endswith(")"))
    return found[0][1:] if operator else found[0]


def boxed(response: str) -> str | None:
    """What the last `\\boxed{...}` of a text holds; braces inside may be nested.

    Args:
      response: text.

    Returns:
      The content, or None without a box that is closed.

    >>> boxed(r"so it is \\boxed{\\frac{1}{2}}.")
    '\\\\frac{1}{2}'
    """
    boxes = {match.end() - 1 for match in _BOX.finditer(response)}
    opened, last = [], (-1, None)
    for brace in re.finditer(r"[{}]", response):
        if brace[0] == "{":
            opened.append(brace.start())
        elif opened:
            start = opened.pop()
            if start in boxes and start > last[0]:
                last = (start, response[start + 1 : brace.start()])
    return last[1]


_EXTRACTS = {"whole": whole, "last_number": last_number, "boxed": boxed}


def extraction(extract: str | Extract) -> Extract:
    """The function that finds an answer.

    Args:
      extract: "whole", "last_number", "boxed", or a function `(response) -> answer or None`.

    Returns:
      The function.

    Raises:
      ValueError: another name.

    >>> extraction("boxes")
    Traceback (most recent call last):
    ValueError: extract='boxes' is not one of 'boxed', 'last_number', 'whole'; did you mean 'boxed'?
    """
    if callable(extract):
        return extract
    if extract not in _EXTRACTS:
        raise ValueError(refusal("extract", extract, _EXTRACTS))
    return _EXTRACTS[extract]


def normalised(text: str, *, ignore_case: bool = True) -> str:
    """A text without the differences in writing that do not change an answer.

    Args:
      text: an answer.
      ignore_case: whether letter case is one of them.

    Returns:
      The text in Unicode's compatibility form, white space collapsed, without quotation marks
      around it and without a full stop at its end.

    >>> normalised(' "New  York". ')
    'new york'
    """
    text = " ".join(unicodedata.normalize("NFKC", text).translate(_MINUS_SIGNS).split())
    bare = text.removesuffix(".").strip("\"'` ").removesuffix(".").strip() or text
    return bare.casefold() if ignore_case else bare


def number(text: str | None) -> Fraction | None:
    """Read an answer as a number.

    Understood are signs, thousands separators, decimals, fractions ("3/4", "\\frac{3}{4}"),
    exponents of up to two digits, and LaTeX or a currency around them. A percent sign is left out:
    "50%" is 50.

    Args:
      text: an answer that is a number and nothing else, a full stop at its end apart.

    Returns:
      The exact number, or None where the text is not one.

    >>> number("1,234.50"), number("-\\\\frac{3}{4}"), number("4 apples"), number("1/0")
    (Fraction(2469, 2), Fraction(-3, 4), None, None)
    """
    if text is None:
        return None
    text = _DECORATION.sub("", _WRAPPING.sub(r"\1", text.translate(_MINUS_SIGNS)))
    text = text.strip().removesuffix(".").strip()
    if len(text) > _MOST_DIGITS or not _NUMBER.fullmatch(text):
        return None
    sign = -1 if text[0] == "-" else 1
    text = text.lstrip("+-").replace(",", "")
    if "frac" in text or "/" in text:
        return _quotient(sign, text)
    return sign * Fraction(text)


def _quotient(sign: int, text: str) -> Fraction | None:
    above, below = re.findall(r"[-+]?\d*\.?\d+", text)
    return sign * Fraction(above) / Fraction(below) if Fraction(below) else None
