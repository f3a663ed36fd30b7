/* stored.c - stored models and scripts: storing, finding, deleting (stored.h). Main thread only.
 *
 * To store is to compile and to set the key. It blocks the client, not the server: the loader compiles, and the reply
 * callback sets the key. */
#include "commands/stored.h"

#include "engine/jobs.h"
#include "redis/command.h"
#include "run/unblock.h"
#include "values/model.h"
#include "values/script.h"

static RedisModuleType *type_of(int kind) { return kind == KIND_MODEL ? ModelType : ScriptType; }

void *find_runnable(RedisModuleCtx *ctx, RedisModuleString *name, int kind) {
    return lookup_value(ctx, name, type_of(kind), kind == KIND_MODEL ? "model key is empty" : "script key is empty");
}

/* What has been compiled becomes the key's value, unless the key has got another type meanwhile. */
static int set_compiled(RedisModuleCtx *ctx, RedisModuleString *name, const LoaderJob *job) {
    if (job->error) return reply_error(ctx, "%s", job->error);
    RedisModuleType *type = type_of(job->job.runnable->kind);
    if (!key_accepts(ctx, name, type)) return REDISMODULE_OK;
    key_set_value(ctx, name, type, runnable_ref(job->job.runnable));
    RedisModule_ReplicateVerbatim(ctx);
    return reply_ok(ctx);
}

static int reply_stored(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    if (!key_is_here(ctx, argv[1])) return REDISMODULE_OK;
    return set_compiled(ctx, argv[1], RedisModule_GetBlockedClientPrivateData(ctx));
}

int store_runnable(RedisModuleCtx *ctx, RedisModuleString **argv, Runnable *runnable) {
    LoaderJob *job = job_new(JOB_LOAD, runnable);
    WaitMode mode = wait_mode(ctx);
    if (mode == WAIT_BLOCK) return block_on_job(ctx, job, reply_stored);
    if (mode == WAIT_MAIN_THREAD) {
        if (job_post_and_wait(job, JOB_PATIENCE) == -1) {
            return reply_error(ctx, "not compiled within %d s; store it outside of transactions and scripts",
                               JOB_PATIENCE);
        }
        set_compiled(ctx, argv[1], job);
        job_free(job);
        return REDISMODULE_OK;
    }
    /* From the master or the AOF: it was accepted once, so it is kept even if it cannot be compiled here. */
    key_set_value(ctx, argv[1], type_of(runnable->kind), runnable_ref(runnable));
    RedisModule_ReplicateVerbatim(ctx);
    job_post(job);
    return reply_ok(ctx);
}

int delete_runnable(RedisModuleCtx *ctx, RedisModuleString **argv, int kind) {
    if (find_runnable(ctx, argv[1], kind) == NULL) return REDISMODULE_OK;
    RedisModuleKey *key = RedisModule_OpenKey(ctx, argv[1], REDISMODULE_READ | REDISMODULE_WRITE);
    RedisModule_DeleteKey(key);
    RedisModule_CloseKey(key);
    RedisModule_ReplicateVerbatim(ctx);
    return reply_ok(ctx);
}
