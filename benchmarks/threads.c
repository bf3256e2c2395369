/* SPDX-License-Identifier: Apache-2.0
 * Times two artifacts of one model in turns: ONE_run on one thread, TWO_run_thread on all of its threads.
 * words: weights of one, weights of two, rounds. Writes a line of microseconds a round: one, two, and the shortest
 * single run of each. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "one/model.h"
#include "two/model.h"

#define PLENTY 0.002 /* seconds that a measurement takes at least */

static void *weights[2], *arenas[2];
static const void *inputs[ONE_INPUTS];
static void *outputs[2][ONE_OUTPUTS];
static _Alignas(64) unsigned char sync_block[TWO_SYNC_BYTES];
static int repeats;
static _Alignas(64) unsigned started; /* measurements that have begun */

static void *block(size_t bytes) {
  void *memory = aligned_alloc(64, (bytes / 64 + 1) * 64);
  if (!memory) exit(3);
  memset(memory, 0, (bytes / 64 + 1) * 64);
  return memory;
}

static void *load(const char *path, size_t bytes) {
  void *memory = block(bytes);
  FILE *file = fopen(path, "rb");
  if (!file || fread(memory, 1, bytes, file) != bytes) exit(4);
  fclose(file);
  return memory;
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + 1e-9 * t.tv_nsec;
}

static double shorter(double best, double since) {
  double passed = 1e6 * (now() - since);
  return passed < best ? passed : best;
}

static double together(int thread) {
  double best = 1e9;
  for (int i = 0; i < repeats; i++) {
    double start = now();
    if (two_run_thread(weights[1], arenas[1], inputs, outputs[1], sync_block, thread)) exit(6);
    best = shorter(best, start);
  }
  return best;
}

static void *help(void *number) {
  for (unsigned seen = 0;; seen++) {
    while (__atomic_load_n(&started, __ATOMIC_ACQUIRE) == seen) {}
    together((int)(size_t)number);
  }
  return 0;
}

static double alone_us(double *best) {
  double first = now();
  *best = 1e9;
  for (int i = 0; i < repeats; i++) {
    double start = now();
    if (one_run(weights[0], arenas[0], inputs, outputs[0])) exit(5);
    *best = shorter(*best, start);
  }
  return 1e6 * (now() - first) / repeats;
}

static double together_us(double *best) {
  double first = now();
  __atomic_add_fetch(&started, 1, __ATOMIC_RELEASE);
  *best = together(0);
  return 1e6 * (now() - first) / repeats;
}

int main(int count, char **words) {
  if (count != 4) return 2;
  static const size_t in_bytes[] = {INPUT_BYTES}, out_bytes[] = {OUTPUT_BYTES};
  weights[0] = load(words[1], ONE_WEIGHTS_BYTES), weights[1] = load(words[2], TWO_WEIGHTS_BYTES);
  arenas[0] = block(ONE_ARENA_BYTES), arenas[1] = block(TWO_ARENA_BYTES);
  for (int i = 0; i < ONE_INPUTS; i++) {
    float *values = block(in_bytes[i]);
    for (size_t k = 0; k < in_bytes[i] / sizeof *values; k++) values[k] = (float)(rand() % 2000 - 1000) / 500;
    inputs[i] = values;
  }
  for (int i = 0; i < ONE_OUTPUTS; i++) outputs[0][i] = block(out_bytes[i]), outputs[1][i] = block(out_bytes[i]);
  for (size_t i = 1; i < TWO_THREADS; i++) {
    pthread_t thread;
    if (pthread_create(&thread, 0, help, (void *)i)) return 7;
  }
  repeats = 3;
  double once, best[2];
  together_us(&best[1]), alone_us(&once);
  repeats = once < 1e6 * PLENTY ? (int)(1e6 * PLENTY / once) + 1 : 1;
  for (int round = atoi(words[3]); round > 0; round--) {
    double one = alone_us(&best[0]), two = together_us(&best[1]);
    printf("%f %f %f %f\n", one, two, best[0], best[1]);
  }
  for (int i = 0; i < ONE_OUTPUTS; i++)
    if (memcmp(outputs[0][i], outputs[1][i], out_bytes[i])) return 8;
  fflush(stdout);
  _Exit(0);
}
