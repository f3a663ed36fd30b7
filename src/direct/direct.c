/* direct.c - runs of models by the C API of their library, without Python (bridge.h): what all libraries share.
 *
 * Workers enter, without the GIL; no locks, no state. A worker's own part of a run of a tiny model takes 1 us here and
 * 5 us in Python, and the workers of several queues do not wait for each other. Numbers go in, numbers come out, there
 * are no errors: Python runs or explains everything else. */
#include "direct/direct.h"

#include "engine/running.h"
#include "redis/clock.h"
#include "run/state.h"
#include "values/tensor.h"

static DirectRun *run_of(int backend) {
    switch (backend) {
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

static int fits(const Direct *direct, const Op *op) {
    if (!has_count(op->ninputs, direct->ninputs) || !has_count(op->noutputs, direct->noutputs)) return 0;
    for (int i = 0; i < op->ninputs; i++) {
        if (!has_type(op->inputs[i], direct->types[i]) || op->inputs[i]->owner) return 0;
    }
    return 1;
}

int bridge_run_direct(const Direct *direct, Op **ops, int n, int64_t until, const void *options, char **error) {
    DirectRun *run = run_of(direct->backend);
    if (run == NULL) return 0;

    uint64_t id = ops[0]->id;
    int64_t begin = monotonic_ns();
    int done = 0;
    while (done < n && ops[done]->id == id && fits(direct, ops[done]) && (done == 0 || begin < until)) {
        Op *op = ops[done];
        if (bridge_is_awaited(op)) { /* the ops before it may have taken long */
            running_begin(op->runnable, op->function, begin);
            *error = run(direct, op, options);
            int64_t end = monotonic_ns();
            op->duration = (end - begin) / 1000;
            op->is_direct = *error == NULL; /* else Python decides whether that error is the op's */
            begin = end;
            if (*error) break;
        }
        done++;
    }
    return done;
}
