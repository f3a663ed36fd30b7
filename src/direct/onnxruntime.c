/* onnxruntime.c - runs by ONNX Runtime's C API (direct.h). Workers, without the GIL; no state.
 *
 * A status, NULL where all went well, is what functions return. */
#include "direct/direct.h"
#include "redis/api.h"
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

char *onnx_run(const Direct *direct, Op *op, const void *options) {
    const OnnxApi *api = direct->api;
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
        if (!status && outputs[i]) status = set_output(api, op, i, outputs[i]);
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
