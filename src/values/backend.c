/* backend.c - the table of backends (backend.h). Any thread; the loader sets versions and
 * figures, which are atomic. */
#include "values/backend.h"

#include "redis/command.h"

static const BackendRow backends[] = {
    [BACKEND_TF] = {.python = {"TF", "redisai_tensorflow", "tensorflow"},
                    .version_field = "TensorFlow_version",
                    .takes_names = 1,
                    .modelset_batches = 1},
    [BACKEND_TFLITE] = {.python = {"TFLITE", "redisai_tflite", "ai-edge-litert"},
                        .version_field = "TensorFlowLite_version"},
    [BACKEND_TORCH] = {.python = {"TORCH", "redisai_torch", "torch"},
                       .version_field = "Torch_version",
                       .modelset_batches = 1},
    [BACKEND_ONNX] = {.python = {"ONNX", "redisai_onnxruntime", "onnxruntime"},
                      .version_field = "onnxruntime_version",
                      .modelset_batches = 1},
};

/* Atomic, set once. Versions: NULL: not loaded. */
static const char *versions[sizeof(backends) / sizeof(backends[0])], *advices[sizeof(backends) / sizeof(backends[0])];

const BackendRow *backend_row(int64_t number) {
    return number >= 0 && number < (int64_t)(sizeof(backends) / sizeof(backends[0])) ? &backends[number] : NULL;
}

const Backend *bridge_backend(int number) {
    const BackendRow *row = backend_row(number);
    return row ? &row->python : NULL;
}

int backend_from_name(const RedisModuleString *name) {
    for (int i = 0; backend_row(i); i++) {
        if (arg_is(name, backends[i].python.name)) return i;
    }
    return -1;
}

const char *backend_name(int number) { return backends[number].python.name; }
const char *backend_version(int number) { return __atomic_load_n(&versions[number], __ATOMIC_ACQUIRE); }
const char *backend_advice(int number) { return __atomic_load_n(&advices[number], __ATOMIC_ACQUIRE); }

void bridge_backend_loaded(int number, const char *version, const char *advice) {
    if (backend_row(number) == NULL || backend_version(number)) return;
    if (*advice) __atomic_store_n(&advices[number], RedisModule_Strdup(advice), __ATOMIC_RELEASE);
    __atomic_store_n(&versions[number], RedisModule_Strdup(version), __ATOMIC_RELEASE);
}

/* ---- figures of ONNX Runtime ------------------------------------------------------------------------------------- */

static OnnxFigures own;
static OnnxFigures *place = &own;

void backend_set_figures_place(OnnxFigures *given) { place = given; }

void bridge_onnx_figures(int64_t memory, int64_t accesses) {
    __atomic_store_n(&place->memory, memory, __ATOMIC_RELAXED);
    __atomic_store_n(&place->accesses, accesses, __ATOMIC_RELAXED);
}

void backend_count_onnx_run(void) { __atomic_add_fetch(&place->direct_runs, 1, __ATOMIC_RELAXED); }

void backend_add_figures(OnnxFigures *sum, const OnnxFigures *figures) {
    if (figures == NULL) figures = &own;
    sum->memory += __atomic_load_n(&figures->memory, __ATOMIC_RELAXED);
    sum->accesses += __atomic_load_n(&figures->accesses, __ATOMIC_RELAXED);
    sum->accesses += __atomic_load_n(&figures->direct_runs, __ATOMIC_RELAXED);
}
