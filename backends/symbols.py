# SPDX-License-Identifier: Apache-2.0
"""Symbols of ELF64 object files: which are missing, and hiding all but a few from other objects.

A static library's object must not lend its user names like ``kernel_3`` or ``memcpy``. Linkers hide symbols in
shared libraries only, so the binding is changed here, in the symbol table itself, as ``objcopy`` would.
"""

import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass

_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQq")
_SYMTAB, _RELA, _GROUP = 2, 4, 17
_LOCAL, _UNDEFINED = 0, 0


@dataclass(frozen=True, slots=True)
class _Section:
    """The fields of a section header that matter here, and where the header stands."""

    header: int
    kind: int
    offset: int
    size: int
    link: int
    info: int


def undefined(data: bytes) -> tuple[str, ...]:
    """Names that an ELF object needs from elsewhere, sorted."""
    table, names = _tables(data)
    entries = (_SYMBOL.unpack_from(data, at) for at in _offsets(table, _SYMBOL))
    found = {_text(data, names, name) for name, _, _, section, _, _ in entries if section == _UNDEFINED}
    return tuple(sorted(found - {""}))


def localize(data: bytes, keep: Collection[str]) -> bytes:
    """Make every defined symbol local to the object, except the names to keep."""
    out = bytearray(data)
    table, names = _tables(data)
    entries = [data[at : at + _SYMBOL.size] for at in _offsets(table, _SYMBOL)]
    hidden = [_hide(entry, _text(data, names, _SYMBOL.unpack(entry)[0]) in keep) for entry in entries]
    order = sorted(range(len(hidden)), key=lambda i: hidden[i][4] >> 4 != _LOCAL)  # stable: locals come first
    out[table.offset : table.offset + table.size] = b"".join(hidden[i] for i in order)
    locals_ = sum(entry[4] >> 4 == _LOCAL for entry in hidden)
    struct.pack_into("<I", out, table.header + 44, locals_)
    _renumber(out, {old: new for new, old in enumerate(order)})
    return bytes(out)


def _hide(entry: bytes, keep: bool) -> bytes:
    name, info, other, section, value, size = _SYMBOL.unpack(entry)
    if section == _UNDEFINED or keep:
        return entry
    return _SYMBOL.pack(name, info & 0xF, other & ~3, section, value, size)


def _renumber(out: bytearray, place: dict[int, int]) -> None:
    """Point relocations and section groups at the symbols' new places."""
    for section in _sections(bytes(out)):
        if section.kind == _GROUP:
            struct.pack_into("<I", out, section.header + 44, place[section.info])
        if section.kind != _RELA:
            continue
        for at in _offsets(section, _RELOCATION):
            offset, info, addend = _RELOCATION.unpack_from(out, at)
            moved = place[info >> 32] << 32 | info & 0xFFFFFFFF
            _RELOCATION.pack_into(out, at, offset, moved, addend)


def _tables(data: bytes) -> tuple[_Section, _Section]:
    """The symbol table and the table of its names."""
    sections = list(_sections(data))
    table = next(section for section in sections if section.kind == _SYMTAB)
    return table, sections[table.link]


def _sections(data: bytes) -> Iterator[_Section]:
    assert data[:6] == b"\x7fELF\x02\x01", "an ELF64 file of a little-endian machine"
    (start,) = struct.unpack_from("<Q", data, 40)
    (count,) = struct.unpack_from("<H", data, 60)
    for header in range(start, start + count * _SECTION.size, _SECTION.size):
        _, kind, _, _, offset, size, link, info, _, _ = _SECTION.unpack_from(data, header)
        yield _Section(header, kind, offset, size, link, info)


def _offsets(section: _Section, item: struct.Struct) -> range:
    return range(section.offset, section.offset + section.size, item.size)


def _text(data: bytes, names: _Section, at: int) -> str:
    start = names.offset + at
    return data[start : data.index(b"\0", start)].decode()
