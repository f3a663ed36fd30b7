/* config.c - AI.CONFIG: loads backends, reads and sets options. Main thread only. */
#include <string.h>

#include "commands/commands.h"
#include "engine/jobs.h"
#include "engine/options.h"
#include "redis/command.h"
#include "run/waiter.h"
#include "values/backend.h"

static int config_get(RedisModuleCtx *ctx, RedisModuleString *name) {
    OptionRow *option = option_named(name);
    if (option && option->at_run_time) return RedisModule_ReplyWithLongLong(ctx, option->python.value);
    if (!arg_is(name, "BACKENDSPATH")) return RedisModule_ReplyWithNull(ctx);
    char *path = bridge_backends_path();
    RedisModule_ReplyWithCString(ctx, path);
    bridge_free(path);
    return REDISMODULE_OK;
}

/* Clients know this text. The administrator finds the reason in the log. */
static int reply_import(RedisModuleCtx *ctx, const LoaderJob *job) {
    if (job->error == NULL) return reply_ok(ctx);
    RedisModule_Log(ctx, "warning", "AI.CONFIG LOADBACKEND: %s", job->error);
    return reply_error(ctx, "error loading backend");
}

static int reply_imported(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    const JobWaiter *waiter = RedisModule_GetBlockedClientPrivateData(ctx);
    return reply_import(ctx, waiter->job);
}

static int config_loadbackend(RedisModuleCtx *ctx, RedisModuleString **argv) {
    int backend = backend_from_name(argv[2]);
    if (backend == -1) return reply_error(ctx, "unsupported backend");
    LoaderJob *job = job_new(JOB_IMPORT, NULL);
    job->job.backend = backend;
    job->job.path = arg_copy(argv[3], NULL);
    if (wait_mode(ctx) == WAIT_BLOCK) return block_on_job(ctx, NULL, 0, job, reply_imported, NULL);
    if (job_post_and_wait_briefly(job) == -1) {
        return reply_error(ctx, "not loaded within %d s; load it outside of transactions and scripts", JOB_PATIENCE);
    }
    reply_import(ctx, job);
    job_free(job);
    return REDISMODULE_OK;
}

static int config_command(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    if (!is_administrator(ctx)) {
        return RedisModule_ReplyWithError(ctx, "NOPERM AI.CONFIG needs a user who may run CONFIG SET");
    }
    if (arg_is(argv[1], "GET")) return argc == 3 ? config_get(ctx, argv[2]) : reply_wrong_arity(ctx, argv);
    if (arg_is(argv[1], "LOADBACKEND")) {
        return argc == 4 ? config_loadbackend(ctx, argv) : reply_wrong_arity(ctx, argv);
    }
    if (arg_is(argv[1], "BACKENDSPATH")) {
        if (argc != 3) return reply_error(ctx, "BACKENDSPATH: missing path argument");
        options_set_backends_path(argv[2]);
        return reply_ok(ctx);
    }
    if (arg_is(argv[1], "MODEL_CHUNK_SIZE")) {
        if (argc != 3) return reply_error(ctx, "MODEL_CHUNK_SIZE: missing chunk size");
        if (option_set(option_named(argv[1]), argv[2]) == -1) {
            return reply_error(ctx, "MODEL_CHUNK_SIZE: invalid chunk size");
        }
        return reply_ok(ctx);
    }
    OptionRow *option = option_named(argv[1]);
    if (option == NULL || !option->at_run_time) return reply_error(ctx, "unsupported subcommand");
    if (argc != 3 || option_set(option, argv[2]) == -1) {
        return reply_error(ctx, "%s: a number from %lld to %lld is needed", arg_text(argv[1]), (long long)option->min,
                           (long long)option->max);
    }
    return reply_ok(ctx);
}

COMMAND(config, .name = "AI.CONFIG", .flags = "admin", .arity = -2,
        .syntax = "action: GET name | BACKENDSPATH path | LOADBACKEND backend path | MODEL_CHUNK_SIZE bytes | "
                  "MAX_QUEUED count | MAX_QUEUED_BYTES bytes",
        .summary = "Reads and sets options, loads backends", .complexity = "O(1), and loading the backend");

const Command *const config_commands[] = {&config, NULL};
