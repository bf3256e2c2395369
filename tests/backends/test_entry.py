# SPDX-License-Identifier: Apache-2.0
import subprocess
import sys
from dataclasses import replace

import pytest

from sparsec.backends.entry import C_TYPES, comment, header, slots, source, with_workspaces
from sparsec.compiler.lowering.program import Call, Port, Program, Ref
from sparsec.compiler.manifest import TYPES

PORT = Port("x", "float32", (2, 3))


def words(*names):
    return [slot.word for slot in slots("input", [Port(name, "int8", ()) for name in names])]


def test_words_follow_the_names():
    assert words("image", "pixel_values", "serving/input:0") == ["IMAGE", "PIXEL_VALUES", "SERVING_INPUT_0"]


@pytest.mark.parametrize("names", [("a:b", "a/b"), ("x", "x_LENGTH"), ("", "0"), ("é", "ü"), ("a", "a_1", "a")])
def test_words_never_clash(names):
    found = words(*names)
    macros = [word + suffix for word in found for suffix in ("", "_LENGTH", "_BYTES")]
    assert len(set(macros)) == len(macros)


@pytest.mark.parametrize("text", ["*/ int x;", "*\\/", "a\nb", "/*", "\u2028", "**//"])
def test_no_name_ends_a_comment(text):
    safe = comment(text)
    assert "*/" not in safe
    assert "/*" not in safe
    assert safe.isascii()
    assert safe.isprintable()


def test_the_types_are_those_of_the_manifest():
    assert set(C_TYPES) == set(TYPES)


def test_one_call_a_line_with_its_pointers(demo):
    body = source(demo.program)
    assert "  scale(i0, w + 64, a);\n  shift(a, i1, a + 64);\n  reverse(a + 64, o0);\n  count(i2, o1);\n" in body


def test_the_entry_includes_no_library_and_keeps_no_state(demo):
    lines = source(demo.program).splitlines()
    assert [line for line in lines if line.startswith("#")] == ["#include <stddef.h>", "#include <stdint.h>"]
    assert not any(line.startswith("static") for line in lines)


def test_workspaces_share_one_block_behind_the_arena(demo):
    program = with_workspaces(demo.program, {"scale": 10, "reverse": 100, "count": 0})
    assert program.arena_bytes == 128 + 128
    assert [call.args[-1] for call in program.calls] == [
        Ref("arena", offset=128),
        Ref("arena", offset=64),
        Ref("arena", offset=128),
        Ref("output", 1),
    ]


def test_no_workspace_changes_nothing(demo):
    assert with_workspaces(demo.program, {"scale": 0, "absent": 8}) == demo.program


def test_header_says_sizes_names_and_types(demo):
    text = header(demo.program)
    for line in (
        "#define DEMO_WEIGHTS_BYTES 128u",
        "#define DEMO_ARENA_BYTES 128u",
        "#define DEMO_ALIGNMENT 64u",
        '/* inputs[0]: "image:0", float32, 1 x 5 x 3 */',
        "#define DEMO_INPUT_IMAGE_0_LENGTH 15u",
        "typedef int64_t demo_input_by_t;",
        "#define DEMO_OUTPUT_COUNT 1",
    ):
        assert line in text.splitlines()


@pytest.mark.parametrize("language", ["c", "c++"])
def test_header_compiles_alone_and_twice_without_warnings(demo, tmp_path, language):
    ports = (replace(PORT, name='evil */ " \\ \n'), *demo.program.inputs)
    (tmp_path / "model.h").write_text(header(replace(demo.program, inputs=ports)), "ascii")
    (tmp_path / "main.c").write_text('#include "model.h"\n#include "model.h"\n')
    flags = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-c", "-o", "main.o", "-x", language, "main.c"]
    subprocess.run([sys.executable, "-m", "ziglang", "cc", *flags], cwd=tmp_path, check=True)


def test_a_program_without_weights_takes_null_for_them():
    call = Call("k", (Ref("input", 0), Ref("output", 0)), "l")
    program = Program("m", (PORT,), (PORT,), (call,), {}, {}, 0, b"", ())
    assert "if (!i0 || !o0) return 1;" in source(program)


def test_a_program_without_ports_or_calls_is_still_c():
    body = source(Program("m", (), (), (), {}, {}, 0, b"", ()))
    assert "return 0;" in body
    assert "if ()" not in body
