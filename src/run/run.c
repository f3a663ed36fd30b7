/* run.c - a run and its client (run.h).
 *
 * Main thread, except run_ref, run_unref and run_end_wait, which any thread calls. No locks: `state`, `failed`,
 * `active` and `refs` are atomic. */
#include "run/run.h"

#include <stddef.h>
#include <string.h>

#include "engine/running.h"
#include "redis/clock.h"
#include "run/limits.h"
#include "run/queue.h"
#include "values/cache.h"
#include "values/model.h"
#include "values/tensor.h"

Run *run_new(int nops, int nslots, int ninputs, int nsaves) {
    int is_chained = nops > 1;
    size_t size = sizeof(Run) + nops * (sizeof(Op) + sizeof(OpState)) + ((size_t)nslots + ninputs) * sizeof(Tensor *) +
                  nsaves * sizeof(Save) + is_chained * (ninputs * sizeof(Use) + nslots * sizeof(int32_t));
    Run *run = RedisModule_Calloc(1, size);
    run->ops = (Op *)(run + 1);
    OpState *states = (OpState *)(run->ops + nops);
    for (int i = 0; i < nops; i++) run->ops[i].state = &states[i];
    run->slots = (Tensor **)(states + nops);
    Tensor **inputs = run->slots + nslots;
    run->saves = (Save *)(inputs + ninputs);
    if (is_chained) {
        run->uses = (Use *)(run->saves + nsaves);
        run->first_uses = (int32_t *)(run->uses + ninputs);
        for (int i = 0; i < nslots; i++) run->first_uses[i] = -1;
    }
    run->next_input = inputs;
    run->nslots = nslots;
    run->refs = 1;
    return run;
}

void run_add_save(Run *run, RedisModuleString *key, RedisModuleString *field, int form, int slot) {
    Save *save = &run->saves[run->nsaves++];
    *save = (Save){.key = RedisModule_HoldString(NULL, key), .form = form, .slot = slot};
    if (field) save->field = RedisModule_HoldString(NULL, field);
}

Op *run_add_op(Run *run, Runnable *runnable, const int *inputs, int ninputs, int first_output, int noutputs) {
    Op *op = &run->ops[run->nops];
    op->run = run;
    op->runnable = runnable;
    op->id = runnable->id;
    op->inputs = run->next_input;
    op->ninputs = ninputs;
    op->outputs = run->slots + first_output;
    op->noutputs = noutputs;
    op->duration = -1;
    op->priority = PRIORITY_NORMAL;
    for (int i = 0; i < ninputs; i++) {
        int slot = inputs ? inputs[i] : i;
        op->inputs[i] = run->slots[slot];
        if (op->inputs[i]) continue;
        run->uses[run->nuses] = (Use){.op = run->nops, .input = i, .next = run->first_uses[slot]};
        run->first_uses[slot] = run->nuses++;
        op->state->waits_for++;
        op->state->is_chained = 1;
    }
    run->next_input += ninputs;
    run->nops++;
    return op;
}

/* ---- what a model's cache has ------------------------------------------------------------------------------------ */

static int64_t lookups[2]; /* missed, hit */

int64_t run_lookups(int are_hits) { return lookups[are_hits]; }

void run_use_cache(Run *run, Op *op) {
    Model *model = (Model *)op->runnable;
    if (op->runnable->kind != KIND_MODEL || model->limits.cache == 0 || op->state->is_chained) return;
    if (runnable_is_ready(op->runnable) && model->declared.is_stateful) return;
    uint64_t bytes = cache_input_bytes(op);
    if (bytes > CACHE_MAX_HASHED - run->hashed) return;
    run->hashed += bytes;
    uint64_t hash = cache_hash(op);
    int is_hit = cache_get(model, op, hash);
    stats_count_lookup(&op->runnable->state->stats, is_hit);
    lookups[is_hit]++;
    if (is_hit) {
        op->state->status = OP_DONE;
    } else {
        op->state->hash = hash;
    }
}

/* At its end, and on the main thread. Strings of a command still under way stay out of the cache, for another thread
 * may free it. */
static void fill_caches(const Run *run) {
    if (run->owns_args || __atomic_load_n(&run->state, __ATOMIC_ACQUIRE) != RUN_DONE) return;
    for (const Op *op = run->ops; op < run->ops + run->nops; op++) {
        Model *model = (Model *)op->runnable;
        if (op->state->hash == 0 || op_status(op) != OP_DONE || model->declared.is_stateful) continue;
        cache_put(model, op, op->state->hash);
    }
}

static void free_words(Bytes *words, int count) {
    for (int i = 0; i < count; i++) RedisModule_Free((char *)words[i].data);
    RedisModule_Free(words);
}

static void release_saves(Run *run) {
    for (Save *save = run->saves; save < run->saves + run->nsaves; save++) {
        RedisModule_FreeString(NULL, save->key);
        if (save->field) RedisModule_FreeString(NULL, save->field);
        if (save->value) RedisModule_FreeString(NULL, save->value);
    }
    run->nsaves = 0;
}

static void free_run(void *data) {
    Run *run = data;
    release_saves(run);
    for (int i = 0; i < run->nslots; i++) {
        if (run->slots[i]) tensor_unref(run->slots[i]);
    }
    for (Op *op = run->ops; op < run->ops + run->nops; op++) {
        limits_leave(&op, 1); /* it never came to a queue */
        runnable_unref(op->runnable);
        free_words(op->keys, op->nkeys);
        free_words(op->args, op->nargs);
        RedisModule_Free((char *)op->function);
        RedisModule_Free(op->state->error);
    }
    RedisModule_Free(run->steps);
    RedisModule_Free((char *)run->routing.data);
    RedisModule_Free(run->user);
    RedisModule_Free(run->refusal);
    RedisModule_Free(run);
}

void run_ref(Run *run) { __atomic_add_fetch(&run->refs, 1, __ATOMIC_RELAXED); }

void run_unref(Run *run) {
    if (__atomic_sub_fetch(&run->refs, 1, __ATOMIC_ACQ_REL) != 0) return;
    /* The command may still be under way, and its strings count references without atomics. */
    if (run->owns_args) {
        RedisModule_EventLoopAddOneShot(free_run, run);
    } else {
        free_run(run);
    }
}

int run_end_wait(Run *run, RunState reason) {
    int32_t waiting = RUN_WAITING;
    if (!__atomic_compare_exchange_n(&run->state, &waiting, reason, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) return 0;
    waiter_end(&run->waiter, reason == RUN_DONE && run->nsaves && !run_has_failed(run));
    return 1;
}

/* ---- the client's side, main thread ------------------------------------------------------------------------------ */

static int64_t given_up[RUN_GONE + 1]; /* runs, by reason */

int64_t run_given_up(RunState reason) { return given_up[reason]; }

/* The client no longer waits, so nobody wants its ops in the batcher. */
static void give_up(Run *run, RunState reason) {
    int is_first = run_end_wait(run, reason);
    for (Op *op = run->ops; op < run->ops + run->nops; op++) {
        if (is_first && op_state_name(op)) {
            stats_count_given_up(&op->runnable->state->stats, reason == RUN_TIMEDOUT);
            given_up[reason]++;
        }
        queue_note_unwanted(op);
    }
}

_Static_assert(offsetof(Run, waiter) == 0, "a Waiter is cast to the Run that begins with it");

void run_kill(Run *run) { give_up(run, RUN_KILLED); }

static void client_gone(Waiter *waiter) { give_up((Run *)waiter, RUN_GONE); }

Run *run_of(Waiter *waiter) { return waiter->gone == client_gone ? (Run *)waiter : NULL; }

/* A timer of our own. Redis checks BlockClient's timeouts once per iteration of its loop: up to 100 ms late on an idle
 * server. */
static void time_is_up(RedisModuleCtx *ctx, void *data) {
    Run *run = data;
    run->has_timer = 0;
    running_log();
    give_up(run, RUN_TIMEDOUT);
}

static void client_freed(RedisModuleCtx *ctx, Waiter *waiter) {
    Run *run = (Run *)waiter;
    if (run->has_timer) RedisModule_StopTimer(ctx, run->timer, NULL);
    release_saves(run); /* here: another thread may free the run */
    fill_caches(run);
    run_unref(run);
}

#define MAX_TIMEOUT (1LL << 40) /* ms, 35 years; with more, Redis's timers may overflow */

static void start(Run *run) {
    int64_t now = monotonic_ns();
    for (Op *op = run->ops; op < run->ops + run->nops; op++) op->arrival = now;
    run->active = 1; /* ours: ops that end meanwhile do not complete the run */
    for (Op *op = run->ops; op < run->ops + run->nops; op++) {
        if (op->state->is_chained || op_status(op) == OP_DONE) continue;
        op_queue(op, now);
        op_submit(op);
    }
    op_leave(run);
}

void run_submit_alone(Run *run, int db, void (*ended)(RedisModuleCtx *ctx, Waiter *run)) {
    run->waiter = (Waiter){.is_alone = 1, .db = db, .write = ended, .freed = client_freed};
    start(run);
}

int run_submit(RedisModuleCtx *ctx, Run *run, long long timeout, const RunEnd *end) {
    if (limits_admit(ctx, run) == -1) {
        run_unref(run);
        return REDISMODULE_OK;
    }
    run->waiter.write = end->save;
    run->waiter.gone = client_gone;
    run->waiter.freed = client_freed;
    if (waiter_block(ctx, &run->waiter, end->reply) == -1) {
        run_unref(run);
        return REDISMODULE_OK;
    }
    if (timeout) {
        run->has_timer = 1;
        run->timer = RedisModule_CreateTimer(ctx, timeout < MAX_TIMEOUT ? timeout : MAX_TIMEOUT, time_is_up, run);
    }

    run->id = new_id();
    start(run);
    waiter_begin(&run->waiter);
    return REDISMODULE_OK;
}
