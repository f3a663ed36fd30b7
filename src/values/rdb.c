/* rdb.c - the parts that the saved layouts share (rdb.h). Main thread, and the BGSAVE child. */
#include "values/rdb.h"

#include <string.h>

#include "values/names.h"

void *rdb_corrupt(RedisModuleIO *io, const char *type, const char *reason) {
    const RedisModuleString *key = RedisModule_GetKeyNameFromIO(io);
    RedisModule_LogIOError(io, "warning", "cannot load the %s of key '%s': %s", type,
                           key ? RedisModule_StringPtrLen(key, NULL) : "?",
                           RedisModule_IsIOError(io) ? "the data ends too early" : reason);
    return NULL;
}

char *rdb_load_text(RedisModuleIO *io) {
    size_t size;
    char *text = RedisModule_LoadStringBuffer(io, &size);
    if (text == NULL || RedisModule_IsIOError(io)) return NULL;
    if (size > 0 && memchr(text, '\0', size) == text + size - 1) return text;
    RedisModule_Free(text);
    return NULL;
}

void rdb_save_text(RedisModuleIO *io, const char *text) { RedisModule_SaveStringBuffer(io, text, strlen(text) + 1); }

char *rdb_load_bytes(RedisModuleIO *io, uint64_t *size) {
    size_t len;
    char *bytes = RedisModule_LoadStringBuffer(io, &len);
    if (bytes == NULL || RedisModule_IsIOError(io)) return NULL;
    bytes = RedisModule_Realloc(bytes, len + 1);
    bytes[len] = '\0';
    *size = len;
    return bytes;
}

int rdb_load_names(RedisModuleIO *io, Names *names) {
    uint64_t count = RedisModule_LoadUnsigned(io);
    if (RedisModule_IsIOError(io)) return -1;
    /* The list grows as names arrive: a broken count allocates nothing. */
    for (uint64_t i = 0; i < count; i++) {
        char *name = rdb_load_text(io);
        if (name == NULL) {
            names_free(names);
            return -1;
        }
        names_append(names, name);
    }
    return 0;
}

void rdb_save_names(RedisModuleIO *io, const Names *names) {
    RedisModule_SaveUnsigned(io, names->count);
    for (int64_t i = 0; i < names->count; i++) rdb_save_text(io, names->names[i]);
}

RedisModuleString *rdb_load_string(RedisModuleIO *io) {
    size_t size;
    char *bytes = RedisModule_LoadStringBuffer(io, &size);
    if (bytes == NULL || RedisModule_IsIOError(io)) return NULL;
    RedisModuleString *string = RedisModule_CreateString(NULL, bytes, size);
    RedisModule_Free(bytes);
    return string;
}

void rdb_save_string(RedisModuleIO *io, const RedisModuleString *string) {
    size_t size;
    const char *bytes = RedisModule_StringPtrLen(string, &size);
    RedisModule_SaveStringBuffer(io, bytes, size);
}

/* ---- data beside keys -------------------------------------------------------------------------------------------- */

#define BEFORE_KEYS (1 << 0) /* in the file */
#define WITH_AUX_SAVE2 5     /* version of RedisModuleTypeMethods */

int rdb_beside_keys_is_free(void) { return RedisModule_GetTypeMethodVersion() >= WITH_AUX_SAVE2; }

/* No key has a value of such a type. */
static void *no_load(RedisModuleIO *io, int encver) { return NULL; }
static void no_save(RedisModuleIO *io, void *value) {}
static void no_rewrite(RedisModuleIO *io, RedisModuleString *key, void *value) {}
static void no_free(void *value) {}

int rdb_register_beside_keys(RedisModuleCtx *ctx, const char *type, int version,
                             int (*load)(RedisModuleIO *io, int encver, int when),
                             void (*save)(RedisModuleIO *io, int when)) {
    RedisModuleTypeMethods methods = {.version = REDISMODULE_TYPE_METHOD_VERSION,
                                      .rdb_load = no_load,
                                      .rdb_save = no_save,
                                      .aof_rewrite = no_rewrite,
                                      .free = no_free,
                                      .aux_load = load,
                                      .aux_save_triggers = BEFORE_KEYS};
    if (rdb_beside_keys_is_free()) {
        methods.version = WITH_AUX_SAVE2;
        methods.aux_save2 = save;
    } else {
        methods.aux_save = save;
    }
    return RedisModule_CreateDataType(ctx, type, version, &methods) ? REDISMODULE_OK : REDISMODULE_ERR;
}
