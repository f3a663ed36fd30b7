/* batch.c - the tensors of batches, joined and split (run.h, bridge.h).
 *
 * batch_describe: whoever queues the op. The rest: the worker that has the ops. No state. */
#include <string.h>

#include "run/run.h"
#include "values/model.h"
#include "values/tensor.h"

/* FNV-1a over whole numbers. Different batches may get one key, by chance or on purpose: bridge_gather() sees that. */
static uint64_t mix(uint64_t hash, uint64_t number) { return (hash ^ number) * 1099511628211ULL; }

static int runs_alone(Runnable *runnable) {
    return __atomic_load_n(&runnable->alone, __ATOMIC_RELAXED) > 0 &&
           __atomic_fetch_sub(&runnable->alone, 1, __ATOMIC_RELAXED) > 0;
}

void batch_describe(Op *op) {
    const Model *model = (const Model *)op->runnable;
    if (op->runnable->kind != KIND_MODEL) return;
    int64_t batchsize = __atomic_load_n(&model->limits.batchsize, __ATOMIC_RELAXED);
    if (batchsize == AUTO_BATCHSIZE) batchsize = AUTO_ROWS;
    if (batchsize <= 1 || runs_alone(op->runnable)) return;
    uint64_t key = mix(mix(mix(14695981039346656037ULL, op->id), op->ninputs), op->noutputs);
    for (int i = 0; i < op->ninputs; i++) {
        const Tensor *tensor = op->inputs[i];
        if (tensor->ndim == 0 || tensor->shape[0] != op->inputs[0]->shape[0]) return;
        key = mix(mix(key, tensor->dtype), tensor->ndim);
        for (int d = 1; d < tensor->ndim; d++) key = mix(key, tensor->shape[d]);
    }
    int64_t rows = op->ninputs ? op->inputs[0]->shape[0] : 0;
    if (rows >= batchsize) return;
    op->batch_key = key;
    op->rows = rows;
}

static int fits(const Tensor *one, const Tensor *other) {
    return one->dtype == other->dtype && one->ndim == other->ndim &&
           memcmp(one->shape + 1, other->shape + 1, (one->ndim - 1) * sizeof(*one->shape)) == 0;
}

int bridge_gather(Op **ops, int n, int input, void *into, uint64_t size) {
    uint64_t at = 0;
    for (int i = 0; i < n; i++) {
        if (ops[i]->id != ops[0]->id || ops[i]->ninputs != ops[0]->ninputs) return -1;
        const Tensor *tensor = ops[i]->inputs[input];
        if (!fits(tensor, ops[0]->inputs[input]) || tensor->size > size - at) return -1;
        memcpy((char *)into + at, tensor->data, tensor->size);
        at += tensor->size;
    }
    return at == size ? 0 : -1;
}

int bridge_scatter(Op **ops, int n, int output, int dtype, int ndim, const int64_t *shape, const void *data,
                   uint64_t size) {
    if (ndim == 0 || ndim > TENSOR_MAX_DIMS) return -1;
    int64_t rows = 0;
    for (int i = 0; i < n; i++) rows += ops[i]->rows;
    if (rows != shape[0]) return -1;

    uint64_t row = size / rows;
    int64_t part[TENSOR_MAX_DIMS];
    memcpy(part, shape, ndim * sizeof(*shape));
    const char *at = data;
    for (int i = 0; i < n; i++) {
        part[0] = ops[i]->rows;
        bridge_set_output(ops[i], output, dtype, ndim, part, at, row * ops[i]->rows, NULL);
        at += row * ops[i]->rows;
    }
    return 0;
}

void bridge_batch_ran(Op **ops, int n, int64_t duration) {
    int64_t rows = 0;
    for (int i = 0; i < n; i++) {
        ops[i]->duration = duration;
        ops[i]->state->batch_total = -1;
        rows += ops[i]->rows;
    }
    ops[0]->state->batch_total = rows < INT32_MAX ? (int32_t)rows : INT32_MAX;
}
