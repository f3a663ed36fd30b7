/* model_type.c - AI__MODEL, the datatype: saving, loading, memory, copies.
 *
 * Callbacks run on the main thread, save and rewrite in the BGSAVE child, free also on Redis's lazy-free thread. */
#include <stdio.h>
#include <string.h>

#include "values/backend.h"
#include "values/cache.h"
#include "values/defrag.h"
#include "values/model.h"
#include "values/names.h"
#include "values/runnable_type.h"

RedisModuleType *ModelType;

/* u blob length, u chunks, that many buffers. Returns what is wrong, or NULL. */
static const char *load_chunks(RedisModuleIO *io, Model *model) {
    uint64_t total = RedisModule_LoadUnsigned(io);
    uint64_t chunks = RedisModule_LoadUnsigned(io);
    if (RedisModule_IsIOError(io)) return "no blob";
    for (uint64_t i = 0; i < chunks; i++) {
        size_t size;
        char *data = RedisModule_LoadStringBuffer(io, &size);
        if (data == NULL || RedisModule_IsIOError(io)) return "a chunk of the blob is missing";
        if (size == 0) {
            RedisModule_Free(data);
            continue;
        }
        model_take_piece(model, data, size);
    }
    return model->blob_size == total ? NULL : "the blob's length does not match its chunks";
}

/* Redis saves one encoding version for all values of a type. So the number of the backend, which comes first, tells of
 * a model that has more limits than those of version 4. Builds that do not know these refuse that model alone. */
#define WITH_MORE_LIMITS 256
#define WITH_PRIORITY 512
#define WITH_WARMUPS 1024
#define WITH_CACHE 2048
#define FLAGS (WITH_MORE_LIMITS | WITH_PRIORITY | WITH_WARMUPS | WITH_CACHE) /* what follows is in this order */

static int has_more_limits(const ModelLimits *limits) {
    return limits->minbatchtimeout_us || limits->maxqueue || limits->timeout;
}

static const char *load_more_limits(RedisModuleIO *io, ModelLimits *limits) {
    limits->minbatchtimeout_us = (int64_t)RedisModule_LoadUnsigned(io);
    limits->maxqueue = (int64_t)RedisModule_LoadUnsigned(io);
    limits->timeout = (int64_t)RedisModule_LoadUnsigned(io);
    int64_t us = limits->minbatchtimeout_us;
    if (us < 0 || us > 999 || (us && limits->minbatchtimeout >= MODEL_MAX_EXACT_MS)) return "impossible limit";
    return limits->maxqueue < 0 || limits->timeout < 0 ? "impossible limit" : NULL;
}

static const char *load_limits(RedisModuleIO *io, ModelLimits *limits, int encver, uint64_t flags) {
    limits->batchsize = (int64_t)RedisModule_LoadUnsigned(io);
    limits->minbatchsize = (int64_t)RedisModule_LoadUnsigned(io);
    if (encver >= 2) limits->minbatchtimeout = (int64_t)RedisModule_LoadUnsigned(io);
    if (limits->batchsize < AUTO_BATCHSIZE || limits->minbatchsize < 0 || limits->minbatchtimeout < 0) {
        return "impossible batch size";
    }
    const char *error = flags & WITH_MORE_LIMITS ? load_more_limits(io, limits) : NULL;
    if (error || !(flags & WITH_PRIORITY)) return error;
    limits->priority = (int64_t)RedisModule_LoadUnsigned(io);
    return limits->priority == PRIORITY_LOW || limits->priority == PRIORITY_HIGH ? NULL : "impossible priority";
}

static const char *load_warmups(RedisModuleIO *io, Names *warmups) {
    if (rdb_load_names(io, warmups) == -1) return "broken list of warm-ups";
    for (int64_t i = 0; i < warmups->count; i++) {
        if (model_warmup_error(warmups->names[i])) return "impossible warm-up";
    }
    return NULL;
}

static const char *load_cache(RedisModuleIO *io, ModelLimits *limits) {
    limits->cache = (int64_t)RedisModule_LoadUnsigned(io);
    return limits->cache < 0 ? "impossible cache" : NULL;
}

static const char *load_definition(RedisModuleIO *io, Model *model, int encver, uint64_t flags) {
    const char *error = runnable_load(io, &model->base, encver);
    if (error == NULL) error = load_limits(io, &model->limits, encver, flags);
    if (error == NULL && flags & WITH_WARMUPS) error = load_warmups(io, &model->warmups);
    if (error == NULL && flags & WITH_CACHE) error = load_cache(io, &model->limits);
    if (error) return error;
    if (rdb_load_names(io, &model->inputs) == -1) return "broken list of inputs";
    if (rdb_load_names(io, &model->outputs) == -1) return "broken list of outputs";
    if (encver >= 1) return load_chunks(io, model);

    size_t size;
    char *data = RedisModule_LoadStringBuffer(io, &size);
    if (data == NULL || RedisModule_IsIOError(io)) return "no blob";
    model_take_piece(model, data, size);
    return NULL;
}

static void *rdb_load(RedisModuleIO *io, int encver) {
    if (encver > RDB_ENCODING_VERSION) return rdb_corrupt(io, "model", "saved by a newer version");
    uint64_t backend = RedisModule_LoadUnsigned(io), flags = backend & FLAGS;
    backend -= flags;
    if (RedisModule_IsIOError(io) || backend > INT64_MAX || backend_row((int64_t)backend) == NULL) {
        return rdb_corrupt(io, "model", "unknown backend");
    }
    Model *model = model_new((int)backend);
    return runnable_loaded(io, &model->base, "model", load_definition(io, model, encver, flags));
}

static void rdb_save(RedisModuleIO *io, void *value) {
    Model *model = value;
    const ModelLimits *limits = &model->limits;
    uint64_t flags = (has_more_limits(limits) ? WITH_MORE_LIMITS : 0) | (limits->priority ? WITH_PRIORITY : 0) |
                     (model->warmups.count ? WITH_WARMUPS : 0) | (limits->cache ? WITH_CACHE : 0);
    RedisModule_SaveUnsigned(io, model->base.backend + flags);
    runnable_save(io, &model->base);
    RedisModule_SaveUnsigned(io, limits->batchsize);
    RedisModule_SaveUnsigned(io, limits->minbatchsize);
    RedisModule_SaveUnsigned(io, limits->minbatchtimeout);
    if (has_more_limits(limits)) {
        RedisModule_SaveUnsigned(io, limits->minbatchtimeout_us);
        RedisModule_SaveUnsigned(io, limits->maxqueue);
        RedisModule_SaveUnsigned(io, limits->timeout);
    }
    if (flags & WITH_PRIORITY) RedisModule_SaveUnsigned(io, limits->priority);
    if (flags & WITH_WARMUPS) rdb_save_names(io, &model->warmups);
    if (flags & WITH_CACHE) RedisModule_SaveUnsigned(io, limits->cache);
    /* Names that came from an RDB stay as they were, so that a value saves the same before it is compiled and after. */
    rdb_save_names(io, model->inputs.count ? &model->inputs : model_inputs(model));
    rdb_save_names(io, model->outputs.count ? &model->outputs : model_outputs(model));
    RedisModule_SaveUnsigned(io, model->blob_size);
    int64_t chunks = model_chunk_count(model);
    RedisModule_SaveUnsigned(io, chunks);
    for (int64_t i = 0; i < chunks; i++) {
        uint64_t size;
        char *scratch;
        const char *chunk = model_chunk(model, i, &size, &scratch);
        RedisModule_SaveStringBuffer(io, chunk, size);
        RedisModule_Free(scratch);
    }
}

/* A list of arguments under construction, for AI.MODELSTORE. */
typedef struct Arguments {
    RedisModuleString **items;
    size_t count;
} Arguments;

static void add_string(Arguments *args, RedisModuleString *string) {
    args->items = RedisModule_Realloc(args->items, (args->count + 1) * sizeof(*args->items));
    args->items[args->count++] = string;
}

static void add(Arguments *args, const char *data, size_t size) {
    add_string(args, RedisModule_CreateString(NULL, data, size));
}

static void add_text(Arguments *args, const char *text) { add(args, text, strlen(text)); }

static void add_number(Arguments *args, const char *name, long long number) {
    add_text(args, name);
    add_string(args, RedisModule_CreateStringFromLongLong(NULL, number));
}

/* A saved database may hold one without the other. MODELSTORE takes that from an AOF only. */
static void add_limits(Arguments *args, const ModelLimits *limits) {
    char ms[32];
    snprintf(ms, sizeof(ms), "%lld.%03d", (long long)limits->minbatchtimeout, (int)limits->minbatchtimeout_us);
    if (limits->minbatchtimeout_us == 0) *strchr(ms, '.') = '\0';
    if (limits->batchsize == AUTO_BATCHSIZE) {
        add_text(args, "BATCHSIZE");
        add_text(args, "auto");
    } else if (limits->batchsize) {
        add_number(args, "BATCHSIZE", limits->batchsize);
    }
    if (limits->minbatchsize) add_number(args, "MINBATCHSIZE", limits->minbatchsize);
    if (strcmp(ms, "0")) {
        add_text(args, "MINBATCHTIMEOUT");
        add_text(args, ms);
    }
    if (limits->maxqueue) add_number(args, "MAXQUEUE", limits->maxqueue);
    if (limits->timeout) add_number(args, "TIMEOUT", limits->timeout);
    if (limits->cache) add_number(args, "CACHE", limits->cache);
    if (limits->priority == 0) return;
    add_text(args, "PRIORITY");
    add_text(args, priority_name(limits->priority));
}

static void add_warmup(Arguments *args, const char *words) {
    add_text(args, "WARMUP");
    for (size_t size; *words; words += size + (words[size] == ' ')) {
        size = strcspn(words, " ");
        add(args, words, size);
    }
}

static void add_names(Arguments *args, const char *section, const Names *names) {
    add_number(args, section, names->count);
    for (int64_t i = 0; i < names->count; i++) add_text(args, names->names[i]);
}

static void aof_rewrite(RedisModuleIO *io, RedisModuleString *key, void *value) {
    Model *model = value;
    Arguments args = {0};
    add_text(&args, backend_name(model->base.backend));
    add_text(&args, model->base.device);
    if (model->base.tag_size) {
        add_text(&args, "TAG");
        add(&args, model->base.tag, model->base.tag_size);
    }
    add_limits(&args, &model->limits);
    for (int64_t i = 0; i < model->warmups.count; i++) add_warmup(&args, model->warmups.names[i]);
    if (backend_row(model->base.backend)->takes_names) {
        add_names(&args, "INPUTS", &model->inputs);
        add_names(&args, "OUTPUTS", &model->outputs);
    }
    add_text(&args, "BLOB");
    for (int64_t i = 0; i < model_chunk_count(model); i++) {
        uint64_t size;
        char *scratch;
        const char *chunk = model_chunk(model, i, &size, &scratch);
        add(&args, chunk, size);
        RedisModule_Free(scratch);
    }
    RedisModule_EmitAOF(io, "AI.MODELSTORE", "sv", key, args.items, args.count);
    for (size_t i = 0; i < args.count; i++) RedisModule_FreeString(NULL, args.items[i]);
    RedisModule_Free(args.items);
}

static size_t mem_usage(const void *value) {
    const Model *model = value;
    size_t total = runnable_memory(&model->base) + RedisModule_MallocSize(model->pieces) +
                   names_memory(&model->inputs) + names_memory(&model->outputs) + names_memory(&model->warmups) +
                   cache_figures(model).bytes;
    for (int i = 0; i < DECLARED_LISTS && runnable_is_ready(&model->base); i++) {
        total += names_memory(declared_list((Declared *)&model->declared, i));
    }
    for (int64_t i = 0; i < model->npieces; i++) {
        Piece *piece = &model->pieces[i];
        if (piece->owner == NULL) {
            total += RedisModule_MallocSize((void *)piece->data);
        } else {
            total += RedisModule_MallocSizeString(piece->owner);
        }
    }
    return total;
}

#define DIGEST_PART (1ULL << 20)

static void digest_names(RedisModuleDigest *digest, const Names *names) {
    RedisModule_DigestAddLongLong(digest, names->count);
    for (int64_t i = 0; i < names->count; i++) {
        RedisModule_DigestAddStringBuffer(digest, names->names[i], strlen(names->names[i]));
    }
}

static void digest(RedisModuleDigest *result, void *value) {
    Model *model = value;
    RedisModule_DigestAddLongLong(result, model->base.backend);
    runnable_digest(result, &model->base);
    const int64_t *numbers = (const int64_t *)&model->limits;
    int count = model->limits.priority ? 7 : has_more_limits(&model->limits) ? 6 : 3;
    for (int i = 0; i < count; i++) RedisModule_DigestAddLongLong(result, numbers[i]);
    if (model->warmups.count) digest_names(result, &model->warmups);
    if (model->limits.cache) RedisModule_DigestAddLongLong(result, model->limits.cache);
    if (backend_row(model->base.backend)->takes_names) {
        digest_names(result, &model->inputs);
        digest_names(result, &model->outputs);
    }
    /* In parts of one size: servers may keep the blob in different pieces and chunks. */
    for (uint64_t from = 0; from < model->blob_size; from += DIGEST_PART) {
        uint64_t left = model->blob_size - from;
        uint64_t size = left < DIGEST_PART ? left : DIGEST_PART;
        char *scratch;
        RedisModule_DigestAddStringBuffer(result, model_bytes(model, from, size, &scratch), size);
        RedisModule_Free(scratch);
    }
    RedisModule_DigestEndSequence(result);
}

static int defrag(RedisModuleDefragCtx *ctx, RedisModuleString *key, void **value) {
    Model *model = runnable_defrag(ctx, *value);
    if (model == NULL) return 0;
    *value = model;
    DEFRAG(ctx, model->pieces);
    for (Piece *piece = model->pieces; piece < model->pieces + model->npieces; piece++) {
        if (piece->owner) {
            piece->data = defrag_string(ctx, &piece->owner);
        } else {
            DEFRAG(ctx, piece->data);
        }
    }
    names_defrag(ctx, &model->inputs);
    names_defrag(ctx, &model->outputs);
    names_defrag(ctx, &model->warmups);
    for (int i = 0; i < DECLARED_LISTS; i++) names_defrag(ctx, declared_list(&model->declared, i));
    return 0;
}

int model_type_register(RedisModuleCtx *ctx) {
    ModelType = runnable_type_register(ctx, "AI__MODEL",
                                       (RedisModuleTypeMethods){.rdb_load = rdb_load,
                                                                .rdb_save = rdb_save,
                                                                .aof_rewrite = aof_rewrite,
                                                                .mem_usage = mem_usage,
                                                                .digest = digest,
                                                                .defrag = defrag});
    return ModelType ? REDISMODULE_OK : REDISMODULE_ERR;
}
