/* script_models.c - redis.execute and redisAI.model_execute of scripts that C++ runs (direct.h). Workers, without the
 * GIL; no state.
 *
 * Models have no effects but their outputs. So whatever is unusual about one is left to Python, which begins anew. */
#include "direct/direct.h"
#include "redis/clock.h"
#include "run/run.h"
#include "values/runnable.h"
#include "values/tensor.h"

/* A run of the model that is in no queue; NULL: its inputs do not fit. It holds the model. */
static Run *new_run(Model *model, const TorchTensor *inputs, int ninputs, int noutputs) {
    if (ninputs > DIRECT_MAX || noutputs < 0 || noutputs > DIRECT_MAX) return NULL;
    for (int i = 0; i < ninputs; i++) {
        if (inputs[i].ndim > TENSOR_MAX_DIMS || dtype_from_library((int)inputs[i].type, BACKEND_TORCH) < 0) return NULL;
    }
    Run *run = run_new(1, ninputs + noutputs, ninputs, 0);
    for (int i = 0; i < ninputs; i++) {
        int dtype = dtype_from_library((int)inputs[i].type, BACKEND_TORCH);
        const char *data = inputs[i].size ? inputs[i].data : "";
        run->slots[i] = tensor_view(dtype, (int)inputs[i].ndim, inputs[i].shape, data, inputs[i].size, NULL);
    }
    batch_describe(run_add_op(run, runnable_ref(&model->base), NULL, ninputs, ninputs, noutputs));
    return run;
}

static int has_outputs(const Op *op) {
    for (int i = 0; i < op->noutputs; i++) {
        if (op->outputs[i] == NULL) return 0;
    }
    return op->state->error == NULL;
}

/* Returns whether the op has its outputs. */
static int run_op(Op *op, int64_t *duration, char **failure) {
    Direct *direct = runnable_is_ready(op->runnable) ? direct_of(op) : NULL;
    if (direct == NULL || direct->noutputs != op->noutputs) return 0; /* Python counts outputs that vary */
    int64_t begin = monotonic_ns();
    *failure = direct_run_of(direct)(direct, op);
    *duration = (monotonic_ns() - begin) / 1000;
    return *failure == NULL && has_outputs(op);
}

static Run *run_model(Op *op, Bytes key, const TorchTensor *inputs, int ninputs, int noutputs, char **failure) {
    *failure = NULL;
    Model *model = bridge_hold_model(op, key, failure);
    if (model == NULL) {
        RedisModule_Free(*failure);
        *failure = NULL;
        return NULL;
    }
    Run *run = new_run(model, inputs, ninputs, noutputs);
    int64_t duration = -1, samples = 0;
    int succeeded = run && run_op(run->ops, &duration, failure);
    if (succeeded && noutputs) {
        const Tensor *first = run->ops->outputs[0];
        samples = first->ndim ? first->shape[0] : 1;
    }
    bridge_release_model(model, succeeded ? duration : -1, samples, 0, 1); /* Python counts what fails */
    if (succeeded || run == NULL) return run;
    run_unref(run);
    return NULL;
}

static void get_output(const Run *run, int index, TorchTensor *output) {
    const Tensor *tensor = run->ops->outputs[index];
    *output =
        (TorchTensor){tensor->data, tensor->shape, tensor->ndim, bridge_dtype(tensor->dtype)->torch, tensor->size};
}

static void free_text(char *text) { RedisModule_Free(text); }

const TorchHost script_host = {bridge_call, bridge_free_reply, run_model, get_output, run_unref, free_text};
