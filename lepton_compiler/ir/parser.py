"""Reading the text form of graphs; `text` has the grammar by example."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from lepton_compiler.errors import InferenceError, LeptonError, ParseError
from lepton_compiler.ir.dim import parse_dim
from lepton_compiler.ir.graph import Graph, Loc, Node, Value
from lepton_compiler.ir.op import Op, registry
from lepton_compiler.ir.tensor import Tensor
from lepton_compiler.ir.types import DTYPES, TensorType, tensor_type
from lepton_compiler.ir.verify import compatible

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r]+|\#[^\n]*)
      | (?P<line>\n)
      | (?P<name>[%@](?:[\w./]+|"(?:[^"\\\n]|\\.)*"))
      | (?P<string>"(?:[^"\\\n]|\\.)*")
      | (?P<dim>`[^`\n]*`)
      | (?P<number>[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|inf\b|nan\b))
      | (?P<type>[a-z]\w*\[[^\]\n]*\])
      | (?P<word>[A-Za-z_]\w*)
      | (?P<mark>[(){},:=])""",
    re.VERBOSE,
)


def parse_graph(text: str, weights: Mapping[str, Any] | None = None, source: str = "") -> Graph:
    """The graph that `text` describes.

    Args:
        text: what `print_graph` prints; `#` starts a comment.
        weights: hash to tensor, or to its bytes as uint8, for the constants that are not inline.
        source: name of the text in diagnostics.

    Raises:
        ParseError: the text is not a graph; `where` gives the line.
    """
    parser = _Parser(text, weights if weights is not None else {}, source)
    graph = parser.graph()
    parser.expect("end")
    return graph


class _Parser:
    """Recursive descent over the tokens `(kind, text, line)`."""

    def __init__(self, text: str, weights: Mapping[str, Any], source: str) -> None:
        self.weights, self.source = weights, source
        self.tokens, self.at, self.line = list[tuple[str, str, int]](), 0, 1
        position = 0
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                self.fail(f"unexpected character {text[position]!r}", self.line)
            kind = str(match.lastgroup)
            if kind == "line":
                self.line += 1
            elif kind != "space":
                self.tokens.append((kind, match.group(), self.line))
            position = match.end()
        self.tokens.append(("end", "the end of the text", self.line))

    # -- tokens

    def fail(self, message: str, line: int | None = None, hint: str = "") -> NoReturn:
        line = line if line is not None else self.tokens[self.at][2]
        raise ParseError(message, where=f"{self.source}:{line}" if self.source else f"line {line}", hint=hint)

    def peek(self, *texts: str) -> bool:
        kind, text, _ = self.tokens[self.at]
        return text in texts and kind in ("word", "mark", "number")

    def accept(self, text: str) -> bool:
        found = self.peek(text)
        self.at += found
        return found

    def expect(self, wanted: str) -> str:
        """The next token, which is of this kind or is this word or mark."""
        kind, text, _ = self.tokens[self.at]
        if kind != wanted and not self.peek(wanted):
            self.fail(f"expected {wanted if wanted.isalpha() else repr(wanted)}, found '{text}'")
        self.at += 1
        return text

    def name(self, prefix: str) -> str:
        text = self.expect("name")
        if text[0] != prefix:
            self.at -= 1
            self.fail(f"expected a name with '{prefix}', found '{text}'")
        return str(json.loads(text[1:])) if text[1] == '"' else text[1:]

    # -- graphs

    def graph(self) -> Graph:
        self.expect("graph")
        graph, known = Graph(self.name("@")), dict[str, Value]()
        self.expect("(")
        while not self.accept(")"):
            name = self.fresh(known)
            self.expect(":")
            known[name] = graph.add_input(name, self.type())
            if not self.peek(")"):
                self.expect(",")
        self.expect("{")
        while not self.peek("return"):
            self.statement(graph, known)
        self.expect("return")
        outputs = []
        while not self.peek("}"):
            outputs.append(self.value(known))
            self.accept(",")
        self.expect("}")
        graph.set_outputs(outputs)
        return graph

    def fresh(self, known: Collection[str]) -> str:
        name = self.name("%")
        if name in known:
            self.at -= 1
            self.fail(f"'%{name}' is defined twice")
        return name

    def value(self, known: Mapping[str, Value]) -> Value:
        name = self.name("%")
        if name not in known:
            self.at -= 1
            self.fail(f"'%{name}' is not defined here")
        return known[name]

    def type(self) -> TensorType:
        try:
            return tensor_type(self.expect("type"))
        except ParseError:
            raise
        except LeptonError as error:
            self.at -= 1
            self.fail(str(error))

    def statement(self, graph: Graph, known: dict[str, Value]) -> None:
        line, names = self.tokens[self.at][2], list[str]()
        while not self.accept("="):
            names.append(self.fresh({*names, *known} if names else known))
            if not self.peek("="):
                self.expect(",")
        if self.accept("const"):
            known[names[0]] = graph.constant(self.constant(), names[0])
            return
        op = self.op()
        operands = self.operands(known)
        types, loc, regions = [], Loc(), []
        if self.accept(":"):
            types.append(self.type())
            while self.accept(","):
                types.append(self.type())
        if self.accept("loc"):
            loc = self.loc()
        while self.peek("graph"):
            regions.append(self.graph())
        try:
            node = graph.add(op, operands, names=names, regions=regions, loc=loc)
        except InferenceError as error:
            self.fail(str(error), line)
        self.declare(node, names, types, line)
        known.update(zip(names, node.outputs, strict=True))

    def declare(self, node: Node, names: Sequence[str], types: Sequence[TensorType], line: int) -> None:
        """Give the outputs their written types, which must not contradict the inferred ones."""
        if len(names) != len(node.outputs):
            self.fail(f"{node.op.name} has {len(node.outputs)} outputs, not {len(names)}", line)
        for output, type in zip(node.outputs, types or [o.type for o in node.outputs], strict=len(types) == len(node.outputs)):
            if not compatible(output.type, type):
                self.fail(f"'%{output.name}' is {output.type}, not {type}", line)
            output.type = type

    def operands(self, known: Mapping[str, Value]) -> list[Value | None]:
        found: list[Value | None] = []
        self.expect("(")
        while not self.accept(")"):
            found.append(None if self.accept("none") else self.value(known))
            if not self.peek(")"):
                self.expect(",")
        return found

    def loc(self) -> Loc:
        names: tuple[list[str], list[str]] = ([], [])
        self.expect("(")
        part = 0
        while not self.accept(")"):
            if self.accept("by"):
                part = 1
            names[part].append(json.loads(self.expect("string")))
            self.accept(",")
        return Loc(tuple(names[0]), tuple(names[1]))

    # -- attributes and constants

    def op(self) -> Op:
        name = self.expect("word")
        line = self.tokens[self.at - 1][2]
        attributes: dict[str, Any] = {}
        self.expect("(")
        while not self.accept(")"):
            key = self.expect("word")
            self.expect("=")
            attributes[key] = self.attribute()
            if not self.peek(")"):
                self.expect(",")
        try:
            op: Op = registry.get(name)(**attributes)
        except (LeptonError, TypeError) as error:
            self.fail(str(error), line)
        return op

    def attribute(self) -> Any:
        kind, text, _ = self.tokens[self.at]
        following = self.tokens[self.at + 1][1] if kind != "end" else ""
        if kind == "word" and following == "(":
            return self.op()
        self.at += 1
        if text == "(" and kind == "mark":
            items = []
            while not self.accept(")"):
                items.append(self.attribute())
                if not self.peek(")"):
                    self.expect(",")
            return tuple(items)
        if kind == "number":
            return int(text) if text.lstrip("+-").isdigit() else float(text)
        if kind == "string":
            return json.loads(text)
        if kind == "dim":
            return parse_dim(text[1:-1])
        if kind != "word" or text not in _WORDS:
            self.at -= 1
            self.fail(f"'{text}' is not an attribute value")
        return _WORDS[text]

    def constant(self) -> Tensor:
        line, type = self.tokens[self.at][2], self.type()
        if self.tokens[self.at][0] == "name":
            return self.stored(type)
        items = self.attribute()
        if not isinstance(items, tuple) or len(items) != type.size:
            self.fail(f"{type} needs {type.size} values between parentheses", line)
        return Tensor(_array(items, type))

    def stored(self, type: TensorType) -> Tensor:
        line, key = self.tokens[self.at][2], self.name("@")
        if key not in self.weights:
            self.fail(f"no weights '@{key}'", line, "the file NAME.lir.npz must lie beside NAME.lir")
        found = self.weights[key]
        if not isinstance(found, Tensor):
            raw = np.asarray(found)
            if raw.dtype != np.uint8 or raw.nbytes != type.size * type.dtype.numpy.itemsize:
                self.fail(f"weights '@{key}' are not a {type}", line)
            found = Tensor(raw.view(type.dtype.numpy).reshape(type.static_shape))
        if not found.digest.startswith(key):
            self.fail(f"weights '@{key}' are damaged: their hash is {found.digest[: len(key)]}", line)
        return found


_WORDS: dict[str, Any] = {"True": True, "False": False, "None": None, **DTYPES}


def _array(items: Sequence[Any], type: TensorType) -> np.ndarray:
    if type.dtype.kind == "complex":
        items = [complex(*item) for item in items]
    elif type.dtype.kind == "float" and type.dtype.bits < 32:
        return np.asarray(items, np.float32).astype(type.dtype.numpy).reshape(type.static_shape)
    elif type.dtype.is_integer and type.dtype.bits < 8:
        return np.asarray(items, np.int8).astype(type.dtype.numpy).reshape(type.static_shape)
    return np.asarray(items, type.dtype.numpy).reshape(type.static_shape)
