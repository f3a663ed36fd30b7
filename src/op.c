/* op.c - the life of an op (op.h).
 *
 * Main thread: op_queue, op_submit at the beginning of a run. Loader: op_forward. Workers: the bridge functions. No
 * locks; `state` and `waits_for` are atomic. */
#include "op.h"

#include <time.h>

#include "batch.h"
#include "loader.h"
#include "queue.h"
#include "run.h"
#include "runnable.h"
#include "stats.h"
#include "tensor.h"

int64_t monotonic_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static int move(Op *op, int from, int to) {
    return __atomic_compare_exchange_n(&op->state, &from, to, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

void op_queue(Op *op, int64_t now) {
    op->queued = now;
    batch_describe(op);
    run_ref(op->run);
    __atomic_add_fetch(&op->run->active, 1, __ATOMIC_RELAXED);
    __atomic_store_n(&op->state, OP_QUEUED, __ATOMIC_SEQ_CST);
    if (run_has_failed(op->run)) op_skip(op);
}

/* The loader compiles its model or script first. */
static void forward(Op *op) {
    Job *job = job_new(JOB_FORWARD);
    job->runnable = runnable_ref(op->runnable);
    job->op = op;
    loader_post(job);
}

void op_push(Op *op) {
    if (runnable_is_ready(op->runnable)) {
        queue_push(op->runnable->queue, op);
    } else {
        forward(op);
    }
}

void op_submit(Op *op) {
    if (runnable_is_ready(op->runnable)) {
        queue_submit(op->runnable->queue, op);
    } else {
        forward(op);
    }
}

void op_skip(Op *op) {
    if (!move(op, OP_QUEUED, OP_SKIPPED)) return;
    queue_note_unwanted(op);
    run_leave(op->run);
}

/* Takes an op out of circulation that nobody has begun. */
static void drop(Op *op) {
    if (move(op, OP_QUEUED, OP_SKIPPED)) run_leave(op->run);
    run_unref(op->run);
}

int op_state(const Op *op) {
    return __atomic_load_n(&op->state, __ATOMIC_SEQ_CST);
}

int op_is_wanted(const Op *op) {
    return op_state(op) == OP_QUEUED && run_is_waiting(op->run);
}

int bridge_sweep_ops(Op **ops, int n) {
    int kept = 0;
    for (int i = 0; i < n; i++) {
        if (op_is_wanted(ops[i])) {
            ops[kept++] = ops[i];
        } else {
            queue_release_held(&ops[i], 1);
            drop(ops[i]);
        }
    }
    return kept;
}

int bridge_begin_ops(Op **ops, int n) {
    int64_t now = monotonic_ns();
    queue_release_held(ops, n);
    int kept = 0;
    for (int i = 0; i < n; i++) {
        Op *op = ops[i];
        if (run_is_waiting(op->run) && move(op, OP_QUEUED, OP_RUNNING)) {
            op->begun = now;
            ops[kept++] = op;
        } else {
            drop(op);
        }
    }
    return kept;
}

/* ---- the end ----------------------------------------------------------------------------------------------------- */

static void count_op(const Op *op) {
    int64_t samples = 0;
    if (op->error == NULL && op->noutputs && op->outputs[0]) {
        samples = op->outputs[0]->ndim ? op->outputs[0]->shape[0] : 1;
    }
    stats_count(op->runnable, &(Execution){.duration = op->follows ? -1 : op->duration,
                                           .queued = (op->begun - op->queued) / 1000,
                                           .samples = samples,
                                           .failed = op->error != NULL});
}

/* The last input of this op has come. Returns whether it is to be run. */
static int is_ready(Op *op) {
    for (int i = 0; i < op->ninputs; i++) {
        if (op->inputs[i]) continue;
        /* What made it gave no tensor (an ONNX sequence or map). */
        bridge_fail(op, NO_TENSOR);
        __atomic_store_n(&op->state, OP_FAILED, __ATOMIC_SEQ_CST);
        run_fail(op->run);
        return 0;
    }
    return 1;
}

/* Hands the outputs of an op on. Ops that have all their inputs now come in ready, unless they are for a batch or too
 * many: then they are pushed. */
static int hand_on(Op *op, Op **ready, int most) {
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
            if (__atomic_sub_fetch(&user->waits_for, 1, __ATOMIC_ACQ_REL) != 0 || run_has_failed(run) ||
                !run_is_waiting(run) || !is_ready(user)) {
                continue;
            }
            op_queue(user, now);
            if (count < most && user->rows == 0 && runnable_is_ready(user->runnable)) {
                ready[count++] = user;
            } else {
                op_push(user);
            }
        }
    }
    return count;
}

static int finish(Op *op, Op **ready, int most) {
    Run *run = op->run;
    int nready = 0;
    if (op->duration >= 0) count_op(op);
    __atomic_store_n(&op->state, op->error ? OP_FAILED : OP_DONE, __ATOMIC_SEQ_CST);
    if (op->error) {
        run_fail(run);
    } else if (run->uses) {
        nready = hand_on(op, ready, most);
    }
    run_leave(run);
    run_unref(run);
    return nready;
}

int bridge_finish_ops(Op **ops, int n, Op **ready, int most) {
    int nready = 0;
    for (int i = 0; i < n; i++) nready += finish(ops[i], ready + nready, most - nready);
    return nready;
}

void bridge_push_ops(Op **ops, int n) {
    for (int i = 0; i < n; i++) op_push(ops[i]);
}

void op_forward(Op *op, const char *error) {
    if (error == NULL) {
        queue_push(op->runnable->queue, op);
    } else if (bridge_begin_ops(&op, 1) == 1) {
        bridge_fail(op, error);
        finish(op, NULL, 0);
    }
}

/* ---- outputs ----------------------------------------------------------------------------------------------------- */

void bridge_fail(Op *op, const char *message) {
    if (op->error == NULL) op->error = RedisModule_Strdup(message);
}

int bridge_set_output(Op *op, int index, int dtype, int ndim, const int64_t *shape, const void *data, uint64_t size) {
    const char *error = "output has an impossible index, type or number of dimensions";
    if (size > bridge_max_tensor_bytes()) {
        error = "output exceeds the limit for one tensor (proto-max-bulk-len)";
    } else if (ndim > TENSOR_MAX_DIMS) {
        error = "an output has more than 64 dimensions";
    } else if (index >= 0 && index < op->noutputs && ndim >= 0 && ndim <= TENSOR_MAX_DIMS && dtype >= 0 &&
               dtype <= DTYPE_STRING) {
        Tensor *tensor = size < TENSOR_LARGE ? tensor_from_data(dtype, ndim, shape, data, size, &error)
                                             : tensor_from_string(dtype, ndim, shape,
                                                                  RedisModule_CreateString(NULL, data, size), &error);
        if (tensor) {
            if (op->outputs[index]) tensor_unref(op->outputs[index]);
            op->outputs[index] = tensor;
            return 0;
        }
    }
    bridge_fail(op, error);
    return -1;
}
