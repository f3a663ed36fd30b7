/* model.c - the model value: its definition and blob (model.h). Any thread. */
#include "values/model.h"

#include <string.h>

#include "values/backend.h"
#include "values/cache.h"
#include "values/names.h"

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

void model_set_limits(Model *model, const ModelLimits *limits) {
    const int64_t *from = (const int64_t *)limits;
    int64_t *to = (int64_t *)&model->limits;
    if (limits->cache != model->limits.cache) cache_clear(model);
    for (size_t i = 0; i < sizeof(*limits) / sizeof(*to); i++) __atomic_store_n(&to[i], from[i], __ATOMIC_RELAXED);
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
