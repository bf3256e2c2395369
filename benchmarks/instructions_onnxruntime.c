/* SPDX-License-Identifier: Apache-2.0
 *
 * Runs an ONNX model some times with one thread in an onnxruntime library, through its C interface:
 *   program LIBRARY MODEL RUNS OUTPUT INPUT...
 * INPUT is NAME,TYPE,FILE,DIMENSION,...: TYPE is ONNX's number, FILE holds the elements. The first output, named OUTPUT,
 * goes to stdout as bytes of float32.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Places in the interface's table of functions, which only ever grows at its end. */
enum {
  ERROR_MESSAGE = 2, CREATE_ENV = 3, CREATE_SESSION = 7, RUN = 9, CREATE_OPTIONS = 10, INTRA_THREADS = 24,
  INTER_THREADS = 25, TENSOR_WITH_DATA = 49, TENSOR_DATA = 51, TENSOR_ELEMENTS = 64, TENSOR_SHAPE = 65,
  CREATE_MEMORY = 69,
};
enum { VERSION = 16, WARNING = 2, DEVICE_ALLOCATOR = 0, DEFAULT_MEMORY = 0, MOST = 16 };

typedef struct {
  const void *const *(*table)(uint32_t version);
  const char *(*version)(void);
} Base;
typedef void *Call();

static const void *const *api;
#define API(place) ((Call *)api[place])

static void check(void *status) {
  if (!status) return;
  fprintf(stderr, "onnxruntime: %s\n", ((const char *(*)(void *))api[ERROR_MESSAGE])(status));
  exit(2);
}

static void *contents(const char *path, size_t *bytes) {
  FILE *file = fopen(path, "rb");
  if (!file) exit(3);
  fseek(file, 0, SEEK_END);
  *bytes = ftell(file);
  rewind(file);
  void *data = aligned_alloc(64, (*bytes / 64 + 1) * 64);
  if (fread(data, 1, *bytes, file) != *bytes) exit(3);
  fclose(file);
  return data;
}

static void *tensor(char *word, void *memory, const char **name) {
  int64_t shape[8];
  size_t rank = 0, bytes;
  *name = strtok(word, ",");
  int type = atoi(strtok(0, ","));
  void *data = contents(strtok(0, ","), &bytes), *value = 0;
  for (char *part; rank < 8 && (part = strtok(0, ","));) shape[rank++] = atoll(part);
  check(API(TENSOR_WITH_DATA)(memory, data, bytes, shape, rank, type, &value));
  return value;
}

int main(int words, char **word) {
  if (words < 6 || words - 5 > MOST) return 1;
  void *library = dlopen(word[1], RTLD_NOW);
  if (!library) return fprintf(stderr, "%s\n", dlerror()), 1;
  const Base *base = ((const Base *(*)(void))dlsym(library, "OrtGetApiBase"))();
  api = base->table(VERSION);
  void *env, *options, *session, *memory, *inputs[MOST], *output = 0, *info;
  const char *names[MOST];
  int count = words - 5;
  check(API(CREATE_ENV)(WARNING, "", &env));
  check(API(CREATE_OPTIONS)(&options));
  check(API(INTRA_THREADS)(options, 1));
  check(API(INTER_THREADS)(options, 1));
  check(API(CREATE_SESSION)(env, word[2], options, &session));
  check(API(CREATE_MEMORY)(DEVICE_ALLOCATOR, DEFAULT_MEMORY, &memory));
  for (int i = 0; i < count; i++) inputs[i] = tensor(word[5 + i], memory, &names[i]);
  for (int run = 0; run < atoi(word[3]); run++) {
    output = 0; /* a new one each run, as most callers do */
    check(API(RUN)(session, (void *)0, names, inputs, (size_t)count, (const char **)&word[4], (size_t)1, &output));
  }
  size_t elements;
  float *data;
  check(API(TENSOR_SHAPE)(output, &info));
  check(API(TENSOR_ELEMENTS)(info, &elements));
  check(API(TENSOR_DATA)(output, &data));
  fwrite(data, sizeof(float), elements, stdout);
  fprintf(stderr, "onnxruntime %s\n", base->version());
  fflush(stdout);
  fflush(stderr);
  _Exit(0);
}
