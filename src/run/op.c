/* op.c - the life of an op (run.h).
 *
 * Main thread: op_queue, op_submit and op_leave at the start of a run. Loader: resume. Workers: the bridge functions.
 * No locks: `status`, `waits_for` and the run's counters are atomic. */
#include <stdio.h>

#include "engine/jobs.h"
#include "engine/running.h"
#include "redis/clock.h"
#include "run/limits.h"
#include "run/queue.h"
#include "run/run.h"
#include "values/runnable.h"

static int move(Op *op, int32_t from, int32_t to) {
    return __atomic_compare_exchange_n(&op->state->status, &from, to, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

/* Moves what an engine process sees of the op. Returns whether it was so. */
static int move_shared(const Op *op, int32_t from, int32_t to) {
    int32_t *shared = __atomic_load_n(&op->state->shared, __ATOMIC_ACQUIRE);
    if (shared == NULL) return 0;
    int32_t ticket = __atomic_load_n(&op->state->ticket, __ATOMIC_RELAXED), word = ticket | from;
    return __atomic_compare_exchange_n(shared, &word, ticket | to, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

/* Begins or skips a queued op: once, and in one process only. */
static int claim(Op *op, int32_t to) {
    int is_shared = __atomic_load_n(&op->state->shared, __ATOMIC_ACQUIRE) != NULL;
    if (is_shared && !move_shared(op, OP_QUEUED, to)) return 0;
    return move(op, OP_QUEUED, to);
}

void op_leave(Run *run) {
    if (__atomic_sub_fetch(&run->active, 1, __ATOMIC_ACQ_REL) == 0) run_end_wait(run, RUN_DONE);
}

/* Marks the op as skipped, unless somebody has begun it. */
static void skip(Op *op) {
    if (!claim(op, OP_SKIPPED)) return;
    queue_note_unwanted(op);
    op_leave(op->run);
}

/* Skips the ops of the run that nobody has begun. The caller's own op still counts as active. An op may be queued
 * at the same time: either this skips it, or op_queue() sees `failed` and does (both SEQ_CST). */
static void fail_run(Run *run) {
    /* Only at the first failure: thousands of ops may fail one after the other. */
    if (__atomic_exchange_n(&run->failed, 1, __ATOMIC_SEQ_CST)) return;
    for (Op *op = run->ops; op < run->ops + run->nops; op++) skip(op);
}

void op_queue(Op *op, int64_t now) {
    op->state->queued = now;
    batch_describe(op);
    run_ref(op->run);
    __atomic_add_fetch(&op->run->active, 1, __ATOMIC_RELAXED);
    __atomic_store_n(&op->state->status, OP_QUEUED, __ATOMIC_SEQ_CST);
    if (run_has_failed(op->run)) skip(op);
}

/* Nobody waits for its run: an engine process that has the op need not begin or end it. */
void op_disown(Op *op) {
    if (!move_shared(op, OP_QUEUED, OP_SKIPPED)) move_shared(op, OP_RUNNING, OP_UNAWAITED);
}

void op_drop(Op *op) {
    limits_leave(&op, 1);
    if (move(op, OP_QUEUED, OP_SKIPPED)) op_leave(op->run);
    run_unref(op->run);
}

const char *op_state_name(const Op *op) {
    int status = op_status(op);
    if (status == OP_WAITING) return "waiting";
    if (status == OP_RUNNING) return "running";
    if (status != OP_QUEUED) return NULL;
    int is_shared = __atomic_load_n(&op->state->shared, __ATOMIC_ACQUIRE) != NULL;
    if (is_shared && op_is_shared_as(op, OP_RUNNING)) return "running";
    return runnable_is_ready(op->runnable) ? "queued" : "loading";
}

int bridge_is_awaited(const Op *op) { return run_is_waiting(op->run) && op_is_shared_as(op, OP_RUNNING); }

int bridge_sweep_ops(Op **ops, int n) {
    int kept = 0;
    for (int i = 0; i < n; i++) {
        if (op_is_wanted(ops[i])) {
            ops[kept++] = ops[i];
        } else {
            queue_release_held(&ops[i], 1);
            op_drop(ops[i]);
        }
    }
    return kept;
}

int bridge_begin_ops(Op **ops, int n) {
    int64_t now = monotonic_ns();
    queue_release_held(ops, n);
    limits_leave(ops, n);
    int kept = 0;
    for (int i = 0; i < n; i++) {
        Op *op = ops[i];
        if (run_is_waiting(op->run) && claim(op, OP_RUNNING)) {
            op->state->begun = now;
            ops[kept++] = op;
        } else {
            op_drop(op);
        }
    }
    if (kept) running_begin(ops[0]->runnable, ops[0]->function, now);
    return kept;
}

int op_take_back(Op *op, int64_t begun) {
    __atomic_store_n(&op->state->shared, NULL, __ATOMIC_RELEASE);
    if (!move(op, OP_QUEUED, OP_RUNNING)) {
        op_drop(op);
        return 0;
    }
    limits_leave(&op, 1);
    op->state->begun = begun;
    return 1;
}

void bridge_note_op(const Op *op) { running_begin(op->runnable, op->function, monotonic_ns()); }

/* ---- the end ----------------------------------------------------------------------------------------------------- */

/* Of an op that ran alone. */
static int64_t rows_of(const Op *op) { return op->ninputs && op->inputs[0]->ndim ? op->inputs[0]->shape[0] : 1; }

static void count_op(const Op *op, Totals *totals) {
    const OpState *state = op->state;
    int64_t samples = 0;
    if (state->error == NULL && op->noutputs && op->outputs[0]) {
        samples = op->outputs[0]->ndim ? op->outputs[0]->shape[0] : 1;
    }
    int is_follower = state->batch_total < 0;
    Execution execution = {.duration = is_follower ? -1 : op->duration,
                           .queued = (state->begun - state->queued) / 1000,
                           .samples = samples,
                           .rows = state->batch_total ? state->batch_total : samples,
                           .input_ns = op->input_ns,
                           .output_ns = op->output_ns,
                           .end = state->begun + op->duration * 1000,
                           .is_direct = op->is_direct,
                           .failed = state->error != NULL};
    stats_count(&op->runnable->state->stats, &execution);
    totals->calls++;
    totals->errors += execution.failed;
    totals->executions += !is_follower;
    totals->duration += is_follower ? 0 : op->duration;
    totals->queued += execution.queued;
    if (is_follower || !slowest_is(&op->runnable->state->slowest, op->duration)) return;
    SlowRun run = {.queued = execution.queued, .duration = op->duration, .client = op->run->waiter.client};
    run.rows = state->batch_total ? state->batch_total : rows_of(op);
    if (op->function) snprintf(run.function, sizeof(run.function), "%s", op->function);
    slowest_add(&op->runnable->state->slowest, run);
}

int64_t bridge_calls(const Runnable *runnable) { return stats_get(&runnable->state->stats.calls); }

/* Else its client would read what the key of an output holds since an earlier run. */
static void check_outputs(Op *op) {
    for (int i = 0; i < op->noutputs; i++) {
        if (op->outputs[i] == NULL) bridge_fail(op, "the run gave no tensor for one of the outputs");
    }
}

/* Gives the outputs of an op to the ops that wait for them. An op that now has all its inputs is put into ready. It is
 * pushed instead if it may be batched, if its model is not compiled yet, or if ready is full. */
static int pass_outputs(Op *op, Op **ready, int max) {
    Run *run = op->run;
    int64_t now = monotonic_ns();
    int count = 0;
    for (int i = 0; i < op->noutputs; i++) {
        int next = run->first_uses[op->outputs + i - run->slots];
        while (next >= 0) {
            const Use *use = &run->uses[next];
            Op *user = &run->ops[use->op];
            next = use->next;
            user->inputs[use->input] = op->outputs[i];
            int waits = __atomic_sub_fetch(&user->state->waits_for, 1, __ATOMIC_ACQ_REL) != 0;
            if (waits || run_has_failed(run) || !run_is_waiting(run)) continue;
            op_queue(user, now);
            if (count < max && user->rows == 0 && runnable_is_ready(user->runnable)) {
                ready[count++] = user;
            } else {
                op_push(user);
            }
        }
    }
    return count;
}

static int finish(Op *op, Op **ready, int max) {
    Run *run = op->run;
    int failed = op->state->error != NULL;
    int nready = 0;
    if (op->tuning) runnable_set_tuning(op->runnable, op->tuning);
    __atomic_store_n(&op->state->status, failed ? OP_FAILED : OP_DONE, __ATOMIC_SEQ_CST);
    if (failed) {
        fail_run(run);
    } else if (run->uses) {
        nready = pass_outputs(op, ready, max);
    }
    op_leave(run);
    run_unref(run);
    return nready;
}

int bridge_finish_ops(Op **ops, int n, Op **ready, int max_ready) {
    int nready = 0;
    Totals totals = {0};
    for (int i = 0; i < n; i++) {
        check_outputs(ops[i]);
        if (ops[i]->duration >= 0) count_op(ops[i], &totals);
    }
    if (totals.calls) queue_add_totals(ops[0]->runnable->queue, &totals); /* before the first client is answered */
    for (int i = 0; i < n; i++) nready += finish(ops[i], ready + nready, max_ready - nready);
    return nready;
}

/* ---- the way to the queue ---------------------------------------------------------------------------------------- */

/* The op came before its model or script was compiled. The loader has now finished with that. */
static void resume(LoaderJob *job) {
    Op *op = job->data;
    if (job->error == NULL) {
        queue_push(op->runnable->queue, op);
    } else if (bridge_begin_ops(&op, 1) == 1) {
        bridge_fail(op, job->error);
        finish(op, NULL, 0);
    }
    job_free(job);
}

void op_wait_for_loader(Op *op) {
    LoaderJob *job = job_new(JOB_LOAD, runnable_ref(op->runnable));
    job->data = op;
    job->finished = resume;
    job->is_urgent = 1;
    job_post(job);
}

static void send(Op *op, void (*to)(Queue *queue, Op *op)) {
    if (runnable_is_ready(op->runnable)) {
        to(op->runnable->queue, op);
    } else {
        op_wait_for_loader(op);
    }
}

void op_push(Op *op) { send(op, queue_push); }
void op_submit(Op *op) { send(op, queue_submit); }

void bridge_push_ops(Op **ops, int n) {
    for (int i = 0; i < n; i++) op_push(ops[i]);
}
