/* inside_api.c - the part of Redis's API that an engine process needs (inside.h). Any thread.
 *
 * Lock: stretch_mutex, a leaf. */
#include <malloc.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "isolation/arena.h"
#include "isolation/inside.h"
#include "redis/api.h"

static pthread_mutex_t stretch_mutex = PTHREAD_MUTEX_INITIALIZER;
static Arena stretch;
static uint64_t blocks; /* given out; under the mutex */
static void (*write_log)(const char *level, const char *text);
static void (*run_ended)(void *waiter);

/* ---- memory: a block in the stretch begins with its size, 64 bytes before what is given out ------------------------
 */

#define PREFIX 64
#define KEPT (16 << 20) /* of the stretch, while nothing runs */

void *inside_alloc(uint64_t size) {
    uint64_t offset, total;
    if (__builtin_add_overflow(size, PREFIX, &total)) return NULL;
    pthread_mutex_lock(&stretch_mutex);
    char *block = arena_alloc(&stretch, total, &offset);
    blocks += block != NULL;
    pthread_mutex_unlock(&stretch_mutex);
    if (block == NULL) return NULL;
    memcpy(block, &total, sizeof(total));
    return block + PREFIX;
}

uint64_t inside_offset(const void *memory) { return (uint64_t)((const char *)memory - stretch.base); }

void inside_limit_stretch(uint64_t size) {
    if (size < stretch.size) stretch.size = size;
}

void inside_rest(void) {
    pthread_mutex_lock(&stretch_mutex);
    if (blocks == 0 && stretch.used > KEPT) {
        madvise(stretch.base, stretch.used, MADV_REMOVE);
        arena_reset(&stretch);
    }
    pthread_mutex_unlock(&stretch_mutex);
    malloc_trim(0);
}

static void *or_abort(void *memory) {
    if (memory == NULL) abort();
    return memory;
}

static void *inside_Alloc(size_t size) { return or_abort(malloc(size ? size : 1)); }
static void *inside_Calloc(size_t count, size_t size) { return or_abort(calloc(count ? count : 1, size ? size : 1)); }
static void *inside_Realloc(void *memory, size_t size) { return or_abort(realloc(memory, size ? size : 1)); }
static char *inside_Strdup(const char *text) { return or_abort(strdup(text)); }
static void *inside_TryAlloc(size_t size) { return inside_alloc(size); }
static void *inside_TryCalloc(size_t count, size_t size) { return calloc(count, size); }

static void inside_Free(void *memory) {
    if (memory == NULL || inside_offset(memory) >= stretch.size) {
        free(memory);
        return;
    }
    char *block = (char *)memory - PREFIX;
    uint64_t total;
    memcpy(&total, block, sizeof(total));
    pthread_mutex_lock(&stretch_mutex);
    arena_free(&stretch, inside_offset(block), total);
    blocks--;
    pthread_mutex_unlock(&stretch_mutex);
}

/* ---- strings: 64 bytes with the length, then the bytes ------------------------------------------------------------
 */

static RedisModuleString *inside_CreateString(RedisModuleCtx *ctx, const char *data, size_t size) {
    char *string = or_abort(inside_alloc(size + PREFIX + 1));
    memcpy(string, &size, sizeof(size));
    memcpy(string + PREFIX, data, size);
    string[PREFIX + size] = '\0';
    return (RedisModuleString *)string;
}

static void inside_FreeString(RedisModuleCtx *ctx, RedisModuleString *string) { inside_Free(string); }

static const char *inside_StringPtrLen(const RedisModuleString *string, size_t *size) {
    if (size) memcpy(size, string, sizeof(*size));
    return (const char *)string + PREFIX;
}

/* ---- the rest -----------------------------------------------------------------------------------------------------
 */

static void inside_Log(RedisModuleCtx *ctx, const char *level, const char *format, ...) {
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    write_log(level, text);
}

/* There is no event loop, and no command is ever under way. */
static int inside_EventLoopAddOneShot(RedisModuleEventLoopOneShotFunc function, void *data) {
    function(data);
    return REDISMODULE_OK;
}

/* Never called. Its presence tells run/waiter.c that ends of runs need no event loop. */
static int inside_AddACLCategory(RedisModuleCtx *ctx, const char *name) { return REDISMODULE_ERR; }

static int inside_GetContextFlags(RedisModuleCtx *ctx) { return 0; }
static int inside_BlockedClientMeasureTimeEnd(RedisModuleBlockedClient *client) { return REDISMODULE_OK; }

static int inside_UnblockClient(RedisModuleBlockedClient *client, void *waiter) {
    run_ended(waiter);
    return REDISMODULE_OK;
}

void inside_bind_api(Shared *shared, void (*log)(const char *level, const char *text),
                     void (*unblocked)(void *waiter)) {
    arena_init(&stretch, process_stretch(shared), STRETCH);
    write_log = log;
    run_ended = unblocked;
    RedisModule_Alloc = inside_Alloc;
    RedisModule_Calloc = inside_Calloc;
    RedisModule_Realloc = inside_Realloc;
    RedisModule_Free = inside_Free;
    RedisModule_Strdup = inside_Strdup;
    RedisModule_TryAlloc = inside_TryAlloc;
    RedisModule_TryCalloc = inside_TryCalloc;
    RedisModule_CreateString = inside_CreateString;
    RedisModule_FreeString = inside_FreeString;
    RedisModule_StringPtrLen = inside_StringPtrLen;
    RedisModule_Log = inside_Log;
    RedisModule_EventLoopAddOneShot = inside_EventLoopAddOneShot;
    RedisModule_GetContextFlags = inside_GetContextFlags;
    RedisModule_BlockedClientMeasureTimeEnd = inside_BlockedClientMeasureTimeEnd;
    RedisModule_UnblockClient = inside_UnblockClient;
    RedisModule_AddACLCategory = inside_AddACLCategory;
}
