/* torch.c - runs by our C++ beside PyTorch (direct.h, backends/redisai_torch/runner.cpp). Workers, without the GIL. */
#include "direct/direct.h"
#include "redis/api.h"
#include "values/tensor.h"

static void set_outputs(const TorchApi *api, Op *op, const void *outputs) {
    for (int i = 0; i < op->noutputs; i++) {
        TorchTensor tensor;
        api->redisai_torch_get(outputs, i, &tensor);
        bridge_set_output(op, i, dtype_from_library((int)tensor.type, BACKEND_TORCH), (int)tensor.ndim, tensor.shape,
                          tensor.data, tensor.size, NULL);
    }
}

/* A model may give more outputs than the client wants; a script, where it wants none. Python says what is wrong with a
 * dtype. */
static int are_wanted(const TorchApi *api, const Op *op, const void *outputs) {
    int count = api->redisai_torch_count(outputs);
    if (count < op->noutputs || (op->function && op->noutputs && count > op->noutputs)) return 0;
    for (int i = 0; i < op->noutputs; i++) {
        TorchTensor tensor;
        api->redisai_torch_get(outputs, i, &tensor);
        if (dtype_from_library((int)tensor.type, BACKEND_TORCH) < 0) return 0;
    }
    return 1;
}

/* Python runs the op anew after an error, and finds out why. A script that calls Redis or runs models is not run anew:
 * Python goes on with what it has given. */
char *torch_run(const Direct *direct, Op *op) {
    const TorchApi *api = direct->api;
    TorchTensor inputs[DIRECT_MAX];
    for (int i = 0; i < op->ninputs; i++) {
        const Tensor *tensor = op->inputs[i];
        inputs[i] =
            (TorchTensor){tensor->data, tensor->shape, tensor->ndim, bridge_dtype(tensor->dtype)->torch, tensor->size};
    }
    TorchCall call = {op->function ? op->function : "forward",
                      inputs,
                      op->keys,
                      op->args,
                      op->ninputs,
                      op->nkeys,
                      op->nargs,
                      op,
                      &script_host};
    void *outputs = NULL;
    direct_call_begins(direct, op);
    int succeeded = api->redisai_torch_run(direct->session, &call, &outputs) == 0;
    direct_call_ends(op);
    int wanted = succeeded && are_wanted(api, op, outputs);
    if (wanted) set_outputs(api, op, outputs);
    if (succeeded) api->redisai_torch_free(outputs, wanted);
    return wanted ? NULL : RedisModule_Strdup("failed");
}
