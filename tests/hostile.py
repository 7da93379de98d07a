"""Pickles nobody should open: each asks for a call, an import or an attribute, or lies about its content.

`CASES` is a list of (name, bytes). A payload that ran would create the file `CANARY` in the working
directory, import the module `CANARY_MODULE`, crash the process or eat its memory.
"""

from __future__ import annotations

import struct

CANARY = "canary-was-here"
CANARY_MODULE = "antigravity"

_COMMAND = f"touch {CANARY}"
_CODE = f"open({CANARY!r}, 'w').close()"

CASES: list[tuple[str, bytes]] = []


def _case(name: str, *parts: bytes) -> None:
    CASES.append((name, b"".join(parts)))


# ---- a small assembler -----------------------------------------------------------------------------------


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def line(value: str) -> bytes:
    return b"V" + value.encode() + b"\n"


def blob(value: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(value)) + value


def integer(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def name(module: str, attribute: str, protocol: int = 3) -> bytes:
    if protocol >= 4:
        return text(module) + text(attribute) + b"\x93"
    return f"c{module}\n{attribute}\n".encode()


def proto(protocol: int) -> bytes:
    return b"" if protocol < 2 else b"\x80" + bytes([protocol])


def tuple_of(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def call(module: str, attribute: str, *args: bytes, protocol: int = 3) -> bytes:
    return name(module, attribute, protocol) + tuple_of(*args) + b"R"


def dtype(code: str = "u1", order: str = "|", state: bytes | None = None) -> bytes:
    if state is None:
        state = tuple_of(integer(3), text(order), b"NNN", integer(-1), integer(-1), integer(0))
    return call("numpy", "dtype", text(code), b"\x89\x88") + state + b"b"


def pending() -> bytes:
    head = name("numpy.core.multiarray", "_reconstruct")
    return head + tuple_of(name("numpy", "ndarray"), b"K\x00\x85", b"C\x01b") + b"R"


def array(shape: bytes, kind: bytes, data: bytes, fortran: bytes = b"\x89", version: bytes = b"K\x01") -> bytes:
    return pending() + tuple_of(version, shape, kind, fortran, data) + b"b"


def frombuffer(*args: bytes) -> bytes:
    return call("numpy._core.numeric", "_frombuffer", *args)


def step(value: bytes) -> bytes:
    """A trajectory of one good step and one that holds ``value``."""
    good = b"}(" + text("step_iter") + b"K\x01" + text("reward") + b"K\x00u"
    return proto(3) + b"](" + good + b"}(" + text("info") + value + text("step_iter") + b"K\x02ue."


# ---- calls of what can run code --------------------------------------------------------------------------

_CALLS = {
    "os.system": ("os", "system", text(_COMMAND)),
    "posix.system": ("posix", "system", text(_COMMAND)),
    "subprocess.call": ("subprocess", "call", b"](" + text("touch") + text(CANARY) + b"e"),
    "builtins.eval": ("builtins", "eval", text(_CODE)),
    "builtins.exec": ("builtins", "exec", text(_CODE)),
    "__builtin__.eval": ("__builtin__", "eval", text(_CODE)),
    "builtins.__import__": ("builtins", "__import__", text(CANARY_MODULE)),
    "importlib.import_module": ("importlib", "import_module", text(CANARY_MODULE)),
    "builtins.open": ("builtins", "open", text(CANARY) + text("w")),
    "builtins.getattr": ("builtins", "getattr", name("os", "path") + text("join")),
    "builtins.compile": ("builtins", "compile", text(_CODE) + text("x") + text("exec")),
    "operator.attrgetter": ("operator", "attrgetter", text("__class__")),
    "functools.partial": ("functools", "partial", name("os", "system")),
    "codecs.decode": ("_codecs", "decode", text("x") + text("rot13")),
    "numpy.load": ("numpy", "load", text(CANARY)),
    "numpy.memmap": ("numpy", "memmap", text(CANARY)),
    "numpy.testing exec": ("numpy.testing._private.utils", "runstring", text(_CODE)),
    "copyreg._reconstructor": ("copyreg", "_reconstructor", name("builtins", "object") + b"N"),
    "types.CodeType": ("types", "CodeType", b"K\x00"),
    "webbrowser.open": ("webbrowser", "open", text("http://127.0.0.1/")),
    "symbol twice dotted": ("numpy", "ndarray.__class__", text("x")),
    "empty names": ("", "", b""),
}
for _name, (_module, _attribute, _args) in _CALLS.items():
    for _protocol in (0, 2, 4):
        _whole = call(_module, _attribute, _args, protocol=_protocol)
        _case(f"{_name} at protocol {_protocol}", proto(_protocol), _whole, b".")
    _case(f"{_name} in a step", step(call(_module, _attribute, _args)))

for _protocol in (0, 1, 2, 3, 4, 5):
    _case(f"GLOBAL alone, {_protocol}", proto(_protocol), b"cos\nsystem\n.")
    _case(f"STACK_GLOBAL, {_protocol}", proto(_protocol), text("os"), text("system"), b"\x93.")
    _case(f"INST, {_protocol}", proto(_protocol), b"(", line(_COMMAND), b"ios\nsystem\n.")
    _case(f"OBJ, {_protocol}", proto(_protocol), b"(cos\nsystem\n", line(_COMMAND), b"o.")
    _case(f"PERSID, {_protocol}", proto(_protocol), b"P123\n.")
    _case(f"BINPERSID, {_protocol}", proto(_protocol), text("id"), b"Q.")
    for _code in (b"\x82\x01", b"\x83\x01\x00", b"\x84\x01\x00\x00\x00"):
        _case(f"EXT {_code!r}, {_protocol}", proto(_protocol), _code, b".")
    _case(f"NEWOBJ, {_protocol}", proto(_protocol), name("numpy", "ndarray"), b")\x81.")
    _case(f"NEWOBJ_EX, {_protocol}", proto(_protocol), name("numpy", "ndarray"), b")}\x92.")
    _case(f"NEXT_BUFFER, {_protocol}", proto(_protocol), b"\x97.")
    _case(f"READONLY_BUFFER, {_protocol}", proto(_protocol), b"K\x01\x98.")

_ATTRIBUTES = b"}" + text("__class__") + b"K\x01s"
_case("INST of a known name", b"(icollections\nOrderedDict\n.")
_case("OBJ of a known name", b"(ccollections\nOrderedDict\no.")
_case("NEWOBJ of a known name", name("collections", "OrderedDict"), b")\x81.")
_case("NEWOBJ of object", name("builtins", "object"), b")\x81.")
_case("REDUCE of a str", text("os.system"), b")R.")
_case("REDUCE of a dict", b"})R.")
_case("REDUCE without a tuple", name("collections", "OrderedDict"), b"]R.")
_case("REDUCE of ndarray", name("numpy", "ndarray"), b"K\x01\x85R.")
_case("STACK_GLOBAL of numbers", b"K\x01K\x02\x93.")
_case("STACK_GLOBAL of a list", b"]]\x93.")
_case("BUILD on a name", name("numpy", "dtype"), _ATTRIBUTES, b"b.")
_case("BUILD on a function's name", name("numpy.core.multiarray", "scalar"), _ATTRIBUTES, b"b.")
_case("BUILD on a dict", b"}", _ATTRIBUTES, b"b.")
_case("BUILD on an OrderedDict", name("collections", "OrderedDict"), b")R", _ATTRIBUTES, b"b.")
_case("BUILD on an array that is whole", array(b"K\x01\x85", dtype(), blob(b"x")), _ATTRIBUTES, b"b.")
_case("BUILD with a __setstate__", b"}", _ATTRIBUTES, text("x"), b"b.")
_case("a name as a value", b"]", name("numpy", "ndarray"), b"a.")
_case("a name as the whole", name("numpy", "ndarray"), b".")
_case("a name in a tuple in a dict", b"}", text("k"), name("numpy", "dtype"), b"\x85s.")
_case("a name as a key", b"}", name("numpy", "dtype"), b"Ns.")
_case("a dtype as a value", dtype(), b".")
_case("OrderedDict with arguments", call("collections", "OrderedDict", b"]"), b".")
_case("encode with rot13", call("_codecs", "encode", text("x"), text("rot13")), b".")
_case("encode of bytes", call("_codecs", "encode", b"C\x01x", text("latin1")), b".")
_case("bytes of a number", call("builtins", "bytes", integer(2**40)), b".")
_case("bytearray of a number", call("builtins", "bytearray", integer(2**40)), b".")
_case("set of a name", call("builtins", "set", name("numpy", "ndarray")), b".")
_case("datetime with a zone", call("datetime", "datetime", b"C\x0a" + bytes(10), call("os", "x")), b".")
_case("datetime of month 0", call("datetime", "datetime", b"C\x0a\x07\xe5\x00\x01" + bytes(6)), b".")
_case("datetime of day 99", call("datetime", "datetime", b"C\x0a\x07\xe5\x01\x63" + bytes(6)), b".")
_case("date cut short", call("datetime", "date", b"C\x03\x07\xe5\x01"), b".")
_case("timedelta too long", call("datetime", "timedelta", integer(10**10), b"K\x00K\x00"), b".")
_case("timedelta of text", call("datetime", "timedelta", text("1"), b"K\x00K\x00"), b".")

# ---- arrays that lie -------------------------------------------------------------------------------------

_U1, _I8 = dtype("u1"), dtype("i8", "<")
_BYTES = blob(b"12345678")
_SHAPES = {
    "too short": b"K\x63\x85",
    "too long": b"K\x01\x85",
    "negative": integer(-8) + b"\x85",
    "two negatives": integer(-2) + integer(-4) + b"\x86",
    "huge": integer(2**62) + b"\x85",
    "wrapping around": integer(2**32) + integer(2**32) + b"\x86",
    "wrapping around to 8": integer(2**61 + 1) + b"K\x08\x86",
    "huge with zero": integer(2**62) + b"K\x00\x86",
    "a bool": b"K\x08\x88\x86",
    "a float": b"G" + struct.pack(">d", 8.0) + b"\x85",
    "a list": b"](K\x08e",
    "nested": b"K\x08\x85\x85",
    "of 40 dimensions": b"(" + b"K\x01" * 39 + b"K\x08t",
    "none": b"N",
}
for _name, _shape in _SHAPES.items():
    _case(f"array whose shape is {_name}", array(_shape, _U1, _BYTES), b".")
    _case(f"_frombuffer whose shape is {_name}", frombuffer(_BYTES, _U1, _shape, text("C")), b".")
    _case(f"array whose shape is {_name}, in a step", step(array(_shape, _U1, _BYTES)))

_ONE = b"K\x01\x85"


def _dtype_state(*items: bytes) -> bytes:
    return tuple_of(*items)


_DTYPES = {
    "object": dtype("O8"),
    "object, short": dtype("O"),
    "void": dtype("V8"),
    "datetime": dtype("M8", "<"),
    "long double": dtype("f16", "<"),
    "S without end": dtype("S99999999999"),
    "struct": call("numpy", "dtype", b"](" + text("a") + text("i8") + b"\x86e", b"\x89\x88"),
    "fields text": dtype("i4,i4"),
    "itemsize 0": dtype("S0", state=_dtype_state(b"K\x03", text("|"), b"NNN", b"K\x00K\x01K\x00")),
    "S of 1 called 8": dtype("S1", state=_dtype_state(b"K\x03", text("|"), b"NNN", b"K\x08K\x01K\x00")),
    "i8 called 1": dtype("i8", state=_dtype_state(b"K\x03", text("<"), b"NNN", b"K\x01K\x01K\x00")),
    "flags of objects": dtype("i8", state=_dtype_state(b"K\x03", text("<"), b"NNN", integer(-1) * 2, b"K\x3f")),
    "subdtype": dtype("i8", state=_dtype_state(b"K\x03", text("<"), _I8, b"NN", integer(-1) * 2, b"K\x00")),
    "names": dtype("V8", state=_dtype_state(b"K\x03", text("|"), b"N", text("a") + b"\x85", b"}", b"K\x08K\x01K\x00")),
    "order '?'": dtype("i8", "?"),
    "order of another kind": dtype("i8", state=_dtype_state(b"K\x03K\x3cNNN", integer(-1) * 2, b"K\x00")),
    "version 99": dtype("i8", state=_dtype_state(b"K\x63", text("<"), b"NNN", integer(-1) * 2, b"K\x00")),
    "short state": dtype("i8", state=_dtype_state(b"K\x03")),
    "state not a tuple": dtype("i8", state=b"]"),
    "no state": call("numpy", "dtype", text("i8"), b"\x89\x88"),
    "two states": dtype("i8") + tuple_of(b"K\x03", text(">"), b"NNN", integer(-1) * 2, b"K\x00") + b"b",
    "aligned": call("numpy", "dtype", text("i8"), b"\x88\x88"),
    "code of bytes": call("numpy", "dtype", b"C\x02i8", b"\x89\x88"),
    "a name": name("numpy", "dtype"),
    "text": text("i8"),
}
for _name, _kind in _DTYPES.items():
    _case(f"array whose dtype is {_name}", array(_ONE, _kind, _BYTES), b".")
    _case(f"scalar whose dtype is {_name}", call("numpy.core.multiarray", "scalar", _kind, _BYTES), b".")

_case("array without a state", pending(), b".")
_case("array without a state in a list", b"]", pending(), b"a.")
_case("array of a short state", pending(), b"K\x01\x85b.")
_case("array of a dict state", pending(), _ATTRIBUTES, b"b.")
_case("array of version 9", array(b"K\x08\x85", _U1, _BYTES, version=b"K\x09"), b".")
_case("array of text", array(b"K\x08\x85", _U1, text("12345678")), b".")
_case("array of a list", array(b"K\x02\x85", _U1, b"](K\x01K\x02e"), b".")
_case("array whose order is text", array(b"K\x08\x85", _U1, _BYTES, fortran=text("F")), b".")
_case("array whose order is an array", array(b"K\x08\x85", _U1, _BYTES, fortran=array(_ONE, _I8, _BYTES)), b".")
_case("array with two states", array(b"K\x08\x85", _U1, _BYTES), tuple_of(b"K\x01", _ONE), b"b.")
_case("array inside its own state", pending(), b"q\x01", tuple_of(b"K\x01", _ONE, _U1, b"\x89h\x01"), b"b.")
_case("array of bool that is not", array(b"K\x08\x85", dtype("b1"), _BYTES), b".")
_U_STATE = tuple_of(b"K\x03", text("<"), b"NNN", b"K\x04K\x04K\x08")
_case("array of impossible letters", array(_ONE, dtype("U1", state=_U_STATE), blob(b"\xff" * 4)), b".")
_case("subclass of array", name("numpy.core.multiarray", "_reconstruct"), name("numpy", "matrix"), b".")
_case(
    "_reconstruct of a dtype",
    call("numpy.core.multiarray", "_reconstruct", name("numpy", "dtype"), b"K\x00\x85", b"C\x01b"),
    b".",
)
_case(
    "_reconstruct of a shape",
    call("numpy.core.multiarray", "_reconstruct", name("numpy", "ndarray"), b"K\x63\x85", b"C\x01b"),
    b".",
)
_case("scalar too long", call("numpy.core.multiarray", "scalar", _I8, blob(b"123456789")), b".")
_case("scalar too short", call("numpy.core.multiarray", "scalar", _I8, blob(b"1")), b".")
_case("scalar of text", call("numpy.core.multiarray", "scalar", _I8, text("12345678")), b".")
_case("scalar of nothing", call("numpy.core.multiarray", "scalar", _I8), b".")
_case("_frombuffer of order K", frombuffer(_BYTES, _U1, b"K\x08\x85", text("K")), b".")
_case("_frombuffer of wrong axes", frombuffer(_BYTES, _U1, b"K\x08\x85", text("K"), b"K\x05\x85"), b".")
_case("_frombuffer of text", frombuffer(text("12345678"), _U1, b"K\x08\x85", text("C")), b".")

# ---- bombs -----------------------------------------------------------------------------------------------

_case("memo at 2^28, without value", b"r\x00\x00\x00\x10.")
_case("memo at 2^28, with garbage behind", b"Nr\x00\x00\x00\x10.N")
_case("memo at 10^19", b"Np" + b"9" * 30 + b"\n.")
_case("memo at -1", b"Np-1\n.")
_case("memo at x", b"Npx\n.")
_case("GET of nothing", b"h\x05.")
for _code, _width in (
    (b"X", 4),
    (b"B", 4),
    (b"T", 4),
    (b"\x8d", 8),
    (b"\x8e", 8),
    (b"\x96", 8),
    (b"\x8b", 4),
):
    _case(f"{_code!r} of 2 GB", proto(4), _code, (2**31 - 1).to_bytes(_width, "little"), b"x.")
    _case(f"{_code!r} of length -1", proto(4), _code, b"\xff" * _width, b"x.")
_case("frame of 2^62", proto(4), b"\x95" + (2**62).to_bytes(8, "little"))
_case("marks", b"(" * 100_000)
_case("marks under lists", b"](" * 100_000)
_case("int of a million digits", b"I" + b"9" * 1_000_000 + b"\n.")
_case("long of a million digits", b"L" + b"9" * 1_000_000 + b"L\n.")
_case("float of a million digits", b"F" + b"9" * 1_000_000 + b"\n.")
_case("hexadecimal of a million digits", b"I0x" + b"f" * 1_000_000 + b"\n.")
_case("binary int of a megabyte", b"\x8b" + struct.pack("<i", 2**20), b"\x7f" * 2**20, b".")
_case(
    "sets copied again and again",
    b"K\x00](" + b"K\x01" * 50_000 + b"eq\x00(",
    (b"cbuiltins\nset\nh\x00\x85R") * 5_000,
    b"e.",
)
_case(
    "bytes copied again and again",
    text("x" * 2**20) + b"q\x000c_codecs\nencode\nq\x010" + text("latin1") + b"q\x020](",
    b"h\x01h\x00h\x02\x86R" * 100,
    b"e.",
)
_case("sets by the thousand", b"](", b"\x8f" * 2**20, b"e.")
_case("a tuple that doubles, as a key", b"}K\x01", b"2\x86" * 60, b"Ns.")
_case("a tuple that doubles, in a set", b"\x8f(K\x01", b"2\x86" * 60, b"\x90.")
_P = 2**61 - 1
_COLLIDING = b"".join(integer(k * _P) + b"N" for k in range(1, 20_000))
_case("keys that all collide", b"}(", _COLLIDING, b"u.")
_case("list inside itself", b"]q\x00h\x00a.")
_case("list inside itself, by marks", b"]q\x00(h\x00e.")
_case("dict inside itself", b"}q\x00", text("k"), b"h\x00s.")
_case("list inside itself, in a step", step(b"]q\x00(h\x00K\x01e"))
_case("list inside itself, by DUP", b"]2a.")
_case("two dicts inside each other", b"}q\x000}q\x01Nh\x00s0h\x00Nh\x01s.")
_case("the steps inside a step", b"]q\x00(}", text("k"), b"h\x00se.")

# ---- nonsense --------------------------------------------------------------------------------------------

_case("nothing", b"")
_case("one byte", b"\x80")
_case("only STOP", b".")
_case("text", b"Hello, world, this is no pickle.\n")
_case("html", b"<!DOCTYPE html><html><body>404 Not Found</body></html>")
_case("zeros", bytes(1000))
_case("ones", b"\xff" * 1000)
_case("zip", b"PK\x03\x04" + bytes(60))
_case("bz2", b"BZh91AY&SY" + bytes(60))
_case("gzip", b"\x1f\x8b\x08\x00" + bytes(60))
_case("sqlite", b"SQLite format 3\0" + bytes(60))
_case("protocol 6", b"\x80\x06N.")
_case("protocol 255", b"\x80\xffN.")
_case("two pickles", b"\x80\x03N.\x80\x03N.")
_case("garbage behind", b"\x80\x03N.x")
_case("two objects", b"\x80\x03NN.")
_case("an open mark", b"\x80\x03(N.")
_case("POP of nothing", b"0.")
_case("POP_MARK of nothing", b"1.")
_case("DUP of nothing", b"2.")
_case("PUT of nothing", b"q\x00.")
_case("MEMOIZE of nothing", b"\x94.")
for _code in (
    b"\x85",
    b"\x86",
    b"\x87",
    b"t",
    b"l",
    b"d",
    b"e",
    b"u",
    b"a",
    b"s",
    b"\x90",
    b"\x91",
    b"R",
    b"b",
    b"\x93",
):
    _case(f"{_code!r} of nothing", _code, b".")
    _case(f"{_code!r} of a mark", b"(", _code, b"0.")
    _case(f"{_code!r} across a mark", b"K\x01K\x02K\x03(", _code, b"00.")
_case("APPEND to a tuple", b")Na.")
_case("APPENDS to a dict", b"}(Ne.")
_case("SETITEM on a list", b"]NNs.")
_case("SETITEMS of three", b"}(NNNu.")
_case("DICT of three", b"(NNNd.")
_case("ADDITEMS to a list", b"](N\x90.")
_case("a list as a key", b"}]Ns.")
_case("a dict in a set", b"\x8f(}\x90.")
_case("an array as a key", b"}", array(b"K\x08\x85", _U1, _BYTES), b"Ns.")
_case("not UTF-8", b"X\x02\x00\x00\x00\xff\xfe.")
_case("not ASCII", b"U\x02\xff\xfe.")
_case("a string without quotes", b"Sabc\n.")
_case("a string with one quote", b"S'\n.")
_case("a bad escape", b"V\\u12\n.")
_case("a bad int", b"Iabc\n.")
_case("a bad float", b"Fabc\n.")
_case("a name that is not UTF-8", b"c\xff\n\xff\n.")
