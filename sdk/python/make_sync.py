"""Writes the blocking client from the asynchronous one: ``make sync-client``.

Each public class becomes one of the same name in ``perdure_client/sync``, with the same methods,
types and docstrings, which carries out everything on an event loop in a thread. What a class shows
is taken from its source: its public methods and properties, and the attributes that ``__init__``
sets, whose types must be told from there.
"""

import ast
import builtins
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent / "perdure_client"
# The class of each module, and what of it is for the client's own use.
CLASSES = {
    "writer": "Writer",
    "documents": "Document",
    "session": "Session",
    "turns": "Turn",
    "agents": "Agent",
    "admin": "Admin",
    "client": "Client",
}
INSIDE = {"Client.regions", "Document.live", "Turn.heard", "Writer.stop"}
HOME = {name: module for module, name in CLASSES.items()}
HEAD = '''"""{promise} Made by ``make sync-client``: change
``perdure_client/{module}.py`` instead."""

'''
PROMISES = {
    "writer": "The writer of one streaming message, for threads.",
    "documents": "A shared document, for threads.",
    "session": "A session, for threads.",
    "turns": "One turn of an agent, for threads.",
    "agents": "An agent's worker, for threads.",
    "admin": "What operators ask of regions, for threads.",
    "client": "The client, for threads.",
}
# Words of asynchronous programs, and what a blocking one says.
WORDS = [(r"\bawait ", ""), (r"\basync with\b", "with"), (r"\baclose\b", "close")]
WORK = '''
def work(
    self,
    handler: Callable[[Turn], object],
    *,
    concurrency: int = CONCURRENCY,
    on_error: Callable[[Turn, Exception], object] | None = None,
) -> None:
    """{doc}
The handler runs in a thread, which nothing can stop: where it would be cancelled,
whatever it does with the turn raises. ``on_error`` cannot ask anything of the client.
    """
    portal = self._portal

    def handled(turn: asynchronous_turns.Turn) -> object:
        return handler(Turn(portal, turn))

    def failed(turn: asynchronous_turns.Turn, error: Exception) -> None:
        if on_error is not None:
            on_error(Turn(portal, turn), error)

    told = None if on_error is None else failed
    portal.call(working(self._it, handled, concurrency, told))
'''
CLOSE = '''def close(self) -> None:
    """{doc}"""
    self._portal.close(self._it.aclose)'''
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Twin:
    """The blocking module of one asynchronous one."""

    def __init__(self, module: str) -> None:
        self.module = module
        self.name = CLASSES[module]
        self.tree = ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
        (self.class_,) = (
            node
            for node in self.tree.body
            if isinstance(node, ast.ClassDef) and node.name == self.name
        )
        # The names that the text needs, beside what every module has.
        self.used: set[str] = set()

    def text(self) -> str:
        """The whole module, not formatted yet."""
        body = "\n\n".join(indented(part) for part in self._parts())
        docstring = f'"""{spoken(self.class_)}"""'
        class_ = f"class {self.name}:\n{indented(docstring)}\n\n{body}\n"
        head = HEAD.format(promise=PROMISES[self.module], module=self.module)
        return f"{head}{self._imports()}\n\n\n{class_}"

    def _imports(self) -> str:
        lines = [
            f"from perdure_client import {self.module} as asynchronous",
            "from perdure_client.sync.portal import Iteration, Portal",
            "from perdure_client import turns as asynchronous_turns",
            "from perdure_client.sync.working import working",
        ]
        known = {}
        for node in self.tree.body:
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    known[alias.name] = f"from {node.module} import {alias.name}"
            elif isinstance(node, ast.Import):
                known |= {alias.name: f"import {alias.name}" for alias in node.names}
        for name in sorted(self.used - {self.name, "Iteration"}):
            if name in HOME:
                lines.append(f"from perdure_client.sync.{HOME[name]} import {name}")
            elif name in known:
                lines.append(known[name])
            elif not hasattr(builtins, name):
                lines.append(f"from perdure_client.{self.module} import {name}")
        return "\n".join(lines)

    def _parts(self) -> Iterator[str]:
        (made,) = (node for node in functions(self.class_) if node.name == "__init__")
        yield self._init(made)
        yield from self._attributes(made)
        for node in functions(self.class_):
            name = node.name
            if f"{self.name}.{name}" in INSIDE:
                continue
            if (self.name, name) == ("Agent", "work"):
                self.used |= {"Callable", "CONCURRENCY", "Turn"}
                yield WORK.format(doc=spoken(node)).strip()
            elif (self.name, name) == ("Client", "aclose"):
                yield CLOSE.format(doc=spoken(node))
            elif name == "__aenter__":
                yield f'def __enter__(self) -> "{self.name}":\n    return self'
            elif name == "__aexit__" and self.name == "Client":
                yield "def __exit__(self, *_: object) -> None:\n    self.close()"
            elif name == "__aexit__" or not name.startswith("_"):
                yield self._method(node)

    def _init(self, made: Function) -> str:
        if self.name != "Client":
            it = f"asynchronous.{self.name}"
            return (
                f"def __init__(self, portal: Portal, it: {it}) -> None:\n"
                "    self._portal = portal\n    self._it = it"
            )
        return (
            f"def __init__({self._signature(made)}) -> None:\n"
            f"    self._it = asynchronous.Client({passed(made)})\n    self._portal = Portal()"
        )

    def _attributes(self, made: Function) -> Iterator[str]:
        """What ``__init__`` sets for everybody, as properties."""
        parameters = {arg.arg: arg.annotation for arg in [*made.args.args, *made.args.kwonlyargs]}
        for statement in made.body:
            if not isinstance(statement, ast.Assign | ast.AnnAssign):
                continue
            is_annotated = isinstance(statement, ast.AnnAssign)
            targets = [statement.target] if is_annotated else statement.targets
            for target in targets:
                if not isinstance(target, ast.Attribute) or target.attr.startswith("_"):
                    continue
                if f"{self.name}.{target.attr}" in INSIDE:
                    continue
                told = statement.annotation if is_annotated else typed(statement.value, parameters)
                given = self._type(told)
                value = self._wrapped(given, f"self._it.{target.attr}")
                yield (
                    f"@property\ndef {target.attr}(self) -> {given}:\n"
                    f'    """As the class says."""\n    return {value}'
                )

    def _method(self, node: Function) -> str:
        name = {"aclose": "close", "__aexit__": "__exit__"}.get(node.name, node.name)
        assert node.returns is not None
        called = f"self._it.{node.name}"
        lines = []
        decorators = [ast.unparse(each) for each in node.decorator_list]
        given = ast.unparse(node.returns)
        if "property" in decorators:
            returns = self._type(node.returns)
            body = f"return {self._wrapped(returns, called)}"
        else:
            called += f"({passed(node)})"
            streamed = re.fullmatch(r"AsyncGenerator\[(.*), None\]", given)
            if streamed:
                each = self._type(ast.parse(streamed[1], mode="eval").body)
                self.used.add("Iteration")
                returns = f"Iteration[{each}]"
                made = f"lambda it: {self._wrapped(each, 'it')}"
                body = f"return Iteration(self._portal, {called}, {made})"
            elif given == "Opening":
                returns = "Writer"
                self.used.add("Writer")
                body = f"return Writer(self._portal, self._portal.call({called}.made()))"
            else:
                returns = self._type(node.returns)
                if isinstance(node, ast.AsyncFunctionDef):
                    called = f"self._portal.call({called})"
                body = self._wrapped(returns, called)
                body = body if returns == "None" else f"return {body}"
        lines += [f"@{each}" for each in decorators]
        lines.append(f"def {name}({self._signature(node)}) -> {returns}:")
        if ast.get_docstring(node):
            lines.append(indented(f'"""{spoken(node)}"""'))
        return "\n".join([*lines, f"    {body}"])

    def _signature(self, node: Function) -> str:
        for each in ast.walk(node.args):
            if isinstance(each, ast.Name):
                self.used.add(each.id)
        return ast.unparse(node.args)

    def _type(self, annotation: ast.expr) -> str:
        for each in ast.walk(annotation):
            if isinstance(each, ast.Name):
                self.used.add(each.id)
        return ast.unparse(annotation).strip("'")

    def _wrapped(self, type_: str, value: str) -> str:
        return f"{type_}(self._portal, {value})" if type_ in HOME else value


def functions(class_: ast.ClassDef) -> Iterator[Function]:
    """The methods of a class, as they come."""
    for node in class_.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def typed(value: ast.expr, parameters: dict[str, ast.expr | None]) -> ast.expr:
    """The type of what an attribute is set to, where it can be told."""
    if isinstance(value, ast.Name) and parameters.get(value.id) is not None:
        annotation = parameters[value.id]
        assert annotation is not None
        return annotation
    if isinstance(value, ast.Call) and ast.unparse(value.func) in ("int", "str"):
        return value.func
    if isinstance(value, ast.Constant) and value.value is not None:
        return ast.Name(type(value.value).__name__)
    raise SystemExit(f"line {value.lineno}: give {ast.unparse(value)} a type")


def passed(node: Function) -> str:
    """The arguments of a call that hands on what was given."""
    args = node.args
    parts = [arg.arg for arg in args.args if arg.arg != "self"]
    parts += [f"*{args.vararg.arg}"] if args.vararg else []
    parts += [f"{arg.arg}={arg.arg}" for arg in args.kwonlyargs]
    parts += [f"**{args.kwarg.arg}"] if args.kwarg else []
    return ", ".join(parts)


def spoken(node: ast.ClassDef | Function) -> str:
    """A docstring, in the words of a blocking program."""
    text = ast.get_docstring(node) or ""
    for pattern, word in WORDS:
        text = re.sub(pattern, word, text)
    return f"{text}\n" if "\n\n" in text else text


def indented(text: str) -> str:
    """One level deeper."""
    return "\n".join(f"    {line}".rstrip() for line in text.split("\n"))


def formatted(text: str) -> str:
    """In the one format, without imports that nothing needs."""
    # Whether or not its modules are there yet.
    known = 'lint.isort.known-first-party=["perdure_client"]'
    check = ["check", "--fix", "--quiet", "--select", "I,F401", "--config", known]
    for command in (check, ["format", "--quiet"]):
        name = str(PACKAGE / "sync" / "made.py")
        # S603: ruff, of this very environment
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-m", "ruff", *command, "--stdin-filename", name, "-"],
            input=text,
            capture_output=True,
            text=True,
            check=True,
        )
        text = done.stdout
    return text


def made() -> dict[Path, str]:
    """Every module of the blocking client that is made, and its text."""
    return {PACKAGE / "sync" / f"{name}.py": formatted(Twin(name).text()) for name in CLASSES}


if __name__ == "__main__":
    for path, text in made().items():
        path.write_text(text, encoding="utf-8")
