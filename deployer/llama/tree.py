"""The options of llama-server as the source of a build states them.

``common/arg.cpp`` registers each with ``add_opt(common_arg({names}, …, handler)``; the
handler says what a value may be.  No compiler is needed: strings, brackets and
comments are enough to cut the file into its arguments.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from deployer.llama.catalogue import Option, Standing, Takes, unique

_TOKEN = re.compile(
    r'R"\((?:.*?)\)"|"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'|//[^\n]*|/\*.*?\*/|[()\[\]{},]',
    re.DOTALL,
)
_OPENING, _CLOSING = "([{", ")]}"
_TEXT = re.compile(r'"((?:[^"\\]|\\.)*)"')
_COMMENT = re.compile(r'("(?:[^"\\]|\\.)*")|//[^\n]*|/\*.*?\*/', re.DOTALL)
_ENV = re.compile(r'\.set_env\(\s*"([^"]*)"')
_TOOLS = re.compile(r"\.set_(examples|excludes)\(\s*(\{[^}]*\}|\w+)")
_REFERENCE = re.compile(r"--[a-z][a-z0-9-]*[a-z0-9]")
_CHOICE = re.compile(r"\{([\w,+-]+)\}|\[([\w|+-]+\|[\w|+-]+)\]")
_LISTED = re.compile(r"^- ([a-z][\w+-]*)(?: \(default\))?:", re.MULTILINE)
_WIDTH_MACRO = re.compile(r"\bPRI[dux]\d+\b")
_ESCAPES = {"n": "\n", "t": "\t", '"': '"', "\\": "\\"}


@dataclass(frozen=True)
class Source:
    """The files of a tree that are read, by their path in it."""

    files: Mapping[str, str]

    def text(self, *paths: str) -> str:
        """The content of the first of these files that the tree has, else empty."""
        return next((self.files[it] for it in paths if it in self.files), "")

    @cached_property
    def common(self) -> str:
        """Everything in ``common/`` that functions and structures are looked up in."""
        found = (text for path, text in self.files.items() if path.startswith("common"))
        return "\n".join(found)

    @cached_property
    def members(self) -> Mapping[str, Mapping[str, tuple[str, str]]]:
        """Type and initial value of each member, by structure."""
        return {
            found[1]: dict(_members(_block(self.common, found.end() - 1)))
            for found in re.finditer(r"^struct (\w+) \{", self.common, re.MULTILINE)
        }

    def initial(self, path: str) -> str:
        """The value that a member of ``params`` has at first; empty: unknown."""
        if own := re.search(
            r"ex == LLAMA_EXAMPLE_SERVER\) \{\s*params\."
            + re.escape(path)
            + r"\s*=\s*([^;]*);",
            self.text("common/arg.cpp"),
        ):
            return own[1].strip()
        kind, value = "common_params", ""
        for name in path.split("."):
            kind, value = self.members.get(kind, {}).get(name, ("", ""))
        return value

    def listed(self, names: str) -> str:
        """A list in braces: as it stands, or as the variable that has it says."""
        if names.startswith("{"):
            return names
        text = self.text("common/arg.cpp")
        found = re.search(rf"\b{names}\s*=\s*\{{", text)
        return _block(text, found.end() - 1) if found else names

    def choices(self, function: str) -> tuple[str, ...]:
        """The texts that a function, or a table it looks into, compares with."""
        found = re.search(rf"\b{function}\([^;{{]*\)\s*\{{", self.common)
        if found is None:
            return ()
        body = _block(self.common, found.end() - 1)
        direct = re.findall(r'==\s*"([^"]+)"', body)
        if direct:
            return tuple(dict.fromkeys(direct))
        for name in re.findall(r"\b(\w+_map|\w+_types)\b", body):
            table = re.search(rf"\b{name}\s*=\s*\{{", self.common)
            if table:
                inside = _block(self.common, table.end() - 1)
                types = [it.lower() for it in re.findall(r"GGML_TYPE_(\w+)", inside)]
                return tuple(types or re.findall(r'\{\s*"([^"]+)"', inside))
        return ()


def options_of(source: Source) -> tuple[Option, ...]:
    """The options that llama-server of a tree takes; none without an ``arg.cpp``."""
    text = _bare(source.text("common/arg.cpp"))
    found = [_option(block, after, source) for block, after in _calls(text)]
    # The branch for other programs registers an option of the same name behind it.
    return unique({option.name: option for option in reversed(found) if option})


def _calls(text: str) -> Iterator[tuple[str, str]]:
    """The arguments of each registered option, and the calls chained behind it."""
    for found in re.finditer(r"\badd_opt\(\s*common_arg\(", text):
        inside, end = _until_closed(text, found.end())
        yield inside, text[end : text.find(";", end)]


def _until_closed(text: str, at: int) -> tuple[str, int]:
    """The text from behind an opening bracket to its partner, and where that ends."""
    depth = 1
    for token in _TOKEN.finditer(text, at):
        depth += (token[0] in _OPENING) - (token[0] in _CLOSING)
        if not depth:
            return text[at : token.start()], token.end()
    return text[at:], len(text)


def _block(text: str, at: int) -> str:
    """The text between the brace at this place and its partner."""
    return _until_closed(text, at + 1)[0]


def _parts(text: str) -> list[str]:
    """The text, cut at the commas that are inside of no bracket."""
    parts, depth, start = list[str](), 0, 0
    for token in _TOKEN.finditer(text):
        depth += (token[0] in _OPENING) - (token[0] in _CLOSING)
        if token[0] == "," and not depth:
            parts.append(text[start : token.start()])
            start = token.end()
    return [*parts, text[start:]]


def _option(block: str, after: str, source: Source) -> Option | None:
    """One option; None for one of another program than llama-server."""
    if not _is_servers(after, source):
        return None
    parts = [part.strip() for part in _parts(block)]
    names = tuple(_TEXT.findall(parts[0]))
    handler, about = parts[-1], parts[1:-1]
    negated = len(about) == 2 and about[0].startswith("{")
    off = tuple(_TEXT.findall(about[0])) if negated else ()
    hints = about[:-1] if not negated else []
    help_text = _literal(about[-1])
    hint = " ".join(_literal(it) for it in hints)
    takes, values = _takes(handler, hint, hints, source)
    env = _ENV.search(after)
    removed = "arg_removed(" in handler or "argument has been removed" in help_text
    return Option(
        names=names,
        takes=takes,
        off=off,
        hint=hint or ",".join(values if hints else ()),
        values=values,
        lists="string_split<std::string>(value, ',')" in handler,
        env=env[1] if env else "",
        standing=_standing(help_text, removed=removed),
        default="" if removed else _default(about[-1], help_text, source),
        instead=successors_in(help_text) if removed else (),
    )


def successors_in(help_text: str) -> tuple[str, ...]:
    """The options that the help of a removed one names."""
    return tuple(dict.fromkeys(_REFERENCE.findall(help_text)))


def _is_servers(after: str, source: Source) -> bool:
    """Tell if the option is one of llama-server: its own, or common to all programs."""
    tools = {
        kind: {*re.findall(r"\w+", source.listed(names))}
        for kind, names in _TOOLS.findall(after)
    }
    wanted = {"LLAMA_EXAMPLE_SERVER", "LLAMA_EXAMPLE_COMMON"}
    mine = "examples" not in tools or bool(tools["examples"] & wanted)
    return mine and "LLAMA_EXAMPLE_SERVER" not in tools.get("excludes", set())


def _bare(text: str) -> str:
    """The text without comments."""
    return _COMMENT.sub(lambda found: found[1] or "", text).strip()


def _literal(text: str) -> str:
    """The strings in an expression, joined and unescaped."""
    joined = "".join(_TEXT.findall(_WIDTH_MACRO.sub('"d"', text)))
    return re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[1]), joined)


def _standing(help_text: str, *, removed: bool) -> Standing:
    if removed:
        return Standing.REMOVED
    deprecated = "deprecated" in help_text.lower()
    return Standing.DEPRECATED if deprecated else Standing.CURRENT


_SIGNATURE = re.compile(r"\[[^\]]*\]\s*\(([^)]*)\)")
_WHOLE = re.compile(r"\b(?:std::)?(?:stoi|stol|stoll|stoul|stoull|atoi)\(\s*value\b")
_REAL = re.compile(r"\b(?:std::)?(?:stof|stod|strtof|strtod|atof)\(\s*value\b")
_EQUAL = re.compile(r'\bvalue\s*==\s*"([^"]+)"')
_NAMED = re.compile(
    r"\b(\w*(?:from_str|from_name|from_string|type_from_\w+))\(\s*value\b"
)


def _takes(
    handler: str, hint: str, hints: list[str], source: Source
) -> tuple[Takes, tuple[str, ...]]:
    """Return the form of a value, by the handler that gets it."""
    signature = _SIGNATURE.match(handler)
    given = signature[1] if signature else ""
    texts = len(re.findall(r"std::string\b", given))
    if texts >= 2:
        return Takes.TWO, ()
    if not hints:
        return Takes.NOTHING, ()
    if not texts and re.search(r"\bint\b", given):
        return Takes.INT, ()
    shown = _choice(hint)
    if "is_truthy(" in handler:
        auto = ("auto",) if "is_autoy(" in handler else ()
        return Takes.SWITCH, shown or ("on", "off", *auto)
    equal = tuple(dict.fromkeys(_EQUAL.findall(handler)))
    if _REAL.search(handler):
        return Takes.NUMBER, equal
    if _WHOLE.search(handler):
        return Takes.INT, equal
    if named := _NAMED.search(handler):
        return Takes.TEXT, source.choices(named[1]) or shown
    if listed := re.search(r"\b(\w+_from_names)\(", handler):
        return Takes.TEXT, source.choices(listed[1])
    if equal and (shown or re.search(r"else\s*\{\s*throw", handler)):
        return Takes.TEXT, equal
    return Takes.TEXT, shown


def _choice(hint: str) -> tuple[str, ...]:
    found = _CHOICE.fullmatch(hint)
    return tuple(re.split(r"[,|]", found[1] or found[2])) if found else ()


_MEMBER = re.compile(
    r"^\s*(?:enum\s+|struct\s+|const\s+)?([\w:]+(?:<[^;=]*>)?)\s+(\w+)(?:\[[^\]]*\])?"
    r"\s*(?:=\s*([^;]*))?;",
    re.MULTILINE,
)
_DEFAULT = re.compile(r"default *[:=] *([^\n]*)")
_FORMAT = re.compile(r"%%|%[-+ #0]*\d*(?:\.\d+)?(?:z|l|ll|h|j)?[diufgeszx]")
_ENUM = re.compile(r"[A-Z][A-Z0-9_]*_([A-Z0-9]+)")


def _members(block: str) -> Iterator[tuple[str, tuple[str, str]]]:
    for found in _MEMBER.finditer(_bare(block)):
        yield found[2], (found[1], (found[3] or "").strip())


def _default(about: str, help_text: str, source: Source) -> str:
    """The default that the help prints, with the members of ``params`` looked up."""
    call = re.match(r"string_format\(", about)
    if call:
        _, *arguments = _parts(about[call.end() : about.rindex(")")])
        values = iter([_value(_bare(it), source) for it in arguments])
        help_text = _FORMAT.sub(
            lambda it: "%" if it[0] == "%%" else _printed(it[0], next(values, "?")),
            help_text,
        )
    return default_in(help_text)


def default_in(help_text: str) -> str:
    """The default that a help text names; empty where it names none."""
    found = _DEFAULT.search(help_text)
    if found is None:
        return ""
    said, depth = "", 0
    for sign in found[1]:
        depth += (sign == "(") - (sign == ")")
        if depth < 0 or (sign in ",;" and not depth):
            break
        said += sign
    said = said.strip()
    if len(said) > 1 and said[0] == said[-1] and said[0] in "'\"":
        said = said[1:-1]
    return "" if "?" in said else said


def _printed(conversion: str, value: str) -> str:
    """A value as ``printf`` writes it; `?` where it is not known."""
    number = {"true": "1", "false": "0"}.get(value, value)
    try:
        match conversion[-1]:
            case "s":
                return value
            case "f" | "g" | "e":
                return f"%{conversion.strip('%').replace('l', '')}" % float(number)
            case _:
                return str(int(number))
    except ValueError:
        return "?"


def _value(expression: str, source: Source) -> str:
    """Return the kind of an argument of the help text; `?` where that is not plain."""
    bare = re.sub(r"\((?:double|float|int|unsigned|size_t)\)\s*", "", expression)
    bare = bare.removesuffix(".c_str()").strip()
    bare = re.sub(r"^ggml_type_name\((.*)\)$", r"\1", bare)
    if ternary := re.fullmatch(r"(.+?)\s*\?\s*(.+?)\s*:\s*(.+)", bare, re.DOTALL):
        return _chosen(ternary[1], ternary[2], ternary[3], source)
    if text := re.fullmatch(r'"((?:[^"\\]|\\.)*)"', bare):
        return text[1]
    if not (member := re.fullmatch(r"params\.([\w.]+)", bare)):
        return "?"
    found = source.initial(member[1])
    if type_name := re.fullmatch(r"GGML_TYPE_(\w+)", found):
        return type_name[1].lower()
    if re.fullmatch(r"-?[\d.]+f?", found):
        return found.removesuffix("f")
    return found.strip('"') if re.fullmatch(r'"[^"]*"|true|false', found) else "?"


def _chosen(condition: str, yes: str, no: str, source: Source) -> str:
    """The side of a condition that the initial values lead to."""
    compared = re.fullmatch(r"params\.([\w.]+)(?:\s*(==|<|>)\s*(-?[\w]+))?", condition)
    if compared is None:
        return "?"
    found = source.initial(compared[1])
    match compared[2]:
        case None if found in ("true", "false"):
            holds = found == "true"
        case "==" if found:
            holds = found == compared[3]
        case ("<" | ">") as sign if re.fullmatch(r"-?\d+", found):
            limit = int(compared[3])
            holds = int(found) < limit if sign == "<" else int(found) > limit
        case _:
            return "?"
    return _value(yes if holds else no, source)
