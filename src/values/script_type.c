/* script_type.c - AI_SCRIPT, the datatype: saving, loading, memory, copies.
 *
 * Callbacks run on the main thread, save and rewrite in the BGSAVE child, free also on Redis's lazy-free thread. */
#include <string.h>

#include "values/defrag.h"
#include "values/names.h"
#include "values/runnable_type.h"
#include "values/script.h"

RedisModuleType *ScriptType;

static void destroy(Runnable *runnable) {
    Script *script = (Script *)runnable;
    RedisModule_Free(script->source);
    names_free(&script->entry_points);
    RedisModule_Free(script);
}

Script *script_new(void) {
    Script *script = RedisModule_Calloc(1, sizeof(*script));
    runnable_init(&script->base, KIND_SCRIPT, BACKEND_TORCH, destroy);
    return script;
}

/* device and tag, string source, from version 3 the entry points. Returns what is wrong, or NULL. */
static const char *load_definition(RedisModuleIO *io, Script *script, int encver) {
    const char *error = runnable_load(io, &script->base, encver);
    if (error) return error;
    script->source = rdb_load_text(io);
    if (script->source == NULL) return "no source";
    if (encver >= 3 && rdb_load_names(io, &script->entry_points) == -1) return "broken list of entry points";
    return NULL;
}

static void *rdb_load(RedisModuleIO *io, int encver) {
    if (encver > RDB_ENCODING_VERSION) return rdb_corrupt(io, "script", "saved by a newer version");
    Script *script = script_new();
    return runnable_loaded(io, &script->base, "script", load_definition(io, script, encver));
}

static void rdb_save(RedisModuleIO *io, void *value) {
    Script *script = value;
    runnable_save(io, &script->base);
    rdb_save_text(io, script->source);
    rdb_save_names(io, &script->entry_points);
}

/* A script without entry points becomes AI.SCRIPTSET, which takes none. */
static void aof_rewrite(RedisModuleIO *io, RedisModuleString *key, void *value) {
    Script *script = value;
    if (script->entry_points.count == 0) {
        RedisModule_EmitAOF(io, "AI.SCRIPTSET", "sccbcc", key, script->base.device, "TAG", script->base.tag,
                            (size_t)script->base.tag_size, "SOURCE", script->source);
        return;
    }
    size_t count = script->entry_points.count;
    RedisModuleString **names = RedisModule_Alloc(count * sizeof(*names));
    for (size_t i = 0; i < count; i++) {
        const char *name = script->entry_points.names[i];
        names[i] = RedisModule_CreateString(NULL, name, strlen(name));
    }
    RedisModule_EmitAOF(io, "AI.SCRIPTSTORE", "sccbclvcc", key, script->base.device, "TAG", script->base.tag,
                        (size_t)script->base.tag_size, "ENTRY_POINTS", (long long)count, names, count, "SOURCE",
                        script->source);
    for (size_t i = 0; i < count; i++) RedisModule_FreeString(NULL, names[i]);
    RedisModule_Free(names);
}

static size_t mem_usage(const void *value) {
    const Script *script = value;
    return runnable_memory(&script->base) + RedisModule_MallocSize(script->source) +
           names_memory(&script->entry_points);
}

static void digest(RedisModuleDigest *result, void *value) {
    Script *script = value;
    runnable_digest(result, &script->base);
    RedisModule_DigestAddStringBuffer(result, script->source, strlen(script->source));
    for (int64_t i = 0; i < script->entry_points.count; i++) {
        const char *name = script->entry_points.names[i];
        RedisModule_DigestAddStringBuffer(result, name, strlen(name));
    }
    RedisModule_DigestEndSequence(result);
}

static int defrag(RedisModuleDefragCtx *ctx, RedisModuleString *key, void **value) {
    Script *script = runnable_defrag(ctx, *value);
    if (script == NULL) return 0;
    *value = script;
    DEFRAG(ctx, script->source);
    names_defrag(ctx, &script->entry_points);
    return 0;
}

int script_type_register(RedisModuleCtx *ctx) {
    ScriptType = runnable_type_register(ctx, "AI_SCRIPT",
                                        (RedisModuleTypeMethods){.rdb_load = rdb_load,
                                                                 .rdb_save = rdb_save,
                                                                 .aof_rewrite = aof_rewrite,
                                                                 .mem_usage = mem_usage,
                                                                 .digest = digest,
                                                                 .defrag = defrag});
    return ScriptType ? REDISMODULE_OK : REDISMODULE_ERR;
}
