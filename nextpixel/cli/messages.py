"""What a mistyped command line prints: the nearest names of an option, and the form of the value that it takes."""

import difflib
import re
import types
import typing
from argparse import Action, ArgumentParser
from typing import Any

from nextpixel.errors import spelled

# Names of other programs for what is called otherwise here.
ALIASES = {
    "learning_rate": ("training.lr",),
    "batch": ("training.batch_size",),
    "bs": ("training.batch_size",),
    "gpu": ("device", "training.devices"),
    "gpus": ("training.devices", "device"),
    "dataset": ("data",),
    "output": ("out",),
    "channels": ("model.features",),
    "width": ("model.features",),
    "depth": ("model.blocks",),
    "layers": ("model.blocks",),
    "number": ("n",),
    "num": ("n",),
    "class": ("label",),
}
FORMS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
LONGEST_WORD, LONGEST = 80, 300  # of a value or name that a message repeats; of a message


def explained(message: str, parser: ArgumentParser) -> str:
    """The message of a parse error in one line: what was given, what was expected, and the way out.

    Args:
        message: of argparse or jsonargparse.
        parser: of the verb.
    """
    message = " ".join(message.split())
    if match := re.fullmatch(r"unrecognized arguments: (.*)", message, re.IGNORECASE):
        return _unknown(match[1], parser)
    if match := re.fullmatch(r"the following arguments are required: (.*)", message):
        names = ", ".join(_shown(name.rpartition(".")[2], parser) for name in match[1].split(", "))
        return f"missing: {names}; {_prog(parser)} --help shows how"
    if match := re.match(r"argument verb: invalid choice: '(.*?)' \(choose from (.*)\)", message):
        verbs = re.findall(r"'(.*?)'", match[2])
        near = difflib.get_close_matches(match[1], verbs, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(verbs)}"
        return f"unknown verb {match[1]!r}: {hint}"
    if match := re.match(r"(?:Parser key|Option) [\"']([^\"']+)[\"']:? ", message):
        return _wrong_value(match[1].rpartition("::")[2], message, parser)
    if match := re.match(r"argument (\S+): (.*)", message):
        return f"{match[1].split('/')[-1]}: {match[2]}"
    return message


def nearest(name: str, known: list[str], most: int = 3) -> list[str]:
    """The options nearest to a name: those that it abbreviates, or whose last part it is or resembles, the nearest first.

    Example:
        >>> nearest("epochs", ["training.epochs", "training.lr", "data.levels"])
        ['training.epochs']
        >>> nearest("temprature", ["temperature", "seed"]), nearest("zzz", ["seed"])
        (['temperature'], [])
    """
    name = name.replace("-", "_")
    last = {option: option.rpartition(".")[2] for option in known}
    found = [option for option in ALIASES.get(name, ()) if option in known]
    found += [option for option in known if last[option] == name or option == name]
    tail = name.rpartition(".")[2]
    found += difflib.get_close_matches(name, known, n=most, cutoff=0.75)
    close = difflib.get_close_matches(tail, list(last.values()), n=most, cutoff=0.7)
    found += [option for part in close for option in known if last[option] == part]
    return list(dict.fromkeys(found))[:most]


def form(hint: Any) -> str:
    """The form of a value of a declared type, in words.

    Example:
        >>> form(int), form(tuple[int, int] | None), form(typing.Literal["adam", "rmsprop"])
        ('a whole number', 'two whole numbers such as 28x32', 'adam or rmsprop')
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(form(one) for one in inner if one is not type(None)))
    if origin is typing.Literal:
        *others, last = map(str, inner)
        return f"{', '.join(others)} or {last}" if others else last
    if origin is tuple:
        numbers = {int: ("whole numbers", "16"), float: ("numbers", "0.9")}
        what, example = numbers.get(inner[0], ("values", "a"))
        count = {2: "two", 3: "three"}.get(len(inner), str(len(inner)))
        # A pair of whole numbers is a size, which may be written as one.
        return f"{count} {what} such as {'28x32' if inner == (int, int) else '[' + ','.join([example] * len(inner)) + ']'}"
    if origin is list or hint is list:
        return "a list such as [a,b]"
    if origin is dict or hint is dict:
        return "settings such as {name: value}"
    return FORMS.get(hint, spelled(hint))


def shortened(text: str) -> str:
    """A message in one line of at most 300 characters, in which no name or value is longer than 80.

    Example:
        >>> len(shortened("x" * 5000)), shortened("two\\nlines")
        (80, 'two lines')
    """
    words = (word if len(word) <= LONGEST_WORD else f"{word[: LONGEST_WORD - 23]}...{word[-20:]}" for word in text.split())
    line = " ".join(words)
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."


def _unknown(words: str, parser: ArgumentParser) -> str:
    given = words.split()
    options = [word.partition("=")[0] for word in given if word.startswith("-")]
    if not options:
        return f"{given[0]!r} is one word too many; {_prog(parser)} --help shows what is expected"
    near = nearest(options[0].lstrip("-"), [name.lstrip("-") for name in _options(parser)])
    shown = " or ".join(_dashed(name, parser) for name in near)
    return f"unknown option {options[0]}: {f'did you mean {shown}?' if near else f'{_prog(parser)} --help lists all'}"


def _wrong_value(key: str, message: str, parser: ArgumentParser) -> str:
    action = next((one for one in parser._actions if one.dest == key), None)
    value = re.search(r"(?:Got|Given) value: (.*)$", message)
    hint = getattr(action, "_typehint", None) or getattr(action, "type", None)
    if action is None or value is None or hint is None:
        return message
    return f"{_shown(key, parser)} {value[1]}: expected {form(hint)}"


def _shown(key: str, parser: ArgumentParser) -> str:
    """An argument as it is written: an option with its dashes, a positional one in capitals."""
    action = next((one for one in parser._actions if one.dest == key), None)
    return key.upper() if action is not None and not action.option_strings else _dashed(key, parser)


def _dashed(name: str, parser: ArgumentParser) -> str:
    return next((option for option in _options(parser) if option.lstrip("-") == name), f"--{name}")


def _options(parser: ArgumentParser) -> list[str]:
    actions: list[Action] = parser._actions
    return [option for action in actions for option in action.option_strings]


def _prog(parser: ArgumentParser) -> str:
    return parser.prog.replace("[options] ", "")
