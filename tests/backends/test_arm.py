# SPDX-License-Identifier: Apache-2.0
import os
import shutil
import subprocess

import pytest

from sparsec.backends import isa, link
from sparsec.backends.arm import run
from sparsec.compiler.errors import ArtifactError, ToolchainError

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="found no qemu-aarch64 (Debian: qemu-user)"),
]

TEN_LINES = r"""
#include <stdio.h>
#include "model.h"
static _Alignas(DEMO_ALIGNMENT) unsigned char weights[DEMO_WEIGHTS_BYTES], arena[DEMO_ARENA_BYTES];
int main(int count_, char **words) {
  float image[DEMO_INPUT_IMAGE_0_LENGTH] = {1, 2, 3}, scores[DEMO_OUTPUT_SCORES_LENGTH];
  int64_t by[] = {10, 20, 30}, count;
  unsigned char mask[] = {1, 1, 0};
  if (count_ != 2 || !fread(weights, sizeof weights, 1, fopen(words[1], "rb"))) return 9;
  int status = demo_run(weights, arena, (const void *[]){image, by, mask}, (void *[]){scores, &count});
  printf("%d %g %g %g %d\n", status, scores[14], scores[13], scores[12], (int)count);
}
"""


def test_it_computes_what_it_must(demo, built):
    with built("arm") as artifact:
        for seed in range(3):
            demo.check(artifact.run(demo.sample(seed)), demo.sample(seed))


def test_ten_lines_of_c_link_the_archive(built, tmp_path):
    folder, program = built("arm").folder, tmp_path / "main"
    (tmp_path / "main.c").write_text(TEN_LINES)
    link.executable([tmp_path / "main.c"], [folder / "libmodel.a"], isa.ISAS["neon"], program)
    command = ["qemu-aarch64", program, folder / "weights.bin"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "0 12 26 42 2\n"


def test_the_program_is_kept_between_runs_and_removed_at_the_end(demo, built):
    artifact = built("arm")
    runner = run.QemuRunner(artifact.folder, artifact.manifest)
    folder, process = runner._folder.name, runner._process
    for _ in range(2):
        runner.run([demo.sample()[port.name] for port in demo.program.inputs])
        assert process.poll() is None
    runner.close()
    assert process.poll() is not None
    assert not os.path.exists(folder)


def test_without_qemu_the_message_says_what_to_install(monkeypatch, built):
    monkeypatch.setenv("PATH", "")
    artifact = built("arm")
    with pytest.raises(ToolchainError, match=r"found no 'qemu-aarch64' to run .*\. Install it .*qemu-user"):
        run.QemuRunner(artifact.folder, artifact.manifest)


def test_a_program_that_fails_is_one_clear_error(demo, built, tmp_path):
    shutil.copytree(built("arm").folder, tmp_path / "bad")
    (tmp_path / "bad" / "weights.bin").write_bytes(b"short")
    runner = run.QemuRunner(tmp_path / "bad", built("arm").manifest)
    with pytest.raises(ArtifactError, match=r"ended with status 4"):
        runner.run([demo.sample()[port.name] for port in demo.program.inputs])
    runner.close()
