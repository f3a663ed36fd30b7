/* model.c - the model value: its definition and blob (model.h). Any thread. */
#include "values/model.h"

#include <stdlib.h>
#include <string.h>

#include "redis/command.h"
#include "values/backend.h"
#include "values/cache.h"
#include "values/dtype.h"
#include "values/names.h"
#include "values/tensor.h"

static void destroy(Runnable *runnable) {
    Model *model = (Model *)runnable;
    for (int64_t i = 0; i < model->npieces; i++) {
        Piece *piece = &model->pieces[i];
        if (piece->owner) {
            RedisModule_FreeString(NULL, piece->owner);
        } else {
            RedisModule_Free((void *)piece->data);
        }
    }
    RedisModule_Free(model->pieces);
    names_free(&model->inputs);
    names_free(&model->outputs);
    names_free(&model->warmups);
    declared_free(&model->declared);
    cache_free(runnable->state->cache);
    RedisModule_Free(model);
}

Model *model_new(int backend) {
    Model *model = RedisModule_Calloc(1, sizeof(*model));
    model->declared = (Declared){.least_inputs = -1, .most_inputs = -1, .noutputs = -1};
    runnable_init(&model->base, KIND_MODEL, backend, destroy);
    return model;
}

static const char *const priorities[] = {NULL, "low", "normal", "high"};

const char *priority_name(int64_t priority) { return priorities[priority]; }

int priority_named(const RedisModuleString *word) {
    int priority = PRIORITY_HIGH;
    while (priority && !arg_is(word, priorities[priority])) priority--;
    return priority;
}

void model_set_limits(Model *model, const ModelLimits *limits) {
    const int64_t *from = (const int64_t *)limits;
    int64_t *to = (int64_t *)&model->limits;
    if (limits->cache != model->limits.cache) cache_clear(model);
    for (size_t i = 0; i < sizeof(*limits) / sizeof(*to); i++) __atomic_store_n(&to[i], from[i], __ATOMIC_RELAXED);
}

#define WORD 24

/* The next of the words between which there are single spaces. 0: there is none that can mean anything. */
static int next_word(const char **at, char word[WORD]) {
    size_t size = strcspn(*at, " ");
    if (size == 0 || size >= WORD) return 0;
    memcpy(word, *at, size);
    word[size] = '\0';
    *at += size + ((*at)[size] == ' ');
    return 1;
}

/* A number as the AOF would have it; -1: it is none, or impossible. */
static int64_t read_number(const char *word) {
    size_t digits = strspn(word, "0123456789");
    int is_number = digits && word[digits] == '\0' && digits < 19 && (*word != '0' || digits == 1);
    return is_number ? strtoll(word, NULL, 10) : -1;
}

const char *model_warmup_error(const char *warmup) {
    char word[WORD];
    int64_t shape[TENSOR_MAX_DIMS], length;
    uint64_t size;
    int64_t count = next_word(&warmup, word) ? read_number(word) : -1;
    if (count < 0) return "it begins with the number of inputs";
    for (; count > 0; count--) {
        int ndim = 0, dtype = next_word(&warmup, word) ? dtype_from_name(word, strlen(word)) : -1;
        if (dtype == -1) return "each input is a type and its dimensions";
        for (; *warmup >= '0' && *warmup <= '9'; ndim++) {
            if (ndim == TENSOR_MAX_DIMS || !next_word(&warmup, word)) return "an input has impossible dimensions";
            if ((shape[ndim] = read_number(word)) == -1) return "an input has impossible dimensions";
        }
        if (tensor_measure(dtype, ndim, shape, &length, &size) == -1 ||
            tensor_memory(dtype, length, size) > bridge_max_tensor_bytes()) {
            return "an input exceeds the limit for one tensor (proto-max-bulk-len)";
        }
    }
    return *warmup ? "it has more inputs than it says" : NULL;
}

static Piece *add_piece(Model *model) {
    model->pieces = RedisModule_Realloc(model->pieces, (model->npieces + 1) * sizeof(Piece));
    return &model->pieces[model->npieces++];
}

void model_hold_piece(Model *model, RedisModuleString *arg) {
    /* After the command Redis trims held arguments, which may move them. Trim first. */
    RedisModule_TrimStringAllocation(arg);
    RedisModuleString *owner = RedisModule_HoldString(NULL, arg);
    size_t size;
    const char *data = RedisModule_StringPtrLen(owner, &size);
    *add_piece(model) = (Piece){.data = data, .size = size, .owner = owner};
    model->blob_size += size;
}

void model_take_piece(Model *model, char *data, uint64_t size) {
    *add_piece(model) = (Piece){.data = data, .size = size, .owner = NULL};
    model->blob_size += size;
}

const Names *model_inputs(const Model *model) {
    return runnable_is_ready(&model->base) && model->declared.inputs.count ? &model->declared.inputs : &model->inputs;
}

const Names *model_outputs(const Model *model) {
    return runnable_is_ready(&model->base) && model->declared.outputs.count ? &model->declared.outputs
                                                                            : &model->outputs;
}

static Range range(const Model *model, const Names *given, int is_output) {
    const Declared *declared = &model->declared; /* not to be read before the model is ready */
    if (runnable_is_ready(&model->base) && (is_output ? declared->noutputs : declared->least_inputs) >= 0) {
        return is_output ? (Range){declared->noutputs, declared->noutputs}
                         : (Range){declared->least_inputs, declared->most_inputs};
    }
    return backend_row(model->base.backend)->takes_names ? (Range){given->count, given->count} : (Range){0, INT64_MAX};
}

Range model_input_range(const Model *model) { return range(model, &model->inputs, 0); }
Range model_output_range(const Model *model) { return range(model, &model->outputs, 1); }

static uint64_t chunk_size = MODEL_CHUNK_SIZE; /* main thread; the BGSAVE child reads it */

void model_set_chunk_size(int64_t size) { chunk_size = size; }

/* A longer blob is given out in size / chunk_size + 1 chunks, of which the last may be empty: saved databases and
 * clients know it like that. */
int64_t model_chunk_count(const Model *model) {
    uint64_t chunk = chunk_size;
    return model->blob_size <= chunk ? 1 : (int64_t)(model->blob_size / chunk + 1);
}

const char *model_chunk(const Model *model, int64_t index, uint64_t *size, char **scratch) {
    uint64_t chunk = model_chunk_count(model) == 1 ? model->blob_size : chunk_size;
    uint64_t from = index * chunk;
    *size = model->blob_size - from < chunk ? model->blob_size - from : chunk;
    return model_bytes(model, from, *size, scratch);
}

const char *model_bytes(const Model *model, uint64_t from, uint64_t size, char **scratch) {
    *scratch = NULL;
    if (size == 0) return "";
    int64_t i = 0;
    for (; from >= model->pieces[i].size; i++) from -= model->pieces[i].size;
    if (from + size <= model->pieces[i].size) return model->pieces[i].data + from;

    /* The part spans pieces: join them. */
    *scratch = RedisModule_Alloc(size);
    for (uint64_t done = 0; done < size; i++) {
        uint64_t part = model->pieces[i].size - from;
        if (part > size - done) part = size - done;
        memcpy(*scratch + done, model->pieces[i].data + from, part);
        done += part;
        from = 0;
    }
    return *scratch;
}
