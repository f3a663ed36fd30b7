/* tensorflow.c - runs by TensorFlow's C API (direct.h). Workers, without the GIL; no state. */
#include "direct/direct.h"
#include "redis/api.h"
#include "values/tensor.h"

/* The memory of an input stays the tensor's. */
static void keep(void *data, size_t size, void *unused) {}

static void set_output(const TfApi *api, Op *op, int index, const void *tensor) {
    int64_t shape[TENSOR_MAX_DIMS];
    int ndim = api->TF_NumDims(tensor);
    for (int i = 0; i < ndim && i < TENSOR_MAX_DIMS; i++) shape[i] = api->TF_Dim(tensor, i);
    bridge_set_output(op, index, dtype_from_library(api->TF_TensorType(tensor), BACKEND_TF), ndim, shape,
                      api->TF_TensorData(tensor), api->TF_TensorByteSize(tensor), NULL);
}

char *tf_run(const Direct *direct, Op *op) {
    const TfApi *api = direct->api;
    void *inputs[DIRECT_MAX], *outputs[DIRECT_MAX] = {NULL}, *status = api->TF_NewStatus();
    for (int i = 0; i < op->ninputs; i++) {
        const Tensor *tensor = op->inputs[i];
        inputs[i] = api->TF_NewTensor(bridge_dtype(tensor->dtype)->tf, tensor->shape, tensor->ndim, tensor->data,
                                      tensor->size, keep, NULL);
    }
    direct_call_begins(direct, op);
    api->TF_SessionRun(direct->session, NULL, direct->inputs, inputs, op->ninputs, direct->outputs, outputs,
                       op->noutputs, NULL, 0, NULL, status);
    direct_call_ends(op);
    for (int i = 0; i < op->ninputs; i++) api->TF_DeleteTensor(inputs[i]);
    char *error = api->TF_GetCode(status) ? RedisModule_Strdup(api->TF_Message(status)) : NULL;
    for (int i = 0; i < op->noutputs; i++) {
        if (outputs[i] && !error) set_output(api, op, i, outputs[i]);
        if (outputs[i]) api->TF_DeleteTensor(outputs[i]);
    }
    api->TF_DeleteStatus(status);
    return error;
}
