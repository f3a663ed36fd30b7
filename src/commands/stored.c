/* stored.c - stored models and scripts: storing, finding, deleting (stored.h). Main thread only.
 *
 * To store is to compile and to set the key. It blocks the client, not the server: the loader compiles, then the main
 * thread sets the key. */
#include "commands/stored.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "engine/jobs.h"
#include "redis/command.h"
#include "run/waiter.h"
#include "values/model.h"
#include "values/script.h"

static RedisModuleType *type_of(int kind) { return kind == KIND_MODEL ? ModelType : ScriptType; }

void *find_runnable(RedisModuleCtx *ctx, RedisModuleString *name, int kind) {
    return lookup_value(ctx, name, type_of(kind), kind == KIND_MODEL ? "model key is empty" : "script key is empty");
}

uint64_t runnable_id_at(RedisModuleCtx *ctx, RedisModuleString *name) {
    RedisModuleKey *key = RedisModule_OpenKey(ctx, name, REDISMODULE_READ);
    RedisModuleType *type = key ? RedisModule_ModuleTypeGetType(key) : NULL;
    const Runnable *runnable = type == ModelType || type == ScriptType ? RedisModule_ModuleTypeGetValue(key) : NULL;
    uint64_t id = runnable ? runnable->id : 0;
    if (key) RedisModule_CloseKey(key);
    return id;
}

void stored_notify(RedisModuleCtx *ctx, RedisModuleString **argv) {
    char event[32];
    snprintf(event, sizeof(event), "%s", arg_text(argv[0]));
    for (char *at = event; *at; at++) *at = (char)tolower(*at);
    key_notify(ctx, argv[1], event);
}

/* What has been compiled becomes the key's value, and the command is replicated: by its words, because the context may
 * have no client whose command ReplicateVerbatim could take. */
static void set_compiled(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, Runnable *runnable) {
    key_set_value(ctx, argv[1], type_of(runnable->kind), runnable_ref(runnable));
    RedisModule_Replicate(ctx, arg_text(argv[0]), "v", argv + 1, (size_t)argc - 1);
    stored_notify(ctx, argv);
}

static void write_compiled(RedisModuleCtx *ctx, Waiter *waiter) {
    JobWaiter *store = (JobWaiter *)waiter;
    Runnable *runnable = store->job->job.runnable;
    store->refusal = key_refusal(ctx, store->argv[1], type_of(runnable->kind));
    if (store->refusal == NULL) set_compiled(ctx, store->argv, store->argc, runnable);
}

static int reply_result(RedisModuleCtx *ctx, const LoaderJob *job, const char *refusal) {
    if (job->error) return reply_error(ctx, "%s", job->error);
    return refusal ? RedisModule_ReplyWithError(ctx, refusal) : reply_ok(ctx);
}

static int reply_stored(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    const JobWaiter *store = RedisModule_GetBlockedClientPrivateData(ctx);
    return reply_result(ctx, store->job, store->refusal);
}

int store_runnable(RedisModuleCtx *ctx, RedisModuleString **argv, int argc, Runnable *runnable) {
    WaitMode mode = wait_mode(ctx);
    runnable_set_label(runnable, argv[1]);
    if (mode == WAIT_NOT) {
        /* From the master or the AOF: it was accepted once, so it is kept even if it cannot be compiled here. */
        key_set_value(ctx, argv[1], type_of(runnable->kind), runnable);
        runnable_compile(runnable);
        RedisModule_ReplicateVerbatim(ctx);
        stored_notify(ctx, argv);
        return reply_ok(ctx);
    }
    LoaderJob *job = job_new(JOB_LOAD, runnable);
    job->job.is_store = 1;
    if (mode == WAIT_BLOCK) return block_on_job(ctx, argv, argc, job, reply_stored, write_compiled);
    if (job_post_and_wait_briefly(job) == -1) {
        return reply_error(ctx, "not compiled within %d s; store it outside of transactions and scripts", JOB_PATIENCE);
    }
    if (job->error == NULL) set_compiled(ctx, argv, argc, runnable);
    reply_result(ctx, job, NULL);
    job_free(job);
    return REDISMODULE_OK;
}

typedef struct Search {
    int db;
    const RedisModuleString *key;
    int (*kill)(uint64_t id);
    int killed;
} Search;

static void kill_store(void *data, Waiter *waiter) {
    Search *search = data;
    const JobWaiter *store = (const JobWaiter *)waiter;
    if (waiter->write != write_compiled || waiter->db != search->db || search->killed) return;
    size_t size, theirs;
    const char *key = RedisModule_StringPtrLen(search->key, &size);
    const char *stored = RedisModule_StringPtrLen(store->argv[1], &theirs);
    if (size != theirs || memcmp(key, stored, size)) return;
    search->killed = search->kill(store->job->job.runnable->id);
}

int kill_stores(RedisModuleCtx *ctx, const RedisModuleString *key, int (*kill)(uint64_t id)) {
    Search search = {.db = RedisModule_GetSelectedDb(ctx), .key = key, .kill = kill};
    int at = 0;
    do {
        at = waiter_visit(at, kill_store, &search);
    } while (at);
    return search.killed;
}

int delete_runnable(RedisModuleCtx *ctx, RedisModuleString **argv, int kind) {
    if (find_runnable(ctx, argv[1], kind) == NULL) return REDISMODULE_OK;
    RedisModuleKey *key = RedisModule_OpenKey(ctx, argv[1], REDISMODULE_READ | REDISMODULE_WRITE);
    RedisModule_DeleteKey(key);
    RedisModule_CloseKey(key);
    RedisModule_ReplicateVerbatim(ctx);
    stored_notify(ctx, argv);
    RedisModule_NotifyKeyspaceEvent(ctx, REDISMODULE_NOTIFY_GENERIC, "del", argv[1]); /* as DEL does */
    return reply_ok(ctx);
}
