/* redis/command.c - what every command handler needs (redis/command.h). Main thread only. */
#include "redis/command.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

int arg_is(const RedisModuleString *arg, const char *word) {
    size_t len;
    const char *text = RedisModule_StringPtrLen(arg, &len);
    return len == strlen(word) && strncasecmp(text, word, len) == 0;
}

char *arg_copy(const RedisModuleString *arg) {
    size_t len;
    const char *text = RedisModule_StringPtrLen(arg, &len);
    char *copy = RedisModule_Alloc(len + 1);
    memcpy(copy, text, len);
    copy[len] = '\0';
    return copy;
}

/* The latest error replied. */
static char text[4096];

int reply_error(RedisModuleCtx *ctx, const char *format, ...) {
    va_list args;
    int prefix = snprintf(text, sizeof(text), "ERR ");
    va_start(args, format);
    vsnprintf(text + prefix, sizeof(text) - prefix, format, args);
    va_end(args);
    /* A client's own bytes may be in the text; a line break would end the reply early. */
    for (char *c = text; *c; c++) {
        if (*c == '\r' || *c == '\n') *c = ' ';
    }
    RedisModule_ReplyWithError(ctx, text);
    return REDISMODULE_OK;
}

int reply_wrong_type(RedisModuleCtx *ctx) {
    strcpy(text, REDISMODULE_ERRORMSG_WRONGTYPE);
    return RedisModule_ReplyWithError(ctx, text);
}

int refuse_to_store(RedisModuleCtx *ctx, RedisModuleString **argv) {
    if (wait_mode(ctx) == WAIT_NOT) {
        RedisModule_Log(ctx, "warning", "%s from the AOF or the master cannot be stored at key '%s': %s",
                        RedisModule_StringPtrLen(argv[0], NULL), RedisModule_StringPtrLen(argv[1], NULL), text);
    }
    return REDISMODULE_OK;
}

int reply_ok(RedisModuleCtx *ctx) {
    return RedisModule_ReplyWithSimpleString(ctx, "OK");
}

void reply_number(RedisModuleCtx *ctx, const char *field, int64_t number) {
    RedisModule_ReplyWithCString(ctx, field);
    RedisModule_ReplyWithLongLong(ctx, number);
}

int reply_wrong_arity(RedisModuleCtx *ctx, RedisModuleString **argv) {
    return reply_error(ctx, "wrong number of arguments for '%s' command", RedisModule_StringPtrLen(argv[0], NULL));
}

void *lookup_value(RedisModuleCtx *ctx, RedisModuleString *name, RedisModuleType *type, int *replied) {
    *replied = 0;
    RedisModuleKey *key = RedisModule_OpenKey(ctx, name, REDISMODULE_READ);
    if (key == NULL) return NULL;

    void *value = NULL;
    if (RedisModule_KeyType(key) != REDISMODULE_KEYTYPE_EMPTY) {
        if (RedisModule_ModuleTypeGetType(key) == type) {
            value = RedisModule_ModuleTypeGetValue(key);
        } else {
            reply_wrong_type(ctx);
            *replied = 1;
        }
    }
    RedisModule_CloseKey(key);
    return value;
}

int key_accepts(RedisModuleCtx *ctx, RedisModuleString *name, RedisModuleType *type) {
    RedisModuleKey *key = RedisModule_OpenKey(ctx, name, REDISMODULE_READ);
    if (key == NULL) return 1;
    int accepts = RedisModule_KeyType(key) == REDISMODULE_KEYTYPE_EMPTY || RedisModule_ModuleTypeGetType(key) == type;
    RedisModule_CloseKey(key);
    return accepts;
}

int key_is_here(RedisModuleCtx *ctx, RedisModuleString *name) {
    static int in_cluster = -1; /* for the life of the server; to ask costs 0.1 us */
    if (in_cluster < 0) in_cluster = (RedisModule_GetContextFlags(ctx) & REDISMODULE_CTX_FLAGS_CLUSTER) != 0;
    if (!in_cluster) return 1;
    /* The API tells nothing about slots, but a call is refused where the client's command would be redirected. */
    RedisModuleCallReply *reply = RedisModule_Call(ctx, "EXISTS", "s", name);
    if (reply) {
        RedisModule_FreeCallReply(reply);
        return 1;
    }
    RedisModule_ReplyWithError(ctx, "TRYAGAIN The slot has moved, or is moving, to another node");
    return 0;
}

void store_value(RedisModuleCtx *ctx, RedisModuleString *name, RedisModuleType *type, void *value) {
    RedisModuleKey *key = RedisModule_OpenKey(ctx, name, REDISMODULE_READ | REDISMODULE_WRITE);
    RedisModule_ModuleTypeSetValue(key, type, value);
    RedisModule_CloseKey(key);
}

WaitMode wait_mode(RedisModuleCtx *ctx) {
    int flags = RedisModule_GetContextFlags(ctx);
    if (flags & (REDISMODULE_CTX_FLAGS_LOADING | REDISMODULE_CTX_FLAGS_REPLICATED)) return WAIT_NOT;
    if (flags & (REDISMODULE_CTX_FLAGS_MULTI | REDISMODULE_CTX_FLAGS_LUA | REDISMODULE_CTX_FLAGS_DENY_BLOCKING)) {
        return WAIT_MAIN_THREAD;
    }
    return WAIT_BLOCK;
}
