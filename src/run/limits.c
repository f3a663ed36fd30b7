/* limits.c - how many runs wait, and the limits of that (limits.h).
 *
 * The main thread counts what comes, in numbers of its own; whoever has an op counts what leaves, by atomics. So a run
 * that is admitted costs the main thread no atomic operation. No locks. */
#include "run/limits.h"

#include <stdio.h>
#include <string.h>

#include "engine/options.h"
#include "run/queue.h"
#include "values/model.h"

static struct {
    int64_t runs, bytes, refused; /* main thread */
    struct {
        _Alignas(64) int64_t runs; /* atomic, like the next */
        int64_t bytes;
    } left;
} server;

static int64_t get(const int64_t *counter) { return __atomic_load_n(counter, __ATOMIC_RELAXED); }
static void add(int64_t *counter, int64_t number) { __atomic_add_fetch(counter, number, __ATOMIC_RELAXED); }

int64_t limits_waiting(const Runnable *runnable) { return runnable->state->submitted - get(&runnable->state->left); }

ServerFigures limits_figures(void) {
    return (ServerFigures){.runs = server.runs - get(&server.left.runs),
                           .bytes = server.bytes - get(&server.left.bytes),
                           .refused = server.refused};
}

void limits_leave(Op *const *ops, int n) {
    int64_t runs = 0, bytes = 0;
    for (int i = 0; i < n; i++) {
        OpState *state = ops[i]->state;
        if (!state->is_waiting) continue;
        state->is_waiting = 0;
        add(&ops[i]->runnable->state->left, 1);
        runs++;
        bytes += state->bytes;
    }
    if (runs == 0) return;
    add(&server.left.runs, runs);
    add(&server.left.bytes, bytes);
}

typedef struct Count {
    int64_t runs, bytes;
} Count;

static Count count(Run *run) {
    Count own = {0};
    for (Op *op = run->ops; op < run->ops + run->nops; op++) {
        OpState *state = op->state;
        if (op_status(op) == OP_DONE) continue; /* from the cache */
        own.runs++;
        for (int i = 0; i < op->ninputs; i++) {
            if (op->inputs[i]) state->bytes += (int64_t)op->inputs[i]->size;
        }
        state->is_waiting = 1;
        op->runnable->state->submitted++;
        own.bytes += state->bytes;
    }
    server.runs += own.runs;
    server.bytes += own.bytes;
    return own;
}

static void uncount(Run *run, Count own) {
    for (Op *op = run->ops; op < run->ops + run->nops; op++) {
        op->runnable->state->submitted -= op->state->is_waiting;
        op->state->is_waiting = 0;
    }
    server.runs -= own.runs;
    server.bytes -= own.bytes;
}

static int refuse(RedisModuleCtx *ctx, int64_t model, const char *who, const char *option, int64_t limit,
                  const char *unit, int64_t all, int64_t own) {
    char error[320];
    snprintf(
        error, sizeof(error),
        "BUSY %s has %s %lld: %lld %s wait, and this command has %lld; try again later, or set another limit by %s",
        who, option, (long long)limit, (long long)(all - own), unit, (long long)own,
        strcmp(option, "MAXQUEUE") ? "AI.CONFIG" : "AI.MODELCONFIG");
    RedisModule_ReplyWithError(ctx, error);
    queue_note_full(model);
    return -1;
}

static int refuse_for_model(RedisModuleCtx *ctx, const Run *run, const Model *model, int64_t all) {
    char key[RUNNABLE_NAME], who[RUNNABLE_NAME + 16];
    int64_t own = 0;
    for (int i = 0; i < run->nops; i++) own += run->ops[i].state->is_waiting && run->ops[i].runnable == &model->base;
    runnable_key(&model->base, key);
    snprintf(who, sizeof(who), "model '%s'", key);
    add(&model->base.state->stats.refused, 1);
    return refuse(ctx, (int64_t)model->base.id, who, "MAXQUEUE", model->limits.maxqueue, "runs", all, own);
}

/* -1 after replying that one is too many. */
static int check(RedisModuleCtx *ctx, const Run *run, Count own) {
    if (own.runs == 0) return 0;
    for (const Op *op = run->ops; op < run->ops + run->nops; op++) {
        const Model *model = (const Model *)op->runnable;
        int64_t most = op->runnable->kind == KIND_MODEL && op->state->is_waiting ? model->limits.maxqueue : 0;
        int64_t all = most ? limits_waiting(op->runnable) : 0;
        if (all > most) return refuse_for_model(ctx, run, model, all);
    }
    ServerFigures all = limits_figures();
    if (max_queued() && all.runs > max_queued()) {
        return refuse(ctx, ALL_MODELS, "the server", "MAX_QUEUED", max_queued(), "runs", all.runs, own.runs);
    }
    if (max_queued_bytes() && all.bytes > max_queued_bytes()) {
        return refuse(ctx, ALL_MODELS, "the server", "MAX_QUEUED_BYTES", max_queued_bytes(), "bytes of inputs",
                      all.bytes, own.bytes);
    }
    return 0;
}

int limits_admit(RedisModuleCtx *ctx, Run *run) {
    Count own = count(run);
    if (check(ctx, run, own) == 0) return 0;
    uncount(run, own);
    server.refused++;
    return -1;
}
