/* defrag.h - moves memory to where it leaves fewer gaps, for the datatypes' defrag callbacks. Main thread.
 *
 * Only what nobody else can reach may move: the caller has seen that the keyspace holds the only reference. */
#pragma once

#include "redis/api.h"

/* Moves what a pointer points to, if anything, and changes the pointer. */
#define DEFRAG(ctx, pointer)                                                                                           \
    do {                                                                                                               \
        void *moved = (pointer) ? RedisModule_DefragAlloc(ctx, (void *)(pointer)) : NULL;                              \
        if (moved) (pointer) = moved;                                                                                  \
    } while (0)

/* Moves a string, if nobody shares it, and returns where its bytes are now. */
static inline const char *defrag_string(RedisModuleDefragCtx *ctx, RedisModuleString **string) {
    RedisModuleString *moved = NULL; /* the bytes may have moved all the same */
    if (RedisModule_DefragRedisModuleString) {
        moved = RedisModule_DefragRedisModuleString(ctx, *string);
    } else if (RedisModule_DefragValkeyModuleString) {
        moved = RedisModule_DefragValkeyModuleString(ctx, *string);
    }
    if (moved) *string = moved;
    return RedisModule_StringPtrLen(*string, NULL);
}
