/* direct.c - runs of models by the C API of their library, without Python (bridge.h): what all libraries share.
 *
 * Workers enter, without the GIL; no locks, no state. Numbers go in, numbers come out, there are no errors: Python runs
 * or explains everything else. A worker that finds only such ops stays in C. So it needs no lock of Python's, whatever
 * the loader does meanwhile, and the workers of several queues do not wait for each other. */
#include "direct/direct.h"

#include <string.h>

#include "engine/options.h"
#include "engine/running.h"
#include "redis/clock.h"
#include "run/queue.h"
#include "run/state.h"
#include "values/tensor.h"

#define RETURN_NS                                                                                                      \
    50000 /* no finished op is kept longer; ops of a chunk are returned together, which wakes Redis once */

DirectRun *direct_run_of(const Direct *direct) {
    switch (direct->backend) {
    case BACKEND_ONNX: return onnx_run;
    case BACKEND_TF: return tf_run;
    case BACKEND_TORCH: return torch_run;
    default: return NULL;
    }
}

static int has_count(int count, int wanted) { return wanted == ANY_COUNT ? count <= DIRECT_MAX : count == wanted; }

static int has_type(const Tensor *tensor, int wanted) {
    return wanted == ANY_NUMBERS ? !dtype_is_string(tensor->dtype) : tensor->dtype == wanted;
}

/* Large tensors are not aligned, so they have to be copied. */
Direct *direct_of(const Op *op) {
    Direct *direct = op->runnable->direct;
    if (direct == NULL || direct_run_of(direct) == NULL) return NULL;
    int64_t rows = __atomic_load_n(&direct->rows, __ATOMIC_RELAXED);
    if (op->rows && rows != ANY_ROWS && rows != op->rows) return NULL;
    if (!has_count(op->ninputs, direct->ninputs) || !has_count(op->noutputs, direct->noutputs)) return NULL;
    for (int i = 0; i < op->ninputs; i++) {
        if (!has_type(op->inputs[i], direct->types[i]) || op->inputs[i]->owner) return NULL;
    }
    return direct;
}

/* The library was called between two moments of this time, or was not. */
static void split_duration(Op *op, int64_t begun, int64_t end) {
    op->input_ns = op->output_ns ? op->input_ns - begun : 0;
    op->output_ns = op->output_ns ? end - op->output_ns : 0;
}

/* ---- batches ----------------------------------------------------------------------------------------------------- */

static Tensor *join_input(Op **ops, int n, int index, int64_t rows) {
    const Tensor *first = ops[0]->inputs[index];
    int64_t shape[TENSOR_MAX_DIMS], length;
    uint64_t size;
    if (first->ndim == 0 || dtype_is_string(first->dtype)) return NULL;
    memcpy(shape, first->shape, first->ndim * sizeof(*shape));
    shape[0] = rows;
    if (tensor_measure(first->dtype, first->ndim, shape, &length, &size) == -1) return NULL;
    Tensor *joined = tensor_new(first->dtype, first->ndim, shape, length, size, 0);
    if (joined == NULL || bridge_gather(ops, n, index, joined->data, size) == 0) return joined;
    tensor_unref(joined);
    return NULL;
}

static int have_equal_counts(Op **ops, int n) {
    for (int i = 1; i < n; i++) {
        if (ops[i]->noutputs != ops[0]->noutputs) return 0;
    }
    return ops[0]->ninputs <= DIRECT_MAX;
}

static int any_is_killed(Op **ops, int n) {
    int killed = 0;
    for (int i = 0; i < n; i++) killed |= __atomic_load_n(&ops[i]->run->state, __ATOMIC_ACQUIRE) == RUN_KILLED;
    return killed;
}

/* Runs one op that stands for all: its inputs are joined, and bridge_set_output() splits its outputs. */
int bridge_run_batch(Op **ops, int n, char **error) {
    int64_t begun = monotonic_ns();
    *error = NULL;
    if (ops[0]->runnable->direct == NULL || !have_equal_counts(ops, n)) return 0;
    Tensor *inputs[DIRECT_MAX];
    OpState state = {.members = ops, .nmembers = n};
    Op joint = *ops[0];
    joint.inputs = inputs;
    joint.state = &state;
    for (int i = 1; i < n; i++) joint.rows += ops[i]->rows;

    int njoined = 0;
    while (njoined < joint.ninputs && (inputs[njoined] = join_input(ops, n, njoined, joint.rows))) njoined++;
    Direct *direct = njoined == joint.ninputs ? direct_of(&joint) : NULL;
    if (direct) *error = direct_run_of(direct)(direct, &joint);
    while (njoined) tensor_unref(inputs[--njoined]);
    if (*error && any_is_killed(ops, n)) {
        RedisModule_Free(*error);
        *error = NULL;
        return -1;
    }
    if (direct == NULL || *error) return 0;
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < ops[i]->noutputs; k++) {
            if (ops[i]->outputs[k] == NULL && ops[i]->state->error == NULL) return 0; /* they could not be split */
        }
        ops[i]->is_direct = 1;
    }
    int64_t end = monotonic_ns();
    split_duration(&joint, begun, end);
    ops[0]->input_ns = joint.input_ns;
    ops[0]->output_ns = joint.output_ns;
    bridge_batch_ran(ops, n, (end - begun) / 1000);
    return 1;
}

/* ---- ops that run alone ------------------------------------------------------------------------------------------ */

static void finish(Taken *taken, Op **ops, int n) {
    taken->nready += bridge_finish_ops(ops, n, taken->ready + taken->nready, READY_OPS - taken->nready);
}

int bridge_run_ops(Queue *queue, Taken *taken, Op **ops, int n) {
    Op *done[TAKE_PLAIN];
    int next = 0, ndone = 0;
    int64_t oldest = 0, slowest = 1;
    taken->failed = NULL;
    while (next < n) {
        Op *op = ops[next];
        Direct *direct = direct_of(op);
        if (direct == NULL) break;
        next++;
        if (ndone && __atomic_load_n(&direct->duration, __ATOMIC_RELAXED) > RETURN_NS) {
            finish(taken, done, ndone);
            ndone = 0;
        }
        if (!bridge_begin_ops(&op, 1)) continue;
        taken->error = direct_run_of(direct)(direct, op);
        int64_t end = monotonic_ns(), duration = end - op->state->begun;
        __atomic_store_n(&direct->duration, duration, __ATOMIC_RELAXED);
        if (duration > slowest) slowest = duration;
        op->duration = duration / 1000;
        split_duration(op, op->state->begun, end);
        op->is_direct = taken->error == NULL; /* else Python decides whether that error is the op's */
        if (taken->error) {
            taken->failed = op;
            break;
        }
        if (ndone == 0) oldest = end;
        done[ndone++] = op;
        if (ndone == TAKE_PLAIN || end - oldest > RETURN_NS) {
            finish(taken, done, ndone);
            ndone = 0;
        }
    }
    finish(taken, done, ndone);
    if (next) taken->op_ns = slowest > taken->op_ns * 3 / 4 ? slowest : taken->op_ns * 3 / 4;
    return next;
}

/* Whether the ops that became ready are this worker's, as the planner would place them (redisai/planner.py). */
static int are_ours(const Queue *queue, const Taken *taken) {
    if (taken->nready > 1 && threads_per_queue() > 1) return 0;
    for (int i = 0; i < taken->nready; i++) {
        if (taken->ready[i]->runnable->queue != queue) return 0;
    }
    return 1;
}

static int most_of(const Taken *taken) {
    int64_t most = CHUNK_NS / (taken->op_ns > 1 ? taken->op_ns : 1);
    return most < 1 ? 1 : most < TAKE_PLAIN ? (int)most : TAKE_PLAIN;
}

/* Runs ops of DAGs that have become ready, as many as a chunk has. Returns 0 where the next needs Python. */
static int run_ready(Queue *queue, Taken *taken) {
    Op *ops[READY_OPS];
    int n = taken->nready, most = most_of(taken);
    if (most > n) most = n;
    memcpy(ops, taken->ready, n * sizeof(*ops));
    taken->nready = 0;
    int done = bridge_run_ops(queue, taken, ops, most);
    if (done < n) { /* the rest comes before what is ready now */
        bridge_push_ops(taken->ready, taken->nready);
        memcpy(taken->ready, ops + done, (n - done) * sizeof(*ops));
        taken->nready = n - done;
    }
    return done == most && taken->failed == NULL;
}

/* Ops of DAGs that have become ready go to their queues where ops of a higher priority have the turn. */
static void give_way(Taken *taken) {
    int kept = 0;
    for (int i = 0; i < taken->nready; i++) {
        Op *op = taken->ready[i];
        if (op->priority < taken->priority) {
            bridge_push_ops(&op, 1);
        } else {
            taken->ready[kept++] = op;
        }
    }
    taken->nready = kept;
}

/* Between two ops of a DAG it looks at the queue: a long DAG must not keep others waiting. */
void bridge_work(Queue *queue, int worker, Taken *taken, int wait) {
    taken->nready = 0;
    do {
        queue_take(queue, worker, taken, most_of(taken), wait && taken->nready == 0);
        taken->failed = NULL;
        give_way(taken);
        if (taken->nbatched || taken->deadline_passed || taken->sweep) return;
        if (taken->nready && !run_ready(queue, taken)) return;
        int done = bridge_run_ops(queue, taken, taken->plain, taken->nplain);
        taken->nplain -= done;
        memmove(taken->plain, taken->plain + done, taken->nplain * sizeof(*taken->plain));
    } while (wait && taken->nplain == 0 && taken->failed == NULL && are_ours(queue, taken));
}
