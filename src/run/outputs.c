/* outputs.c - what a worker gives back for an op: tensors or an error (bridge.h). Workers; no state. */
#include "run/state.h"
#include "values/tensor.h"

void bridge_fail(Op *op, const char *message) {
    if (op->state->error == NULL) op->state->error = RedisModule_Strdup(message);
}

int bridge_set_output(Op *op, int index, int dtype, int ndim, const int64_t *shape, const void *data, uint64_t size,
                      const uint64_t *offsets) {
    const OpState *state = op->state;
    if (state->members) return bridge_scatter(state->members, state->nmembers, index, dtype, ndim, shape, data, size);
    const char *error = "output has an impossible index, type or number of dimensions";
    if (size > bridge_max_tensor_bytes()) {
        error = "output exceeds the limit for one tensor (proto-max-bulk-len)";
    } else if (ndim > TENSOR_MAX_DIMS) {
        error = "an output has more than 64 dimensions";
    } else if (index >= 0 && index < op->noutputs && ndim >= 0 && dtype_row(dtype)) {
        Tensor *tensor =
            size < TENSOR_LARGE
                ? tensor_from_data(dtype, ndim, shape, data, size, offsets, &error)
                : tensor_from_string(dtype, ndim, shape, RedisModule_CreateString(NULL, data, size), offsets, &error);
        if (tensor) {
            if (op->outputs[index]) tensor_unref(op->outputs[index]);
            op->outputs[index] = tensor;
            return 0;
        }
    }
    bridge_fail(op, error);
    return -1;
}
