/* onnxruntime.c - runs by ONNX Runtime's C API (direct.h). Workers, without the GIL; no state.
 *
 * A status, NULL where all went well, is what functions return. */
#include <stdio.h>
#include <string.h>

#include "direct/direct.h"
#include "engine/options.h"
#include "redis/api.h"
#include "values/backend.h"
#include "values/tensor.h"

static void *set_output(const OnnxApi *api, Op *op, int index, void *value) {
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
    int dtype = dtype_from_library(type, BACKEND_ONNX);
    uint64_t size = dtype < 0 ? 0 : length * dtype_size(dtype);
    bridge_set_output(op, index, dtype, (int)ndim, shape, data, size, NULL);
    return NULL;
}

/* The text of the status, which is released. */
static char *error_of(const OnnxApi *api, void *status, int is_ended) {
    const char *text = api->GetErrorMessage(status);
    size_t size = strlen(text) + 96;
    char *error = RedisModule_Alloc(size);
    if (is_ended) {
        snprintf(error, size, "%s (the run took more than MODEL_EXECUTION_TIMEOUT, %lld ms)", text,
                 (long long)model_execution_timeout());
    } else {
        strcpy(error, text);
    }
    api->ReleaseStatus(status);
    return error;
}

char *onnx_run(const Direct *direct, Op *op) {
    const OnnxApi *api = direct->api;
    void *inputs[DIRECT_MAX] = {NULL}, *outputs[DIRECT_MAX] = {NULL}, *options = NULL;
    int is_ended = 0;
    void *status = api->CreateRunOptions(&options); /* of this run alone: ending it must not end the next */
    for (int i = 0; i < op->ninputs && !status; i++) {
        const Tensor *tensor = op->inputs[i];
        status = api->CreateTensorWithDataAsOrtValue(direct->memory, tensor->data, tensor->size, tensor->shape,
                                                     tensor->ndim, bridge_dtype(tensor->dtype)->onnx, &inputs[i]);
    }
    if (!status) {
        backend_count_onnx_run();
        watch_begin(op, options, api->RunOptionsSetTerminate);
        direct_call_begins(direct, op);
        status = api->Run(direct->session, options, direct->inputs, (const void *const *)inputs, op->ninputs,
                          direct->outputs, op->noutputs, outputs);
        direct_call_ends(op);
        is_ended = watch_end();
    }
    for (int i = 0; i < op->noutputs; i++) {
        if (!status && outputs[i]) status = set_output(api, op, i, outputs[i]);
        if (outputs[i]) api->ReleaseValue(outputs[i]);
    }
    for (int i = 0; i < op->ninputs; i++) {
        if (inputs[i]) api->ReleaseValue(inputs[i]);
    }
    if (options) api->ReleaseRunOptions(options);
    return status ? error_of(api, status, is_ended) : NULL;
}
