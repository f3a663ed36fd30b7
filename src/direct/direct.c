/* direct/direct.c - runs of models by the C API of their library, without Python (bridge.h).
 *
 * Workers enter, without the GIL; no locks, no state. A worker's own part of a run of a tiny model falls from 5 us to
 * 1 us so, and the workers of several queues do not wait for each other. Only what is common is done here: numbers in,
 * numbers out, no errors. Everything else is Python's to run or to explain. */
#include <string.h>

#include "bridge.h"
#include "redis/api.h"
#include "redis/clock.h"
#include "values/tensor.h"

/* ---- ONNX Runtime ------------------------------------------------------------------------------------------------ */

static void *onnx_output(const OnnxApi *api, Op *op, int index, void *value) {
    void *info, *data = NULL;
    void *status = api->GetTensorTypeAndShape(value, &info);
    if (status) return status;
    int type = 0;
    size_t ndim = 0, length = 0;
    int64_t shape[TENSOR_MAX_DIMS];
    status = api->GetTensorElementType(info, &type);
    if (!status) status = api->GetDimensionsCount(info, &ndim);
    if (!status) status = api->GetDimensions(info, shape, ndim < TENSOR_MAX_DIMS ? ndim : TENSOR_MAX_DIMS);
    if (!status) status = api->GetTensorShapeElementCount(info, &length);
    if (!status) status = api->GetTensorMutableData(value, &data);
    api->ReleaseTensorTypeAndShapeInfo(info);
    if (status) return status;
    int dtype = dtype_from_onnx(type);
    uint64_t size = dtype < 0 ? 0 : length * dtype_size(dtype);
    bridge_set_output(op, index, dtype, (int)ndim, shape, data, size);
    return NULL;
}

static char *run_onnx(const Direct *direct, Op *op, const void *options) {
    const OnnxApi *api = direct->onnx;
    void *inputs[DIRECT_MAX] = {NULL}, *outputs[DIRECT_MAX] = {NULL}, *status = NULL;
    for (int i = 0; i < op->ninputs && !status; i++) {
        const Tensor *tensor = op->inputs[i];
        status = api->CreateTensorWithDataAsOrtValue(direct->memory, tensor->data, tensor->size, tensor->shape,
                                                     tensor->ndim, bridge_dtype(tensor->dtype)->onnx, &inputs[i]);
    }
    if (!status) {
        status = api->Run(direct->session, options, direct->inputs, (const void *const *)inputs, op->ninputs,
                          direct->outputs, op->noutputs, outputs);
    }
    for (int i = 0; i < op->noutputs; i++) {
        if (!status && outputs[i]) status = onnx_output(api, op, i, outputs[i]);
        if (outputs[i]) api->ReleaseValue(outputs[i]);
    }
    for (int i = 0; i < op->ninputs; i++) {
        if (inputs[i]) api->ReleaseValue(inputs[i]);
    }
    if (!status) return NULL;
    char *error = RedisModule_Strdup(api->GetErrorMessage(status));
    api->ReleaseStatus(status);
    return error;
}

/* ---- TensorFlow -------------------------------------------------------------------------------------------------- */

/* The memory of an input stays the tensor's. */
static void keep(void *data, size_t size, void *unused) {
    (void)data;
    (void)size;
    (void)unused;
}

static void tf_output(const TfApi *api, Op *op, int index, const void *tensor) {
    int64_t shape[TENSOR_MAX_DIMS];
    int ndim = api->TF_NumDims(tensor);
    for (int i = 0; i < ndim && i < TENSOR_MAX_DIMS; i++) shape[i] = api->TF_Dim(tensor, i);
    bridge_set_output(op, index, dtype_from_tf(api->TF_TensorType(tensor)), ndim, shape, api->TF_TensorData(tensor),
                      api->TF_TensorByteSize(tensor));
}

static char *run_tf(const Direct *direct, Op *op) {
    const TfApi *api = direct->tf;
    void *inputs[DIRECT_MAX], *outputs[DIRECT_MAX] = {NULL}, *status = api->TF_NewStatus();
    for (int i = 0; i < op->ninputs; i++) {
        const Tensor *tensor = op->inputs[i];
        inputs[i] = api->TF_NewTensor(bridge_dtype(tensor->dtype)->tf, tensor->shape, tensor->ndim, tensor->data,
                                      tensor->size, keep, NULL);
    }
    api->TF_SessionRun(direct->session, NULL, direct->inputs, inputs, op->ninputs, direct->outputs, outputs,
                       op->noutputs, NULL, 0, NULL, status);
    for (int i = 0; i < op->ninputs; i++) api->TF_DeleteTensor(inputs[i]);
    char *error = api->TF_GetCode(status) ? RedisModule_Strdup(api->TF_Message(status)) : NULL;
    for (int i = 0; i < op->noutputs; i++) {
        if (outputs[i] && !error) tf_output(api, op, i, outputs[i]);
        if (outputs[i]) api->TF_DeleteTensor(outputs[i]);
    }
    api->TF_DeleteStatus(status);
    return error;
}

/* ---- ops --------------------------------------------------------------------------------------------------------- */

static int fits(const Direct *direct, const Op *op) {
    if (op->ninputs != direct->ninputs || op->noutputs != direct->noutputs) return 0;
    for (int i = 0; i < op->ninputs; i++) {
        if (op->inputs[i]->dtype != direct->types[i] || op->inputs[i]->owner) return 0;
    }
    return 1;
}

int bridge_run_direct(const Direct *direct, Op **ops, int n, int64_t until, const void *options, char **error) {
    uint64_t id = ops[0]->id;
    int64_t begin = monotonic_ns();
    int done = 0;
    while (done < n && ops[done]->id == id && fits(direct, ops[done]) && (done == 0 || begin < until)) {
        Op *op = ops[done];
        if (bridge_is_awaited(op)) { /* others may have taken their time since it was begun */
            *error = direct->onnx ? run_onnx(direct, op, options) : run_tf(direct, op);
            int64_t end = monotonic_ns();
            op->duration = (end - begin) / 1000;
            begin = end;
            if (*error) break;
        }
        done++;
    }
    return done;
}
