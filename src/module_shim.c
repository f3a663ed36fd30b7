/* module_shim.c - loads the module: Redis calls RedisModule_OnLoad. Main thread.
 *
 * docs/architecture.md describes the folders, the threads and the locks. Each mutex is named at the head of the file
 * that owns it. All are leaves: none is held while another is taken. */
#include "bindings/bindings.h"
#include "commands/commands.h"
#include "engine/allocator.h"
#include "engine/divisions.h"
#include "engine/interpreter.h"
#include "engine/jobs.h"
#include "engine/options.h"
#include "engine/spawn.h"
#include "flows/flows.h"
#include "isolation/isolation.h"
#include "redis/event_loop.h"
#include "run/queue.h"
#include "values/backend.h"
#include "values/model.h"
#include "values/script.h"
#include "values/tensor.h"

#define MODULE_VERSION 20000 /* 2.0.0 */

/* Imports the backends that load-time options name, e.g. TORCH redisai_torch/redisai_torch.so. The server starts even
 * where one fails: the data matter more, and models of that backend say why they cannot run. */
static void import_backends(RedisModuleCtx *ctx) {
    for (int backend = 0; backend_row(backend); backend++) {
        if (bridge_backend_to_load(backend) == NULL) continue;
        LoaderJob *job = job_new(JOB_IMPORT, NULL);
        job->job.backend = backend;
        job->job.path = RedisModule_Strdup(bridge_backend_to_load(backend));
        job_post_and_wait(job);
        if (job->error) RedisModule_Log(ctx, "warning", "%s %s: %s", backend_name(backend), job->job.path, job->error);
        job_free(job);
    }
}

/* Imports the libraries of PRELOAD in the background. */
static void preload_backends(void) {
    for (int backend = 0; backend_row(backend); backend++) {
        if (!(options_preload() >> backend & 1)) continue;
        LoaderJob *job = job_new(JOB_IMPORT, NULL);
        job->job.backend = backend;
        job_post_early(job);
    }
}

__attribute__((visibility("default"))) int RedisModule_OnLoad(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    const char *missing = redis_api_bind(ctx);
    if (RedisModule_SetModuleAttribs == NULL) return REDISMODULE_ERR;
    /* Loading the same file again would reset the memory that the loaded module uses. */
    if (missing == NULL && RedisModule_IsModuleNameBusy("ai"))
        return log_refusal(log_context, "a module named ai is loaded already");
    RedisModule_SetModuleAttribs(ctx, "ai", MODULE_VERSION, REDISMODULE_APIVER_1);
    if (missing && RedisModule_Log) {
        log_refusal(ctx, "Redis 7.0.6 or later (or Valkey) is needed: this server lacks %s", missing);
    }
    if (missing) return REDISMODULE_ERR;
    log_context = RedisModule_GetDetachedThreadSafeContext(ctx);
    /* Without the first two, Redis switches diskless replication off for the whole server. Without the third, Valkey
     * refuses to migrate slots atomically; Redis may give its bit another meaning. */
    RedisModule_SetModuleOptions(
        ctx, REDISMODULE_OPTIONS_HANDLE_IO_ERRORS | REDISMODULE_OPTIONS_HANDLE_REPL_ASYNC_LOAD |
                 (RedisModule_DefragValkeyModuleString ? VALKEYMODULE_OPTIONS_HANDLE_ATOMIC_SLOT_MIGRATION : 0));

    jobs_init();
    spawn_init();
    if (options_load(ctx, argv, argc) || event_loop_init(ctx, &queue_listener)) return REDISMODULE_ERR;
    if (is_isolated() ? isolation_start(ctx) : engine_start(ctx)) return REDISMODULE_ERR;
    allocator_init();
    divisions_init(ctx);
    import_backends(ctx);
    preload_backends();
    tensor_max_bytes(ctx, UINT64_MAX);
    if (tensor_type_register(ctx) || model_type_register(ctx) || script_type_register(ctx)) return REDISMODULE_ERR;
    if (commands_register(ctx) || info_register(ctx) || bindings_init(ctx) || flows_init(ctx)) return REDISMODULE_ERR;
    return REDISMODULE_OK;
}
