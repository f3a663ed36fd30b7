/* runnable.c - what models and scripts have in common (runnable.h). Any thread. */
#include "runnable.h"

#include "loader.h"
#include "model.h"
#include "script.h"
#include "stats.h"

void runnable_init(Runnable *runnable, int kind, int backend) {
    static uint64_t last_id;
    runnable->id = __atomic_add_fetch(&last_id, 1, __ATOMIC_RELAXED);
    runnable->kind = kind;
    runnable->backend = backend;
    runnable->refs = 1;
}

Runnable *runnable_ref(Runnable *runnable) {
    __atomic_add_fetch(&runnable->refs, 1, __ATOMIC_RELAXED);
    return runnable;
}

static void post_drop(void *data);

static void post_drop_later(RedisModuleCtx *ctx, void *data) {
    (void)ctx;
    post_drop(data);
}

static void post_drop(void *data) {
    /* The event loop also turns inside a long script or a load: then the command may still be under way. */
    int busy = REDISMODULE_CTX_FLAGS_LUA | REDISMODULE_CTX_FLAGS_MULTI | REDISMODULE_CTX_FLAGS_LOADING;
    if (RedisModule_GetContextFlags(log_context) & busy) {
        RedisModule_CreateTimer(log_context, 1, post_drop_later, data);
        return;
    }
    Job *job = job_new(JOB_DROP);
    job->runnable = data;
    loader_post(job);
}

/* A model's blob lies in Redis strings, whose reference counts are not atomic: while the command that brought them is
 * still being worked on, the main thread holds references too. So it goes to the loader only from the next turn of the
 * event loop, when no command that could share its strings is under way, and the loader frees them alone. */
void runnable_unref(Runnable *runnable) {
    if (__atomic_sub_fetch(&runnable->refs, 1, __ATOMIC_ACQ_REL) != 0) return;
    RedisModule_EventLoopAddOneShot(post_drop, runnable);
}

void runnable_destroy(Runnable *runnable) {
    RedisModule_Free(runnable->device);
    RedisModule_Free(runnable->tag);
    stats_free(runnable);
    if (runnable->kind == KIND_MODEL) {
        model_destroy((Model *)runnable);
    } else {
        script_destroy((Script *)runnable);
    }
}

int runnable_is_ready(const Runnable *runnable) {
    return __atomic_load_n(&runnable->ready, __ATOMIC_ACQUIRE);
}
