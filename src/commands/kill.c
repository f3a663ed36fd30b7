/* kill.c - AI.KILL: ends what runs or compiles a model or script now, or one run. Main thread only. */
#include "commands/commands.h"
#include "commands/stored.h"
#include "direct/direct.h"
#include "engine/options.h"
#include "isolation/isolation.h"
#include "redis/command.h"
#include "run/run.h"

static int kill_key(RedisModuleCtx *ctx, RedisModuleString *key) {
    if (!is_isolated()) return reply_error(ctx, "AI.KILL needs the module to be loaded with ISOLATION process");
    uint64_t id = runnable_id_at(ctx, key);
    int killed = id ? isolation_kill(id) : 0;
    if (killed == 0) killed = kill_stores(ctx, key, isolation_kill);
    if (killed < 0) return reply_error(ctx, "another AI.KILL ends the process of this device just now; try again");
    if (killed) return reply_ok(ctx);
    if (id == 0) return reply_error(ctx, "no model or script at this key");
    return RedisModule_ReplyWithError(ctx, "NOTBUSY Nothing runs this model or script right now.");
}

/* ---- one run ----------------------------------------------------------------------------------------------------- */

typedef struct Search {
    long long id;
    Run *found;
} Search;

static void look_at(void *data, Waiter *waiter) {
    Search *search = data;
    Run *run = run_of(waiter);
    if (run && run_is_waiting(run) && run->id == (uint64_t)search->id) search->found = run;
}

/* An op of the run that has begun and that nothing here can end: of the libraries of this process, only ONNX Runtime
 * can, and only in runs that C has begun. NULL: there is none. */
static const Op *find_endless(const Run *run) {
    for (const Op *op = run->ops; op < run->ops + run->nops && !is_isolated(); op++) {
        if (op_status(op) == OP_RUNNING && !watch_find(op, 0)) return op;
    }
    return NULL;
}

static int kill_run(RedisModuleCtx *ctx, const RedisModuleString *arg) {
    Search search = {0};
    char name[RUNNABLE_NAME];
    int at = 0;
    if (RedisModule_StringToLongLong(arg, &search.id) == REDISMODULE_ERR || search.id <= 0) {
        return reply_error(ctx, "AI.KILL RUN: the id of a run is needed, as AI.RUNS tells it");
    }
    do {
        at = waiter_visit(at, look_at, &search);
    } while (at && search.found == NULL);
    Run *run = search.found;
    if (run == NULL) return RedisModule_ReplyWithError(ctx, "NOTBUSY No run with this id waits or is under way.");
    const Op *endless = find_endless(run);
    if (endless) {
        runnable_key(endless->runnable, name);
        return reply_error(ctx,
                           "the run of '%s' is under way, and only the option ISOLATION process could end it; CLIENT "
                           "UNBLOCK %llu ends the client's wait",
                           name, (unsigned long long)run->waiter.client);
    }
    if (is_isolated()) isolation_kill(run->id); /* where the process is about to end anyway, the run ends with it */
    run_kill(run);
    for (const Op *op = run->ops; op < run->ops + run->nops; op++) watch_find(op, 1);
    return reply_ok(ctx);
}

/* A key may be called RUN: then it is the last word. */
static int kill_command(RedisModuleCtx *ctx, RedisModuleString **argv, int argc) {
    if (RedisModule_IsKeysPositionRequest(ctx)) {
        if (argc == 2) RedisModule_KeyAtPosWithFlags(ctx, 1, KEY_READ);
        return REDISMODULE_OK;
    }
    if (!is_administrator(ctx)) {
        return RedisModule_ReplyWithError(ctx, "NOPERM AI.KILL needs a user who may run CONFIG SET");
    }
    if (argc == 2) return kill_key(ctx, argv[1]);
    return arg_is(argv[1], "RUN") ? kill_run(ctx, argv[2]) : reply_wrong_arity(ctx, argv);
}

COMMAND(kill, .name = "AI.KILL", .flags = "admin readonly getkeys-api", .arity = -2, .most_words = 3, .since = "2.0.0",
        .keys = {{"key", KEY_READ, ANYWHERE}}, .syntax = "target: key | RUN id",
        .summary = "Ends what runs or compiles a model or script now, or one run",
        .complexity = "O(N) where N is the number of clients that wait for runs or stores");

const Command *const kill_commands[] = {&kill, NULL};
