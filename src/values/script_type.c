/* values/script_type.c - AI_SCRIPT, the datatype: saving, loading, memory, copies.
 *
 * Callbacks run on the main thread, save and rewrite in the BGSAVE child, free also on Redis's lazy-free thread. */
#include <string.h>

#include "values/device.h"
#include "values/names.h"
#include "values/rdb.h"
#include "values/script.h"
#include "values/stats.h"

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

/* string device, rstring tag (a string in version 0), string source, from version 3 the entry points. */
static const char *load_definition(RedisModuleIO *io, Script *script, int encver) {
    script->base.device = rdb_load_text(io);
    if (script->base.device == NULL || !device_is_valid(script->base.device, strlen(script->base.device)))
        return "not a device";
    if (encver == 0) {
        script->base.tag = rdb_load_text(io);
        script->base.tag_size = script->base.tag ? strlen(script->base.tag) : 0;
    } else {
        script->base.tag = rdb_load_bytes(io, &script->base.tag_size);
    }
    if (script->base.tag == NULL) return "no tag";
    script->source = rdb_load_text(io);
    if (script->source == NULL) return "no source";
    if (encver >= 3 && rdb_load_names(io, &script->entry_points) == -1) return "broken list of entry points";
    return NULL;
}

static void *script_rdb_load(RedisModuleIO *io, int encver) {
    if (encver > RDB_ENCODING_VERSION) return rdb_corrupt(io, "script", "saved by a newer version");
    Script *script = script_new();
    const char *error = load_definition(io, script, encver);
    if (error || RedisModule_IsIOError(io)) {
        rdb_corrupt(io, "script", error);
        runnable_destroy(&script->base); /* the loader has never heard of it */
        return NULL;
    }
    runnable_compile(&script->base);
    return script;
}

static void script_rdb_save(RedisModuleIO *io, void *value) {
    Script *script = value;
    rdb_save_text(io, script->base.device);
    RedisModule_SaveStringBuffer(io, script->base.tag, script->base.tag_size);
    rdb_save_text(io, script->source);
    rdb_save_names(io, &script->entry_points);
}

/* A script without entry points goes out as AI.SCRIPTSET, which asks for none. */
static void script_aof_rewrite(RedisModuleIO *io, RedisModuleString *key, void *value) {
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

static size_t script_mem_usage(const void *value) {
    const Script *script = value;
    return KEY_OVERHEAD + RedisModule_MallocSize((void *)script) + RedisModule_MallocSize(script->base.device) +
           RedisModule_MallocSize(script->base.tag) + stats_memory(&script->base) +
           RedisModule_MallocSize(script->source) + names_memory(&script->entry_points);
}

static void script_digest(RedisModuleDigest *digest, void *value) {
    Script *script = value;
    RedisModule_DigestAddStringBuffer(digest, script->base.device, strlen(script->base.device));
    RedisModule_DigestAddStringBuffer(digest, script->base.tag, script->base.tag_size);
    RedisModule_DigestAddStringBuffer(digest, script->source, strlen(script->source));
    for (int64_t i = 0; i < script->entry_points.count; i++) {
        const char *name = script->entry_points.names[i];
        RedisModule_DigestAddStringBuffer(digest, name, strlen(name));
    }
    RedisModule_DigestEndSequence(digest);
}

static void script_free(void *value) {
    runnable_unref(value);
}

static size_t script_free_effort(RedisModuleString *key, const void *value) {
    (void)key;
    (void)value;
    return 1;
}

/* One definition, one session, one set of statistics under two names, as for models. */
static void *script_copy(RedisModuleString *from, RedisModuleString *to, const void *value) {
    (void)from;
    (void)to;
    return runnable_ref((Runnable *)value);
}

int script_type_register(RedisModuleCtx *ctx) {
    RedisModuleTypeMethods methods = {
        .version = REDISMODULE_TYPE_METHOD_VERSION,
        .rdb_load = script_rdb_load,
        .rdb_save = script_rdb_save,
        .aof_rewrite = script_aof_rewrite,
        .mem_usage = script_mem_usage,
        .digest = script_digest,
        .free = script_free,
        .free_effort = script_free_effort,
        .copy = script_copy,
    };
    ScriptType = RedisModule_CreateDataType(ctx, "AI_SCRIPT", RDB_ENCODING_VERSION, &methods);
    return ScriptType ? REDISMODULE_OK : REDISMODULE_ERR;
}
