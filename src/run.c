/* run.c - a run and its client (run.h).
 *
 * Main thread: run_new to run_submit and the callbacks. Loader and workers: run_unref, run_fail, run_leave. No locks;
 * `state`, `failed`, `active` and `refs` are atomic. */
#include "run.h"

#include <string.h>

#include "op.h"
#include "queue.h"
#include "runnable.h"
#include "tensor.h"
#include "unblock.h"

Run *run_new(int nops, int nslots, int ninputs, int nstores) {
    int chained = nops > 1;
    size_t size = sizeof(Run) + nops * sizeof(Op) + ((size_t)nslots + ninputs) * sizeof(Tensor *) +
                  nstores * sizeof(Store) + chained * (ninputs * sizeof(Use) + nslots * sizeof(int32_t));
    Run *run = RedisModule_Calloc(1, size);
    run->ops = (Op *)(run + 1);
    run->slots = (Tensor **)(run->ops + nops);
    Tensor **inputs = run->slots + nslots;
    run->stores = (Store *)(inputs + ninputs);
    if (chained) {
        run->uses = (Use *)(run->stores + nstores);
        run->first_uses = (int32_t *)(run->uses + ninputs);
        for (int i = 0; i < nslots; i++) run->first_uses[i] = -1;
    }
    run->next_input = inputs;
    run->nslots = nslots;
    run->refs = 1;
    return run;
}

void run_set_slot(Run *run, int slot, Tensor *tensor) {
    run->slots[slot] = tensor;
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
    op->variadic = -1;
    op->duration = -1;
    for (int i = 0; i < ninputs; i++) {
        int slot = inputs ? inputs[i] : i;
        op->inputs[i] = run->slots[slot];
        if (op->inputs[i]) continue;
        run->uses[run->nuses] = (Use){.op = run->nops, .input = i, .next = run->first_uses[slot]};
        run->first_uses[slot] = run->nuses++;
        op->waits_for++;
        op->chained = 1;
    }
    run->next_input += ninputs;
    run->nops++;
    return op;
}

static void free_words(Bytes *words, int count) {
    for (int i = 0; i < count; i++) RedisModule_Free((char *)words[i].data);
    RedisModule_Free(words);
}

static void free_run(void *data) {
    Run *run = data;
    for (int i = 0; i < run->nslots; i++) {
        if (run->slots[i]) tensor_unref(run->slots[i]);
    }
    for (Op *op = run->ops; op < run->ops + run->nops; op++) {
        runnable_unref(op->runnable);
        free_words(op->keys, op->nkeys);
        free_words(op->args, op->nargs);
        RedisModule_Free((char *)op->function);
        RedisModule_Free(op->error);
    }
    RedisModule_Free(run->steps);
    RedisModule_Free((char *)run->routing.data);
    RedisModule_Free(run->user);
    RedisModule_Free(run);
}

void run_ref(Run *run) {
    __atomic_add_fetch(&run->refs, 1, __ATOMIC_RELAXED);
}

void run_unref(Run *run) {
    if (__atomic_sub_fetch(&run->refs, 1, __ATOMIC_ACQ_REL) != 0) return;
    /* The command's own strings count their references without atomics, and the command may still be under way. */
    if (run->owns_args) {
        RedisModule_EventLoopAddOneShot(free_run, run);
    } else {
        free_run(run);
    }
}

int run_is_waiting(const Run *run) {
    return __atomic_load_n(&run->state, __ATOMIC_ACQUIRE) == RUN_WAITING;
}

int run_has_failed(const Run *run) {
    return __atomic_load_n(&run->failed, __ATOMIC_SEQ_CST);
}

/* Ends the wait of the client for this reason, unless another reason came first. */
static void end_wait(Run *run, int state) {
    int waiting = RUN_WAITING;
    if (!__atomic_compare_exchange_n(&run->state, &waiting, state, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) return;
    RedisModule_BlockedClientMeasureTimeEnd(run->blocked);
    if (state == RUN_DONE && run->nstores && !run_has_failed(run)) {
        unblock_to_write(run->blocked, run);
    } else {
        RedisModule_UnblockClient(run->blocked, run);
    }
}

/* ---- the ops' side, any thread ----------------------------------------------------------------------------------- */

void run_leave(Run *run) {
    if (__atomic_sub_fetch(&run->active, 1, __ATOMIC_ACQ_REL) == 0) end_wait(run, RUN_DONE);
}

/* Either this sees an op that was queued at the same time, or whoever queued it sees `failed` and skips it: both are
 * sequentially consistent. */
void run_fail(Run *run) {
    /* Only the first: thousands of ops may fail one behind the other. */
    if (__atomic_exchange_n(&run->failed, 1, __ATOMIC_SEQ_CST)) return;
    for (Op *op = run->ops; op < run->ops + run->nops; op++) op_skip(op);
}

/* ---- the client's side, main thread ------------------------------------------------------------------------------ */

/* Redis 7.0 tells a disconnect callback nothing but the blocked client's handle, hence this table. Main thread only. */
#define BUCKETS 4096
static Run *blocked_runs[BUCKETS];

static Run **bucket_of(RedisModuleBlockedClient *blocked) {
    return &blocked_runs[((uintptr_t)blocked >> 6) % BUCKETS];
}

static void remember(Run *run) {
    Run **bucket = bucket_of(run->blocked);
    run->next = *bucket;
    *bucket = run;
}

static void forget(Run *run) {
    Run **at = bucket_of(run->blocked);
    while (*at != run) at = &(*at)->next;
    *at = run->next;
}

/* The client does not wait any more: nor should ops in the batcher. */
static void give_up(Run *run, int state) {
    end_wait(run, state);
    for (Op *op = run->ops; op < run->ops + run->nops; op++) queue_note_unwanted(op);
}

static void client_gone(RedisModuleCtx *ctx, RedisModuleBlockedClient *blocked) {
    (void)ctx;
    Run *run = *bucket_of(blocked);
    while (run && run->blocked != blocked) run = run->next;
    if (run) give_up(run, RUN_GONE);
}

/* A timer of ours, not BlockClient's time-out: Redis looks at those only when its loop happens to turn, up to 100 ms
 * late on an idle server. */
static void time_is_up(RedisModuleCtx *ctx, void *data) {
    (void)ctx;
    Run *run = data;
    run->has_timer = 0;
    give_up(run, RUN_TIMEDOUT);
}

static void client_freed(RedisModuleCtx *ctx, void *data) {
    Run *run = data;
    forget(run);
    if (run->has_timer) RedisModule_StopTimer(ctx, run->timer, NULL);
    run_unref(run);
}

int run_submit(RedisModuleCtx *ctx, Run *run, long long timeout, RedisModuleCmdFunc reply) {
    run->blocked = RedisModule_BlockClient(ctx, reply, NULL, client_freed, 0);
    if (run->blocked == NULL) {
        run_unref(run);
        return RedisModule_ReplyWithError(ctx, "ERR this client cannot be blocked");
    }
    RedisModule_SetDisconnectCallback(run->blocked, client_gone);
    RedisModule_BlockedClientMeasureTimeStart(run->blocked);
    remember(run);
    if (timeout) {
        run->has_timer = 1;
        run->timer = RedisModule_CreateTimer(ctx, timeout, time_is_up, run);
    }

    int64_t now = monotonic_ns();
    for (Op *op = run->ops; op < run->ops + run->nops; op++) op->since = now;
    run->active = 1; /* ours: ops that end meanwhile do not complete the run */
    for (Op *op = run->ops; op < run->ops + run->nops; op++) {
        if (op->chained) continue;
        op_queue(op, now);
        op_submit(op);
    }
    run_leave(run);
    return REDISMODULE_OK;
}
