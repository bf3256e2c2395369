/* SPDX-License-Identifier: Apache-2.0
 *
 * A plugin for qemu's user emulation of AArch64 that counts what is executed and writes it to the file out=PATH: all
 * instructions, int8 dot products, int8 matrix products, and float32 multiply-adds of vectors, of NEON and SVE. The few
 * declarations that it needs of qemu's plugin interface stand here.
 */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t plugin_id;
typedef struct qemu_plugin_tb Block;
typedef struct qemu_plugin_insn Instruction;
typedef void translated(plugin_id, Block *);
typedef void executed(unsigned processor, void *data);
typedef void ended(plugin_id, void *data);

extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, translated *);
extern void qemu_plugin_register_vcpu_tb_exec_cb(Block *, executed *, int flags, void *data);
extern void qemu_plugin_register_atexit_cb(plugin_id, ended *, void *data);
extern size_t qemu_plugin_tb_n_insns(const Block *);
extern Instruction *qemu_plugin_tb_get_insn(const Block *, size_t index);
#if PLUGIN_VERSION < 3
extern const void *qemu_plugin_insn_data(const Instruction *);
#else
extern size_t qemu_plugin_insn_data(const Instruction *, void *to, size_t bytes);
#endif

__attribute__((visibility("default"))) int qemu_plugin_version = PLUGIN_VERSION;

enum { ALL, DOTS, MATRIX_PRODUCTS, MULTIPLY_ADDS, KINDS };

/* What an instruction word is: its bits under a mask. */
static const struct {
  uint32_t mask, bits;
  int kind;
} kinds[] = {
  {0x9fe0fc00, 0x0e809400, DOTS},            /* sdot, udot: vectors */
  {0xbfe0fc00, 0x0e809c00, DOTS},            /* usdot: vectors */
  {0x9fc0f400, 0x0f80e000, DOTS},            /* sdot, udot: by element */
  {0xbf40f400, 0x0f00f000, DOTS},            /* sudot, usdot: by element */
  {0xffe0f800, 0x44800000, DOTS},            /* SVE sdot, udot to 32 bits */
  {0xffe0f800, 0x44a00000, DOTS},            /* SVE the same by element */
  {0xdfe0f400, 0x4e80a400, MATRIX_PRODUCTS}, /* smmla, ummla, usmmla */
  {0xff20fc00, 0x45009800, MATRIX_PRODUCTS}, /* SVE the same */
  {0xbfe0fc00, 0x0e20cc00, MULTIPLY_ADDS},   /* fmla: vectors */
  {0xbfc0f400, 0x0f801000, MULTIPLY_ADDS},   /* fmla: by element */
  {0xffe02000, 0x65a00000, MULTIPLY_ADDS},   /* SVE fmla, fmls: vectors */
  {0xffe0f800, 0x64a00000, MULTIPLY_ADDS},   /* SVE the same by element */
};

static uint64_t counts[KINDS];
static char path[4096];

static uint32_t word(const Instruction *instruction) {
  uint32_t value = 0;
#if PLUGIN_VERSION < 3
  memcpy(&value, qemu_plugin_insn_data(instruction), sizeof value);
#else
  qemu_plugin_insn_data(instruction, &value, sizeof value);
#endif
  return value;
}

static void add(unsigned processor, void *data) {
  const uint32_t *block = data;
  for (int kind = 0; kind < KINDS; kind++) counts[kind] += block[kind];
}

/* A block counts whole each time it is entered; only a fault leaves it in the middle. */
static void translate(plugin_id id, Block *block) {
  uint32_t *found = calloc(KINDS, sizeof *found);
  size_t size = qemu_plugin_tb_n_insns(block);
  if (!found) abort();
  found[ALL] = size;
  for (size_t i = 0; i < size; i++) {
    uint32_t bits = word(qemu_plugin_tb_get_insn(block, i));
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++)
      if ((bits & kinds[k].mask) == kinds[k].bits) found[kinds[k].kind]++;
  }
  qemu_plugin_register_vcpu_tb_exec_cb(block, add, 0, found);
}

static void report(plugin_id id, void *data) {
  FILE *file = fopen(path, "w");
  if (!file) return;
  for (int kind = 0; kind < KINDS; kind++) fprintf(file, "%" PRIu64 "\n", counts[kind]);
  fclose(file);
}

__attribute__((visibility("default"))) int qemu_plugin_install(plugin_id id, const void *info, int n, char **words) {
  if (n != 1 || strncmp(words[0], "out=", 4) || strlen(words[0]) >= sizeof path) return 1;
  strcpy(path, words[0] + 4);
  qemu_plugin_register_vcpu_tb_trans_cb(id, translate);
  qemu_plugin_register_atexit_cb(id, report, 0);
  return 0;
}
