/* api.c - finds the functions of the Redis module API by name, once, on the main thread, at load. */
#include "redis/api.h"

#include <stdarg.h>
#include <stdio.h>

#define DEFINE(result, name, arguments) result(*RedisModule_##name) arguments;
REDIS_FUNCTIONS(DEFINE, DEFINE)
#undef DEFINE

RedisModuleCtx *log_context;

static const struct {
    const char *name;
    void *pointer;
    int required;
} functions[] = {
#define REQUIRED_ROW(result, name, arguments) {"RedisModule_" #name, &RedisModule_##name, 1},
#define OPTIONAL_ROW(result, name, arguments) {"RedisModule_" #name, &RedisModule_##name, 0},
    REDIS_FUNCTIONS(REQUIRED_ROW, OPTIONAL_ROW)};

const char *redis_api_bind(RedisModuleCtx *ctx) {
    /* The first pointer in a module context is the server's look-up function: that is the documented ABI. */
    int (*get_api)(const char *, void *) = ((int (**)(const char *, void *))ctx)[0];

    const char *missing = NULL; /* the rest is bound all the same: the reason must reach the log */
    for (size_t i = 0; i < sizeof(functions) / sizeof(functions[0]); i++) {
        int found = get_api(functions[i].name, functions[i].pointer) == REDISMODULE_OK;
        if (!found && functions[i].required && missing == NULL) missing = functions[i].name;
    }
    return missing;
}

int log_refusal(RedisModuleCtx *ctx, const char *format, ...) {
    char reason[1200];
    va_list args;
    va_start(args, format);
    vsnprintf(reason, sizeof(reason), format, args);
    va_end(args);
    RedisModule_Log(ctx, "warning", "%s", reason);
    return REDISMODULE_ERR;
}
