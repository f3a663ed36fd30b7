/* runnable.c - what models and scripts have in common (runnable.h). Any thread. No locks: counters are atomic. */
#include "values/runnable.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

static const RunnableHooks *hooks; /* set at load */

void runnable_set_hooks(const RunnableHooks *given) { hooks = given; }

int device_is_valid(const char *text) {
    return strncasecmp(text, "CPU", 3) == 0 || strcasecmp(text, "GPU") == 0 || strncasecmp(text, "GPU:", 4) == 0;
}

int device_is_exact(const char *text, size_t len) {
    if (len < 3 || len >= 10 || !device_is_valid(text)) return 0;
    if (len == 3) return 1;
    if (text[3] != ':' || len == 4) return 0;
    for (size_t i = 4; i < len; i++) {
        if (text[i] < '0' || text[i] > '9') return 0;
    }
    return 1;
}

void bridge_queue_name(const char *device, char name[QUEUE_NAME]) {
    size_t size = strlen(device);
    if (!device_is_exact(device, size)) size = 3;
    for (size_t i = 0; i < size; i++) name[i] = (char)toupper(device[i]);
    name[size] = '\0';
}

uint64_t new_id(void) {
    static uint64_t last_id;
    return __atomic_add_fetch(&last_id, 1, __ATOMIC_RELAXED);
}

void runnable_init(Runnable *runnable, int kind, int backend, void (*destroy)(Runnable *runnable)) {
    runnable->id = new_id();
    runnable->kind = kind;
    runnable->backend = backend;
    runnable->state = RedisModule_Calloc(1, sizeof(RunnableState));
    runnable->state->refs = 1;
    runnable->state->destroy = destroy;
    slowest_init(&runnable->state->slowest);
}

/* Up to size bytes, in which nothing ends a line or a field of INFO, and a NUL. Returns its end. */
static char *print(char *to, const char *text, size_t len, size_t size) {
    for (size_t i = 0; i < len && i < size; i++) *to++ = text[i] > ' ' && !strchr(",=", text[i]) ? text[i] : '?';
    *to = '\0';
    return to;
}

void runnable_set_label(Runnable *runnable, const RedisModuleString *key) {
    size_t len = 1;
    const char *name = key ? RedisModule_StringPtrLen(key, &len) : "?";
    char *at = stpcpy(runnable->state->label, runnable->kind == KIND_MODEL ? "model=" : "script=");
    at = stpcpy(print(at, name, len, 56), ",tag=");
    print(at, runnable->tag, runnable->tag_size, 32);
}

void runnable_key(const Runnable *runnable, char key[RUNNABLE_NAME]) {
    const char *comma = strchr(runnable->state->label, ',');
    const char *start = strchr(runnable->state->label, '=');
    if (comma && start && start < comma) {
        print(key, start + 1, comma - start - 1, RUNNABLE_NAME - 1);
    } else {
        strcpy(key, "?");
    }
}

void runnable_name(const Runnable *runnable, char name[RUNNABLE_NAME]) {
    if (runnable->tag_size) {
        print(name, runnable->tag, runnable->tag_size, RUNNABLE_NAME - 1);
    } else {
        runnable_key(runnable, name);
    }
}

Runnable *runnable_ref(Runnable *runnable) {
    __atomic_add_fetch(&runnable->state->refs, 1, __ATOMIC_RELAXED);
    return runnable;
}

static void drop(void *data);

static void retry_drop(RedisModuleCtx *ctx, void *data) { drop(data); }

static void drop(void *data) {
    /* The event loop also turns inside a long script or a load: then the command may still be under way. */
    int busy = REDISMODULE_CTX_FLAGS_LUA | REDISMODULE_CTX_FLAGS_MULTI | REDISMODULE_CTX_FLAGS_LOADING;
    if (RedisModule_GetContextFlags(log_context) & busy) {
        RedisModule_CreateTimer(log_context, 1, retry_drop, data);
        return;
    }
    hooks->drop(data);
}

/* A model's blob lies in Redis strings, whose reference counts are not atomic. While the command that brought them is
 * under way, the main thread holds references too. So the model goes to the loader in the next iteration of the event
 * loop: no command shares the strings then, and the loader frees them alone. */
void runnable_unref(Runnable *runnable) {
    if (__atomic_sub_fetch(&runnable->state->refs, 1, __ATOMIC_ACQ_REL) != 0) return;
    RedisModule_EventLoopAddOneShot(drop, runnable);
}

int runnable_has_one_ref(const Runnable *runnable) {
    return __atomic_load_n(&runnable->state->refs, __ATOMIC_ACQUIRE) == 1;
}

void runnable_destroy(Runnable *runnable) {
    RedisModule_Free(runnable->device);
    RedisModule_Free(runnable->tag);
    RunnableState *state = runnable->state;
    stats_free(&state->stats);
    slowest_free(&state->slowest);
    state->destroy(runnable);
    RedisModule_Free(state);
}

void runnable_compile(Runnable *runnable) { hooks->compile(runnable); }
int runnable_is_ready(const Runnable *runnable) { return __atomic_load_n(&runnable->state->ready, __ATOMIC_ACQUIRE); }

void runnable_set_ready(Runnable *runnable, struct Queue *queue) {
    runnable->queue = queue;
    __atomic_store_n(&runnable->state->ready, 1, __ATOMIC_RELEASE);
}

void runnable_set_tuning(Runnable *runnable, const Tuning *tuning) {
    const int64_t *from = (const int64_t *)tuning;
    int64_t *to = (int64_t *)&runnable->state->tuning;
    for (size_t i = 0; i < sizeof(*tuning) / sizeof(*to); i++) __atomic_store_n(&to[i], from[i], __ATOMIC_RELAXED);
}
